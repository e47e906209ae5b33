"""The connections of a network, the weights of its convolutions and linear layers: which are gone, and keeping them so."""

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from evo.errors import SettingsError, unknown_name
from evo.network.origin import origin_of
from evo.network.template import LAYERS, TRANSPOSED
from evo.training.hooks import Hook


@dataclass(eq=False)
class Connections:
    """The connections of one layer, one per entry of its weight; of several layers that share it.

    Attributes:
        name: dotted name of the layer, the first one that has the weight.
        tensor: dotted name of the weight.
        weight: it.
        modules: all layers that have it.
        gone: which connections have been removed, boolean, of the weight's shape and layout.
    """

    name: str
    tensor: str
    weight: nn.Parameter
    modules: list[nn.Module]
    gone: Tensor = field(init=False)

    def __post_init__(self) -> None:
        zero = self.weight.detach() == 0
        # A layer that is all zeros has been initialised like that, it has not lost its connections.
        self.gone = torch.zeros_like(zero) if bool(zero.all()) else zero

    @property
    def alive(self) -> int:
        """Number of connections that are left."""
        return self.gone.numel() - int(self.gone.sum())

    @property
    def _transposed(self) -> bool:
        return isinstance(self.modules[0], TRANSPOSED)

    @property
    def _groups(self) -> int:
        return getattr(self.modules[0], "groups", 1)

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return self.weight.shape[0] if self._transposed else self.weight.shape[1] * self._groups

    def channel_dim(self, inputs: Tensor) -> int:
        """Return which dimension of the layer's `inputs`, batched or not, has the channels."""
        return inputs.dim() - (self.weight.dim() - 1)

    def of_inputs(self, values: Tensor) -> Tensor:
        """Give every connection the value of the input channel that it reads.

        Args:
            values: shape (input channels,).

        Returns:
            What broadcasts to the weight's shape.
        """
        rest = [1] * (self.weight.dim() - 2)
        if self._transposed:
            return values.view(-1, 1, *rest)
        per_filter = values.view(self._groups, 1, -1).expand(-1, self.weight.shape[0] // self._groups, -1)
        return per_filter.reshape(self.weight.shape[0], -1, *rest)

    def by_unit(self, values: Tensor) -> Tensor:
        """Return `values`, shaped like the weight, as (output channels, connections into each)."""
        if self._transposed:
            values = values.reshape(self._groups, -1, *values.shape[1:]).transpose(1, 2).flatten(0, 1)
        return values.reshape(values.shape[0], -1)

    def from_units(self, values: Tensor) -> Tensor:
        """Undo `by_unit`."""
        shape = self.weight.shape
        if self._transposed:
            values = values.view(self._groups, shape[1], -1, *shape[2:]).transpose(1, 2)
        return values.reshape(shape)


def connections_of(model: nn.Module, layers: Sequence[str] = ("*",)) -> list[Connections]:
    """Return the connections of every layer that learns, in module order.

    Left out are weights that other modules use as well, such as embeddings, and those that are computed anew in every
    forward pass (weight and spectral normalisation).

    Args:
        model: any network.
        layers: names or patterns ("features.*") of the layers that count.

    Raises:
        SettingsError: a pattern matches no such layer, or the network has none.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[int, Connections] = {}
    foreign: set[int] = set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight") if isinstance(module, LAYERS) else None
        foreign |= {id(held) for held in module._parameters.values() if held is not weight}
        if weight is None or not weight.requires_grad:
            continue
        if id(weight) in found:
            found[id(weight)].modules.append(module)
        else:
            found[id(weight)] = Connections(name, names[id(weight)], weight, [module])
    usable = [entry for key, entry in found.items() if key not in foreign]
    for pattern in layers:
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for entry in usable):
            raise SettingsError(f"layers: {unknown_name('layer', pattern, [entry.name for entry in usable])}")
    return [entry for entry in usable if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in layers)]


def sparsity(model: nn.Module) -> float:
    """Return the share of the weights of convolutions and linear layers that are exactly 0, in [0, 1].

    Weights that are computed anew in every forward pass are left out.
    """
    left, count = connections_left(model)
    return (count - left) / max(1, count)


def connections_left(model: nn.Module) -> tuple[int, int]:
    """Return how many of the weights that `sparsity` counts are not 0, and how many there are."""
    held = [module._parameters.get("weight") for module in model.modules() if isinstance(module, LAYERS)]
    weights = {id(weight): weight for weight in held if weight is not None}.values()
    return sum(int((weight != 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)


class Masking(Hook, ABC):
    """Keeps connections that are gone at exactly 0, whatever the optimiser does; says when, but not which, are to go.

    A layer whose weights have one bit, and so cannot be 0, stays whole. Connections that are 0 at the beginning are gone
    already: what was pruned once stays so. A removed weight has no gradient and is put back to 0 after every step, so that
    neither momentum nor Adam nor weight decay brings it back.

    Attributes:
        connections: those of every layer, in module order; empty before `begin`.
        step: steps done.
    """

    def __init__(self, layers: Sequence[str] = ("*",)) -> None:
        self.layers = tuple(layers)
        self.connections: list[Connections] = []
        self.step = 0

    def begin(self, model: nn.Module) -> None:
        """Find the connections.

        Raises:
            SettingsError: a pattern of `layers` matches no layer.
        """
        blueprint = origin_of(model).blueprint
        bits = {} if blueprint is None else blueprint.bits
        self.connections = [entry for entry in connections_of(model, self.layers) if bits.get(entry.name) != 1]

    @torch.no_grad()
    def before_step(self) -> None:
        """Take the gradients of what is gone away."""
        for entry in self.connections:
            if entry.weight.grad is not None:
                entry.weight.grad.masked_fill_(entry.gone, 0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Put what is gone back to 0, and let more go if it is time to."""
        self.step += 1
        self.remove()
        for entry in self.connections:
            entry.weight.masked_fill_(entry.gone, 0)

    @abstractmethod
    def remove(self) -> None:
        """Mark in `connections` what is to go after this step, which `step` numbers from 1."""

    @torch.no_grad()
    def end(self) -> None:
        """If the weights are those of an earlier epoch, what went later is there again."""
        for entry in self.connections:
            entry.gone &= entry.weight == 0

    def tensors(self) -> dict[str, Tensor]:
        """Return the number of steps, and what is gone."""
        gone = {f"gone.{entry.tensor}": entry.gone for entry in self.connections}
        return {"step": torch.tensor(self.step), **gone}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self.step = int(tensors["step"])
        for entry in self.connections:
            entry.gone.copy_(tensors[f"gone.{entry.tensor}"])
