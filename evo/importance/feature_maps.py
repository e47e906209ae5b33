"""Norms of the feature maps of all layers that produce channels, streamed over images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evo.errors import NetworkError
from evo.importance.filters import FloatArray, producing_cuts
from evo.importance.retained_norm import retained_norms
from evo.network import Network, evaluating
from evo.network.template import LAYERS
from evo.training.data import Samples
from evo.training.inference import CPU, layout_of, place

OUTPUT = 2**24
"""Numbers that a layer returns at most in one forward pass, unless it is of one image."""

CHUNK = 2**23
"""Numbers of feature maps that are analysed at a time."""


def producers(network: Network) -> Iterator[str]:
    """Yield the layers that produce a network's channels and are modules, each once, in the order of groups."""
    modules = dict(network.build(network.full).named_modules())
    names = (layer for group in network.groups for layer, _ in producing_cuts(network, group))
    yield from (name for name in dict.fromkeys(names) if isinstance(modules.get(name), LAYERS))


@dataclass(frozen=True)
class NormStatistics:
    """Mean and spread of the norms of every output of a layer; the sum of two is that of all maps of both.

    Attributes:
        count: maps per output.
        mean: shape (outputs,).
        squares: sums of squared deviations from the mean, likewise.
    """

    count: int
    mean: FloatArray
    squares: FloatArray

    @classmethod
    def of(cls, norms: FloatArray) -> "NormStatistics":
        """Take norms, shape (maps, outputs)."""
        mean = norms.mean(0)
        return cls(len(norms), mean, np.square(norms - mean).sum(0))

    def __add__(self, other: "NormStatistics") -> "NormStatistics":
        """Join them (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + np.square(apart) * (self.count * other.count / count)
        return NormStatistics(count, mean, squares)

    @property
    def variation(self) -> FloatArray:
        """The coefficient of variation (eq. 3), shape (outputs,); 0 where the mean is."""
        deviation = np.sqrt(self.squares / self.count)
        return np.divide(deviation, self.mean, out=np.zeros_like(self.mean), where=self.mean > 0)


@dataclass(frozen=True)
class OutputNorms:
    """What is measured: the layers of a network on some images; travels to a worker once.

    Attributes:
        network: the whole network.
        layers: dotted names of its layers, modules each.
        samples: the images.
        variance: see `retained_norms`.
    """

    network: Network
    layers: tuple[str, ...]
    samples: Samples
    variance: float

    def measure(self, shard: tuple[int, int]) -> dict[str, NormStatistics]:
        """Return the statistics of every layer's maps on the images from `shard[0]` to before `shard[1]`.

        Raises:
            NetworkError: a layer's output is not finite.
        """
        images = self.samples.x[shard[0] : shard[1]]
        layout = layout_of(self.samples)
        model = place(self.network.build(self.network.full), CPU, layout)
        sizes: list[int] = []
        with evaluating(model), _watching(model, self.layers, lambda layer, maps: sizes.append(maps.numel())):
            model(images[:1].clone(memory_format=layout))
        batch = max(1, OUTPUT // max(sizes, default=OUTPUT))
        norms: dict[str, list[FloatArray]] = {}

        def take(layer: str, maps: Tensor) -> None:
            norms.setdefault(layer, []).append(self._norms(layer, maps))

        with evaluating(model), _watching(model, self.layers, take):
            for part in torch.split(images, batch):
                model(part.clone(memory_format=layout))
        return {layer: NormStatistics.of(np.concatenate(parts)) for layer, parts in norms.items()}

    def _norms(self, layer: str, maps: Tensor) -> FloatArray:
        """Return the norms of maps (N, C, H, W), shape (N, C), some images at a time."""
        if not bool(torch.isfinite(maps).all()):
            raise NetworkError(f"{layer}: its output is not finite, so that its filters cannot be compared")
        parts = torch.split(maps, max(1, CHUNK // maps[0].numel()))
        found = [retained_norms(part.flatten(0, 1), self.variance).view(part.shape[:2]) for part in parts]
        return torch.cat(found).numpy()


@contextmanager
def _watching(model: nn.Module, layers: Sequence[str], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `take` with the name and the feature maps, shape (N, C, H, W), of every layer as it returns them."""
    modules = dict(model.named_modules())

    def watch(layer: str) -> RemovableHandle:
        linear = isinstance(modules[layer], nn.Linear)

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            take(layer, _as_maps(output, linear))

        handle: RemovableHandle = modules[layer].register_forward_hook(hook)
        return handle

    handles = [watch(layer) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_maps(output: Tensor, linear: bool) -> Tensor:
    """Return what a layer returned as maps, shape (N, C, H, W); a linear layer has its channels last."""
    if linear:
        output = output.movedim(-1, 1)
    if output.dim() == 2:
        return output[:, :, None, None]
    return output[:, :, None] if output.dim() == 3 else output.flatten(2, -2)
