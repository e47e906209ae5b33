"""Low-bit networks that really compute with 8-bit integers, on processors for which torch has the kernels."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from evo.errors import NetworkError
from evo.quantization.uniform import QUANTISABLE, TRANSPOSED, represent

if TYPE_CHECKING:
    from torch.ao.quantization import QConfigMapping

BITS = 8
ENGINES = ("x86", "onednn", "fbgemm", "qnnpack")
"""torch's integer kernels, the preferred first."""


def int8(model: nn.Module, images: Tensor, *, batch_size: int = 100) -> nn.Module:
    """Return a copy of `model` whose convolutions and linear layers multiply 8-bit integers, with torch's kernels for them.

    Weights that lie on a grid of 8 bits or fewer, as those of a network fine-tuned with bits do, stay exactly what they are;
    others are rounded to 8 bits. Batch normalisation is folded into the layer before it. What flows between layers is rounded
    to integers, too, of ranges that `images` show; that makes its results differ from the original's, so measure its error
    (`evo.error_rate`). Integers are faster than floats only where the processor multiplies them faster: measure that as well
    (`evo.network.latency`). The copy has no parameters to train and cannot be saved as .evo; keep the original.

    Args:
        model: left as it is; in floating point, on the CPU.
        images: to calibrate with, shape (N, …): training images, a few hundred of them.
        batch_size: images at once.

    Raises:
        NetworkError: torch has no integer kernels here, its tracer cannot follow the network, which then has to be written
            without branches on tensors or shapes, or a layer has no such kernel.
    """
    _check(model, images)
    bits = {name: _bits(module) for name, module in _layers(model)}
    with _engine(), warnings.catch_warnings(), torch.no_grad():
        # torch.ao.quantization points to a package of its own, and complains of its own defaults; it is part of every torch
        # that this project supports, and the only one whose kernels work without a compiler.
        warnings.simplefilter("ignore")
        try:
            return _converted(copy.deepcopy(model).eval(), bits, images, batch_size)
        except NetworkError:
            raise
        except Exception as error:  # what a tracer and kernels raise is of many kinds
            why = " ".join(str(error).split()) or type(error).__name__
            raise NetworkError(f"{type(model).__name__} cannot be converted to 8-bit integers: {why[:300]}") from error


def _check(model: nn.Module, images: Tensor) -> None:
    if not any(True for _ in _layers(model)):
        raise NetworkError(f"{type(model).__name__} has no convolutional or linear layer to run in 8-bit integers")
    transposed = [name for name, module in _layers(model) if isinstance(module, TRANSPOSED)]
    if transposed:
        raise NetworkError(
            f"{transposed[0]}: torch has no integer kernel for transposed convolutions with a scale per channel"
        )
    if images.dim() < 2 or not len(images) or not images.is_floating_point():
        raise NetworkError(
            f"int8: expected images of real numbers to calibrate with, shape (N, …), got {images.dtype} "
            f"of shape {tuple(images.shape)}"
        )


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QUANTISABLE))


def _bits(layer: nn.Module) -> int:
    """Return the fewest bits, up to 8, whose grid the weight lies on; 8 if it lies on none."""
    weight = layer.get_parameter("weight").detach()
    return next((bits for bits in range(1, BITS) if represent(weight, bits) is not None), BITS)


def _converted(model: nn.Module, bits: dict[str, int], images: Tensor, batch_size: int) -> nn.Module:
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    observed = prepare_fx(model, _mapping(bits), (images[:1],))
    for batch in torch.split(images, batch_size):
        observed(batch.clone())  # it may work in place
    converted = convert_fx(observed)
    _keep_rank(converted)
    _rejoin(converted, images[:1])
    left = [name for name, _ in _layers(converted)]
    if left:
        raise NetworkError(f"{left[0]}: torch has no integer kernel for this layer")
    return converted.eval()


def _keep_rank(converted: GraphModule) -> None:
    """Average maps over their positions without losing a dimension first, and flatten then, in place.

    torch's mean of integers whose channels lie last, as those of a 1×1 map do, fails with fewer dimensions left than four.
    """
    for node in list(converted.graph.nodes):
        if (node.op, node.target) not in (("call_method", "mean"), ("call_function", torch.mean)):
            continue
        dims, kept = (*node.args[1:], None, None)[:2]
        dims, kept = dims or node.kwargs.get("dim"), kept or node.kwargs.get("keepdim")
        if (
            not kept
            and "dtype" not in node.kwargs
            and isinstance(dims, tuple | list)
            and tuple(dims) in ((2, 3), (-2, -1))
        ):
            node.args, node.kwargs = (node.args[0], dims, True), {}
            with converted.graph.inserting_after(node):
                flat = converted.graph.call_method("flatten", (node, 1))
            node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)
    converted.recompile()


def _rejoin(converted: GraphModule, image: Tensor) -> None:
    """Let every concatenation of integers with different steps bring them to one, in place.

    The kernel that torch puts there takes all for integers of the first one's step.
    """
    seen: dict[Node, tuple[float, int]] = {}

    class Watching(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if n.op == "call_function" and n.target is torch.cat:
                parts = self.fetch_args_kwargs_from_env(n)[0][0]
                if all(part.is_quantized for part in parts):
                    ranges = {(part.q_scale(), part.q_zero_point()) for part in parts}
                    if len(ranges) > 1:
                        seen[n] = _joint(ranges)
            return result

    Watching(converted).run(image.clone())
    for node, (scale, zero_point) in seen.items():
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        node.target, node.kwargs = torch.ops.quantized.cat.default, {}
        node.args = (node.args[0], dim, scale, zero_point)
    converted.recompile()


def _joint(ranges: Iterable[tuple[float, int]]) -> tuple[float, int]:
    """Return step and zero of 7-bit integers that reach as far as all of these; torch leaves the eighth bit unused."""
    low = min(-zero * step for step, zero in ranges)
    high = max((127 - zero) * step for step, zero in ranges)
    scale = (high - low) / 127
    return scale, round(-low / scale)


def _mapping(bits: dict[str, int]) -> "QConfigMapping":
    """Return what torch needs to know: for every layer the range of its integers, −(2^(b−1)−1) to 2^(b−1)−1."""
    from torch.ao.quantization import PerChannelMinMaxObserver, QConfig, get_default_qconfig_mapping

    mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
    assert mapping.global_qconfig is not None
    activation = mapping.global_qconfig.activation
    for name, count in bits.items():
        largest = max(1, (1 << (count - 1)) - 1)
        # Folding a scale per channel into the weights keeps them on their grid: the observer finds its new step.
        weight = PerChannelMinMaxObserver.with_args(
            dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-largest, quant_max=largest
        )
        mapping.set_module_name(name, QConfig(activation=activation, weight=weight))  # type: ignore[no-untyped-call]
    return mapping


@contextmanager
def _engine() -> Iterator[None]:
    """Let torch use the best integer kernels of this machine meanwhile.

    Raises:
        NetworkError: there are none.
    """
    there = torch.backends.quantized.supported_engines
    best = next((engine for engine in ENGINES if engine in there), None)
    if best is None:
        raise NetworkError(f"torch has no integer kernels on this machine; it knows {', '.join(there) or 'none'}")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = best
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
