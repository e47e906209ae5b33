"""What several networks of the zoo are made of."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from evo.errors import SettingsError


class ConvNorm(nn.Sequential):
    """Convolution that keeps the size of the image at stride 1, batch normalisation and, unless it is None, activation.

    Input (N, inputs, H, W), output (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉) for odd kernels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs))
        if activation is not None:
            parts["activation"] = activation()
        super().__init__(parts)


def initialise(model: nn.Module) -> None:
    """Draw the convolutions' weights anew, with variance 2 / (weights per filter) as He et al. (2015); biases become 0.

    That keeps the variance the same from layer to layer through ReLU, so that deep networks train and gradients at
    initialisation can be compared. torch's own default is smaller by a factor of √6 and lets them fade.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # Not "fan_out": torch takes it as if there were no groups, far too large for a depthwise convolution.
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def checked_widths(network: str, widths: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    """Return `widths`, or `default` in its place.

    Raises:
        SettingsError: there are not as many as in `default`, or one of them is not a positive integer.
    """
    found = tuple(default if widths is None else widths)
    if len(found) != len(default):
        raise SettingsError(f"{network}: widths has {len(found)} entries, expected {len(default)}")
    if not all(isinstance(width, int) and width > 0 for width in found):
        raise SettingsError(f"{network}: widths are positive integers, got {list(found)}")
    return found
