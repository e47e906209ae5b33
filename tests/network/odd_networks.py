"""Small networks that are written in unusual ways: bare operations, several inputs, shared state, hidden assumptions."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.network.networks import Between


class Bare(nn.Module):
    """Layers without modules: F.conv2d and F.linear with bare parameters. Width 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(7, channels, 3, 3))
        self.bias = nn.Parameter(torch.randn(7))
        self.matrix = nn.Parameter(torch.randn(5, 7))

    def forward(self, x: Tensor) -> Any:
        x = torch.relu_(F.conv2d(x, self.kernel, self.bias, padding=1))
        return F.linear(x.permute(0, 2, 3, 1), self.matrix).permute(0, 3, 1, 2)


class Einsum(nn.Module):
    """A 1×1 convolution as an einsum, then one as a matrix product. Width 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(7, channels))
        self.other = nn.Parameter(torch.randn(5, 7))

    def forward(self, x: Tensor) -> Any:
        x = torch.einsum("bchw,oc->bohw", x, self.matrix).relu()
        return (self.other @ x.flatten(2)).view(len(x), -1, *x.shape[2:])


class Unfolded(nn.Module):
    """A 3×3 convolution as unfold and a matrix product. Width 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, 7, 1)
        self.matrix = nn.Parameter(torch.randn(7 * 9, 5))

    def forward(self, x: Tensor) -> Any:
        columns = F.unfold(torch.relu(self.enter(x)), 3, padding=1).transpose(1, 2)
        return (columns @ self.matrix).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])


class InPlace(nn.Module):
    """Operations that write to what they read. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, 7, 3, padding=1), nn.Conv2d(channels, 7, 1)
        self.scale = nn.Parameter(torch.ones(1, 7, 1, 1))

    def forward(self, x: Tensor) -> Any:
        y = self.one(x)
        y += self.two(x)
        y = (y * self.scale).add_(0.1).relu_() - 0.5
        y[:, :, 0, :] = 0
        return y.masked_fill_(y < -0.4, 0.25)


class Chosen(nn.Module):
    """torch.where between two branches, by a gate of its own. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two, self.gate = (nn.Conv2d(channels, 7, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        return torch.where(self.gate(x) > 0, self.one(x), self.two(x))


class Unbound(nn.Module):
    """Chunks stacked, unbound and added with learnt scalar weights, one of them a buffer. Width 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 12, 3, padding=1)
        self.gates = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0]))

    def forward(self, x: Tensor) -> Any:
        parts = torch.stack(torch.chunk(self.conv(x), 3, 1), 0)
        weights = torch.softmax(self.gates, 0) * self.get_buffer("mask")
        return sum(weight * part for weight, part in zip(weights, parts.unbind(0), strict=True))


class MaskedBuffer(nn.Module):
    """A mask with an entry per channel, as pruning libraries leave behind. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 1, 0, 1, 1]).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.conv(x) * self.mask


class DividedByWidth(nn.Module):
    """The number of channels enters the values: the mean over channels, written as a sum. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return x / x.shape[1]


class Constant(nn.Module):
    """A channel of constants beside the others: a coordinate. Width 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        row = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype).expand(len(x), 1, *x.shape[2:])
        return torch.cat([x, row], 1)


class Branching(nn.Module):
    """A Python branch that depends on values. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(channels, 7, 3, padding=1), nn.Conv2d(channels, 7, 1)

    def forward(self, x: Tensor) -> Any:
        return self.conv(x) if x.abs().max().item() > 1e9 else self.other(x)


class Noisy(nn.Module):
    """Noise, also in evaluation: in training only it would not matter. Width 7."""

    def __init__(self, channels: int, always: bool) -> None:
        super().__init__()
        self.conv, self.always = nn.Conv2d(channels, 7, 3, padding=1), always

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return x + torch.randn_like(x) if self.always or self.training else x


class Recurrent(nn.Module):
    """An LSTM along the rows, between convolutions. Width 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.lstm = nn.LSTM(7, 5, batch_first=True)
        self.after = nn.Conv2d(5, 9, 3, padding=1)
        self.last = nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv(x))
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)
        hidden = self.lstm(rows)[0].transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
        return self.last(torch.relu(self.after(hidden)))


