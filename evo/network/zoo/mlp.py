"""A multilayer perceptron for regression, by default from the seven measurements of the debutaniser column."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.origin import originates

WIDTHS = (64, 64)
"""Units of the hidden layers; the paper on connection appraisal gives none."""


class MLP(nn.Module):
    """Linear layers with ReLU between them. Input (N, features), output (N, outputs), any real numbers."""

    def __init__(self, features: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, units in pairwise((features, *widths)):
            layers += [nn.Linear(inputs, units), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear((features, *widths)[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions."""
        return self.layers(x)  # type: ignore[no-any-return]


@originates
def mlp(outputs: int = 1, *, features: int = 7, widths: Sequence[int] | None = None) -> MLP:
    """Return an untrained multilayer perceptron; 4,737 parameters by default.

    Its weights are drawn as torch does by default: with two or three layers nothing fades.

    Args:
        outputs: predicted quantities.
        features: input quantities.
        widths: units of the hidden layers, as many as there are to be; `WIDTHS` by default.

    Raises:
        SettingsError: a width is not a positive integer.
    """
    hidden = WIDTHS if widths is None else tuple(widths)
    if not all(isinstance(width, int) and width > 0 for width in hidden):
        raise SettingsError(f"mlp: widths are positive integers, got {list(hidden)}")
    return MLP(features, hidden, outputs)
