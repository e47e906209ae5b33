"""How much each connection of a layer contributes, compared with the others of its layer."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evo.training.connections import Connections

if TYPE_CHECKING:
    from evo.training.appraisal import Appraisal

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Efficiencies:
    """What is known of one layer's connections (see `ConnectionAppraisal`).

    Attributes:
        connections: they.
        average: moving average of their efficiencies, in means of the layer; what is gone counts no more.
        weak: for how many appraisals each has been weak, up to the patience.
    """

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        weight = connections.weight.detach()
        channels = connections.channels
        self.average = torch.zeros_like(weight)
        self.weak = torch.zeros_like(weight, dtype=torch.int16)
        self.total = torch.zeros(channels, device=weight.device)
        self.seen = torch.zeros((), dtype=torch.float64)
        self.appraised = torch.zeros((), dtype=torch.int64)
        self._handles: list[RemovableHandle] = []
        self._before = connections.gone

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that the next appraisal depends on, by name."""
        names = ("average", "weak", "total", "seen", "appraised")
        return {name: getattr(self, name) for name in names}

    def watch(self) -> None:
        """Begin to add up what the layer reads."""
        if not self._handles:
            modules = self.connections.modules
            self._handles = [module.register_forward_pre_hook(self._see, with_kwargs=True) for module in modules]

    def close(self) -> None:
        """Watch nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _see(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = (args[0] if args else kwargs["input"]).detach()
        dim = self.connections.channel_dim(x)
        others = [other for other in range(x.dim()) if other != dim]
        self.total += x.abs().sum(others, dtype=torch.float32) if others else x.abs().float()
        self.seen += x.numel() / x.shape[dim]

    def appraise(self, settings: "Appraisal") -> int:
        """Update everything, remove what has been weak for too long, and return how many that are."""
        entry = self.connections
        self._before = entry.gone.clone()
        alive = ~entry.gone
        seen = float(self.seen)
        # The optimiser may have moved what is gone: its momentum is only put to rest after this.
        efficiency = entry.weight.detach().abs().masked_fill_(entry.gone, 0)
        efficiency *= entry.of_inputs(self.total / max(1.0, seen))
        mean = float(efficiency.sum(dtype=torch.float64)) / max(1, int(alive.sum()))
        self.total.zero_()
        self.seen.zero_()
        if not mean > 0:
            return 0
        efficiency /= mean
        self.average.lerp_(efficiency, 1 - settings.decay) if self.appraised else self.average.copy_(efficiency)
        self.appraised += 1
        weak = (self.average < settings.threshold) & alive
        self.weak.add_(1).clamp_(max=settings.patience).mul_(weak)
        condemned = self._sparing_units((self.weak >= settings.patience) & alive, alive)
        entry.gone |= condemned
        return int(condemned.sum())

    def _sparing_units(self, condemned: Tensor, alive: Tensor) -> Tensor:
        """Return `condemned` without the strongest connection of each unit that would lose all."""
        entry = self.connections
        doomed, left = entry.by_unit(condemned).clone(), entry.by_unit(alive)
        emptied = ((doomed == left).all(1) & left.any(1)).nonzero()[:, 0]
        strongest = entry.by_unit(self.average)[emptied].masked_fill(~left[emptied], -1).argmax(1)
        doomed[emptied, strongest] = False
        return entry.from_units(doomed)

    def quantiles(self) -> list[float]:
        """Return the `QUANTILES` of the averages of what was alive before the last appraisal."""
        values = self.average[~self._before].cpu().numpy()
        if not len(values):
            return [math.nan] * len(QUANTILES)
        ranks = [round(q * (len(values) - 1)) for q in QUANTILES]
        return [float(value) for value in np.partition(values, ranks)[ranks]]