class Dead(nn.Module):
    """Layers that nobody calls, and one whose result nobody reads. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.ignored = nn.Conv2d(channels, 4, 1)
        self.never = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Any:
        self.ignored(x)
        return self.conv(x)


class Nested(NamedTuple):
    scores: Tensor
    more: dict[str, Any]


class TwoInputs(nn.Module):
    """Two images in; a nested result out, with features that must stay whole."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.both = nn.Conv2d(16, 6, 3, padding=1)
        self.features = nn.Linear(6, 5)
        self.fc = nn.Linear(5, 3)
        self.aux = nn.Linear(16, 2)

    def forward(self, left: Tensor, right: Tensor) -> Nested:
        x = torch.relu(torch.cat([self.left(left), self.right(right)], 1))
        features = torch.relu(self.features(torch.relu(self.both(x)).mean((2, 3))))
        more = {"features": [features], "aux": (self.aux(x.amax((2, 3))), "name", None)}
        return Nested(self.fc(features), more)


class Signal(nn.Module):
    """Convolutions over one or three dimensions, with normalisation and a transposed one in between."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        conv, up = (nn.Conv1d, nn.ConvTranspose1d) if dims == 1 else (nn.Conv3d, nn.ConvTranspose3d)
        norm, pool = (nn.BatchNorm1d, nn.MaxPool1d) if dims == 1 else (nn.BatchNorm3d, nn.MaxPool3d)
        self.net = nn.Sequential(
            conv(2, 6, 3, padding=1),
            norm(6),
            nn.ReLU(),
            pool(2),
            up(6, 5, 2, 2),
            nn.ReLU(),
            conv(5, 4, 3, padding=1, groups=1),
            nn.AdaptiveAvgPool1d(2) if dims == 1 else nn.AdaptiveAvgPool3d((2, 1, 1)),
            nn.Flatten(),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class Mlp(nn.Module):
    """Linear layers with normalisation over features; inputs (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)
        )

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class PairsOnly(nn.Module):
    """Does not run on a single input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        first, second = x[0], x[1]
        x = x + 0.1 * (first + second)
        return self.fc(torch.relu(self.next(torch.relu(self.conv(x)))).mean((2, 3)))


# Modules that are hard to copy.


class OwnCopy(nn.Conv2d):
    """Copies itself in a way of its own, and counts."""

    copies = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "OwnCopy":
        OwnCopy.copies += 1
        made = OwnCopy(self.in_channels, self.out_channels, 3, padding=1)
        memo[id(self)] = made
        for name, parameter in self._parameters.items():
            made._parameters[name] = copy.deepcopy(parameter, memo)
        return made


class OwnState(nn.Conv2d):
    """Leaves a scratch attribute out when it is copied or pickled."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scratch: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "scratch"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.scratch = []

    def forward(self, x: Tensor) -> Tensor:
        self.scratch.append(len(x))
        return super().forward(x)


class Attributes(nn.Module):
    """Refers to its own parts in every way that Python has. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.again = nn.Conv2d(7, 7, 3, padding=1)
        self.stages = [self.conv, self.again]  # a plain list: not registered twice
        self.lookup = {"second": self.again}
        self.bound = self.activate
        self.closure: Callable[[Tensor], Tensor] = lambda x: 2 * x
        self.constant = torch.tensor(0.5)
        self.calls = [0]

    def activate(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        return torch.relu(x) * self.constant

    def forward(self, x: Tensor) -> Any:
        x = self.bound(self.stages[0](x))
        return self.closure(self.lookup["second"](x))


class Hooked(nn.Module):
    """Hooks that change what passes, one of which is a method. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.factor = nn.Parameter(torch.tensor(0.7))
        self.conv.register_forward_hook(self.scaled)
        self.conv.register_forward_pre_hook(lambda module, args: (args[0] + 0.1,))

    def scaled(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out * self.factor

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.conv(x))


class LazyCache(nn.Module):
    """Keeps the last activation as a plain attribute. Width 7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        self.last = self.conv(x)
        return self.last.relu()


class RMSNorm2d(nn.Module):
    """Root-mean-square normalisation over channels, by hand: it has no rule."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.scale


class Scaled(nn.Module):
    """A learnt scale and shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.randn(channels)) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        return x * self.scale[:, None, None] + self.shift.view(1, -1, 1, 1)


class ZeroInit(nn.Module):
    """New zeros beside the channels: as many as there are channels. Width 2 · channels."""

    def forward(self, x: Tensor) -> Any:
        return torch.cat([x, torch.zeros_like(x)], 1)


def pruned_with_a_mask() -> nn.Module:
    """A convolution with the parametrisation that torch.nn.utils.prune leaves."""
    block = Between(8, nn.Conv2d(12, 12, 3, padding=1))
    prune.l1_unstructured(block.middle, "weight", 0.5)  # type: ignore[no-untyped-call]
    return block
