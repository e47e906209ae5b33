"""What a zero-shot proxy looks at: an untrained network with batches, and its sizes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.fitness.gradients import Batch, layer_weights, positions_of
from evo.network.modes import evaluating


class Frame(ABC):
    """An untrained network, and what it is scored with."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The network, in training mode; a proxy may change its mode and buffers, but not its weights."""

    @property
    @abstractmethod
    def batches(self) -> Sequence[Batch]:
        """Labelled batches on the network's device, in its type of numbers; at least one."""

    @property
    @abstractmethod
    def seed(self) -> int:
        """Of whatever a proxy draws."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Learnable parameters."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulate operations of convolutional and linear layers for one input."""

    @property
    @abstractmethod
    def layer_sizes(self) -> NDArray[np.int64]:
        """Weights of every convolutional and linear layer, shape (L,)."""

    @property
    @abstractmethod
    def layer_positions(self) -> NDArray[np.int64]:
        """Output positions of every such layer for one input, shape (L,)."""


class ModelFrame(Frame):
    """A network at hand."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch], seed: int) -> None:
        self._model, self._batches, self._seed = model, batches, seed

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        return self._model

    @property
    def batches(self) -> Sequence[Batch]:
        """The batches themselves."""
        return self._batches

    @property
    def seed(self) -> int:
        """The seed."""
        return self._seed

    @property
    def params(self) -> int:
        """Numbers in all parameters."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @cached_property
    def macs(self) -> int:
        """As torch counts them in a forward pass of one input."""
        from torch.utils.flop_counter import FlopCounterMode

        with evaluating(self._model), FlopCounterMode(display=False) as counter:
            self._model(self._batches[0][0][:1])
        return int(counter.get_total_flops()) // 2

    @property
    def layer_sizes(self) -> NDArray[np.int64]:
        """Numbers in the weights."""
        return np.array([weight.numel() for weight in layer_weights(self._model)], dtype=np.int64)

    @cached_property
    def layer_positions(self) -> NDArray[np.int64]:
        """As seen in a forward pass of one input."""
        with evaluating(self._model), positions_of(self._model, layer_weights(self._model)) as positions:
            self._model(self._batches[0][0][:1])
        return np.array(positions, dtype=np.int64)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Let the weights of layers have gradients; restore that, modes and buffers afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    weights = layer_weights(model)
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    # Some layers write into their buffers, others put new ones in their place.
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for parameter, _ in learns:
            parameter.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, before in learns:
            parameter.requires_grad_(before)
        with torch.no_grad():
            for module, name, buffer, content in buffers:
                module._buffers[name] = buffer.copy_(content)


def mean_over(of: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> float:
    """Return the mean over batches of a score that is of one batch."""
    return float(torch.stack([of(batch) for batch in batches]).mean())
