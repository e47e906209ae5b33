"""A penalty on the absolute weights of some layers more than of others."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from evo.quantization import weight_dim
from evo.training.hooks import Hook


class WeightedL1(Hook):
    """Adds η · Σ factor_l · ‖W_l‖₁ to the loss, over the layers l that have a factor: AdaLayerNet eq. 5 with 1 − I_l.

    In a training with weights of few bits, W are the quantised ones (see `StraightThrough`).
    """

    def __init__(self, eta: float, factors: Mapping[str, float]) -> None:
        """Take η ≥ 0, and factors ≥ 0 by dotted name of convolutional and linear layers."""
        self.eta = eta
        self.factors = dict(factors)
        self._weights: list[tuple[float, nn.Parameter]] = []

    def begin(self, model: nn.Module) -> None:
        """Find the weights.

        Raises:
            NetworkError: there is no such layer, or its weight is computed from other parameters.
        """
        self._weights = [(factor, weight_dim(model, name)[0]) for name, factor in self.factors.items()]

    def penalty(self) -> Tensor | None:
        """Return the penalty; None if no layer has one."""
        terms = [self.eta * factor * weight.abs().sum() for factor, weight in self._weights if self.eta * factor]
        return sum(terms[1:], terms[0]) if terms else None

    def close(self) -> None:
        """Let go of the model."""
        self._weights = []

    def describe(self) -> dict[str, Any]:
        """Return its name, η and the factors."""
        return {**super().describe(), "eta": self.eta, "factors": self.factors}
