"""Magnitude pruning: the smallest weights go, ever more of them while the network learns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evo.errors import SettingsError, unknown_name
from evo.training.connections import Masking


class MagnitudePruning(Masking):
    """Removes the connections with the smallest weights for good, up to a given sparsity; what appraisal is compared with.

    Gradual, after Zhu and Gupta, "To prune, or not to prune" (2017), eq. 1: at the share p of the time between the first and
    the last removal, s = sparsity · (1 − (1 − p)³) of the connections are gone.
    """

    def __init__(
        self,
        sparsity: float | Mapping[str, float],
        steps: int,
        *,
        every: int = 10,
        start: float = 0.1,
        stop: float = 0.8,
        layers: Sequence[str] = ("*",),
    ) -> None:
        """Prune in a training of so many steps.

        Args:
            sparsity: share of the connections to remove, in [0, 1): of all layers together, which may differ; or of each layer
                by its name, others being left alone.
            steps: of the whole training.
            every: steps between two removals.
            start, stop: shares of the training between which connections are removed.
            layers: names or patterns of the layers that count.

        Raises:
            SettingsError: a sparsity is not in [0, 1), the times are impossible, or nothing can be removed in so few steps.
        """
        super().__init__(layers)
        self.sparsity = dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
        for share in self.sparsity.values() if isinstance(self.sparsity, dict) else [self.sparsity]:
            if not 0 <= share < 1:
                raise SettingsError(f"sparsity: a share of the connections is in [0, 1), got {share!r}")
        if every < 1 or not 0 <= start < stop <= 1:
            raise SettingsError(
                f"expected every ≥ 1 and 0 ≤ start < stop ≤ 1, got every {every}, start {start:g}, stop {stop:g}"
            )
        self.every, self.start, self.stop = every, start, stop
        self._times = [step for step in range(every, steps + 1, every) if start * steps < step <= stop * steps]
        if not self._times:
            raise SettingsError(
                f"steps: got {steps}, but every {every} between {start:.0%} and {stop:.0%} there is none"
            )

    def begin(self, model: torch.nn.Module) -> None:
        """Find the connections.

        Raises:
            SettingsError: `sparsity` or `layers` names a layer that there is not.
        """
        super().begin(model)
        names = [entry.name for entry in self.connections]
        for name in self.sparsity if isinstance(self.sparsity, dict) else ():
            if name not in names:
                raise SettingsError(f"sparsity: {unknown_name('layer', name, names)}")

    def remove(self) -> None:
        """Remove the smallest, if it is time to."""
        if self.step not in self._times:
            return
        progress = (1 + self._times.index(self.step)) / len(self._times)
        share = 1 - (1 - progress) ** 3
        if not isinstance(self.sparsity, dict):
            _remove_smallest([(entry.weight, entry.gone) for entry in self.connections], share * self.sparsity)
            return
        for entry in self.connections:
            _remove_smallest([(entry.weight, entry.gone)], share * self.sparsity.get(entry.name, 0.0))

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        own = {"sparsity": self.sparsity, "times": self._times, "layers": self.layers}
        return {**super().describe(), **own}


def _remove_smallest(tensors: Sequence[tuple[Tensor, Tensor]], share: float) -> None:
    """Mark this share of the weights in (weight, gone) as gone, what is gone already first."""
    sizes = torch.cat([weight.detach().abs().masked_fill(gone, -1).flatten() for weight, gone in tensors])
    smallest = torch.topk(sizes, math.floor(share * len(sizes) + 0.5), largest=False, sorted=False).indices
    chosen = torch.zeros_like(sizes, dtype=torch.bool).index_fill_(0, smallest, True)
    for (_, gone), part in zip(tensors, torch.split(chosen, [gone.numel() for _, gone in tensors]), strict=True):
        gone |= part.view(gone.shape)
