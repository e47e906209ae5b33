"""Operations that know a dimension of channels: shuffles, gates, patches."""

from torch import Tensor

from evo.network.numbers import along, core, settled, varying
from evo.network.rules.call import CONSTANTS, Call
from evo.network.trace import Tracer


def pixel_shuffle(tracer: Tracer, call: Call) -> None:
    """Spread the r² channels of every new channel over space: they are tied."""
    square = call.bound["upscale_factor"] ** 2
    for vector in channel_vectors(tracer, call.inputs[0], call.inputs[0].dim() - 3):
        table = vector.view(-1, square)
        tracer.tie(table, table[:, :1], CONSTANTS)
        tracer.give(call.outputs[0], along(table[:, 0], call.outputs[0].dim() - 3, call.outputs[0].shape))


def pixel_unshuffle(tracer: Tracer, call: Call) -> None:
    """Gather r × r positions of a channel into r² channels, which stand for the same one."""
    square = call.bound["downscale_factor"] ** 2
    for vector in channel_vectors(tracer, call.inputs[0], call.inputs[0].dim() - 3):
        tracer.give(
            call.outputs[0], along(vector.repeat_interleave(square), call.outputs[0].dim() - 3, call.outputs[0].shape)
        )


def unfold(tracer: Tracer, call: Call) -> None:
    """Gather k × k positions of every channel (im2col)."""
    kernel = call.bound["kernel_size"][0] * call.bound["kernel_size"][1]
    for vector in channel_vectors(tracer, call.inputs[0], call.inputs[0].dim() - 3):
        tracer.give(
            call.outputs[0], along(vector.repeat_interleave(kernel), call.outputs[0].dim() - 2, call.outputs[0].shape)
        )


def channel_shuffle(tracer: Tracer, call: Call) -> None:
    """Interleave the channels of g groups: what lies at the same place of each is tied."""
    for vector in channel_vectors(tracer, call.inputs[0], 1):
        table = vector.view(call.bound["groups"], -1)
        tracer.tie(table, table[:1], CONSTANTS)
        tracer.give(call.outputs[0], along(table.t().reshape(-1), 1, call.outputs[0].shape))


def gated_halves(tracer: Tracer, call: Call) -> None:
    """Multiply one half of the channels by a gate made of the other (GLU): the halves are tied."""
    dim = call.bound["dim"] % call.inputs[0].dim()
    half = call.inputs[0].size(dim) // 2
    sets = []
    for numbers in tracer.numbers(call.inputs[0]):
        if dim in varying(numbers):
            tracer.tie(numbers.narrow(dim, 0, half), numbers.narrow(dim, half, half), CONSTANTS)
        sets.append(settled(numbers.narrow(dim, 0, half)))
    tracer.give(call.outputs[0], *sets)


def channel_vectors(tracer: Tracer, tensor: Tensor, dim: int) -> list[Tensor]:
    """Return the numbers of `tensor` along its channels, if that is where they vary; freeze what varies elsewhere."""
    found = []
    for numbers in tracer.numbers(tensor):
        if varying(numbers) == (dim,):
            found.append(core(numbers).reshape(-1))
        else:
            tracer.freeze(numbers, "its channels do not lie along the dimension of channels")
    return found
