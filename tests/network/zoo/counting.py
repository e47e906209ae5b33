"""Costs of a network as its layers report them in one forward pass: independent of the engine's own formulas."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass
class Layer:
    """One convolutional or linear layer: its weights and biases, and what it does for one input, over all its uses."""

    module: nn.Module
    weights: int
    biases: int
    macs: int = 0
    outputs: int = 0


@dataclass
class Counts:
    """Learnable parameters; of convolutional and linear layers the weights, multiply-accumulates and output values.

    `layers` has the latter one by one, `normalised` is the number of values that batch normalisation reads.
    """

    params: int = 0
    weights: int = 0
    macs: int = 0
    outputs: int = 0
    normalised: int = 0
    layers: dict[str, Layer] = field(default_factory=dict)

    def without_norm(self) -> int:
        """Weights and biases of convolutional and linear layers: every parameter but those of batch normalisation."""
        return sum(layer.weights + layer.biases for layer in self.layers.values())

    def operations(self, pooling: int = 0) -> int:
        """Operations as FNP's baselines count them.

        They are ABCPruner's (Lin et al. 2020), whose published code leaves the counting to an early version of thop: a
        convolution's multiply-accumulates and 1 per output for its bias; 4 per value that batch normalisation reads;
        2 · inputs − 1 per output of a linear layer; `pooling`, per output of an average pooling module 1 more than the
        kernel size it was given. Adding, ReLU and maximum pooling are free.
        """
        total = 4 * self.normalised + pooling
        for layer in self.layers.values():
            linear = isinstance(layer.module, nn.Linear)
            total += 2 * layer.macs - layer.outputs if linear else layer.macs + (layer.outputs if layer.biases else 0)
        return total


def count(model: nn.Module, *shapes: tuple[int, ...]) -> Counts:
    """Run `model` on zeros of the given shapes, without the batch, and count for one input; `meta` networks are instant."""
    counts = Counts(params=sum(parameter.numel() for parameter in model.parameters()))
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, COUNTED):
            biases = 0 if module.bias is None else module.bias.numel()
            counts.layers[name] = layer = Layer(module, module.weight.numel(), biases)
            handles.append(module.register_forward_hook(_watch(layer)))
        elif isinstance(module, BATCH_NORMS):
            handles.append(module.register_forward_hook(_watch_norm(counts)))
    device = next(model.parameters()).device
    with torch.no_grad(), _evaluating(model):
        model(*(torch.zeros(1, *shape, device=device) for shape in shapes))
    for handle in handles:
        handle.remove()
    counts.weights = sum(layer.weights for layer in counts.layers.values())
    counts.macs = sum(layer.macs for layer in counts.layers.values())
    counts.outputs = sum(layer.outputs for layer in counts.layers.values())
    return counts


def agrees(value: float, printed: str) -> bool:
    """Whether `value`, rounded or cut off to as many decimals as `printed` has, is what is printed: papers do both."""
    return abs(value - float(printed)) < 10.0 ** -len(printed.partition(".")[2])


def _watch(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.get_parameter("weight")
        # Every value that a transposed convolution reads, and every value that another layer writes, meets one filter.
        values = inputs[0] if isinstance(module, TRANSPOSED) else output
        layer.macs += weight[0].numel() * values.numel()
        layer.outputs += output.numel()

    return hook


def _watch_norm(counts: Counts) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        counts.normalised += inputs[0].numel()

    return hook


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
