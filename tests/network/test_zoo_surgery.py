"""Every network of the zoo, cut at three ratios: proved, exact, and the same as with silenced channels.

Silencing is done here at the other end than by the proof: not the weights that read a removed channel are set to zero but
everything that makes it, so that the channel itself is zero wherever it goes; the zoo's activations keep it so.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.blueprint import Blueprint
from evo.network import evaluating
from evo.network.zoo import INPUTS, ZOO
from tests.network.zoo.counting import count

RATIOS = (0.75, 0.5, 0.2)
OUTPUT = "its channels are the network's output"


@dataclass(frozen=True)
class Case:
    """A network of the zoo at a size that is quick to analyse.

    Attributes:
        name: in the zoo.
        arguments: of its factory.
        side: height and width of its images; None for the shape it is meant for.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = INPUTS[self.name]
        return shape if self.side is None else (shape[0], self.side, self.side)


QUICK = [
    Case("adalayernet", {"widths": [8, 12, 16, 20, 24, 28, 32, 36]}),
    Case("alexnet", {"widths": [8, 16, 24, 24, 16, 32, 40], "classes": 10}, 131),
    Case("channel_bench", {"widths": [16, 20, 24, 28, 32, 36, 40]}, 16),
    Case("densenet40", {}, 16),
    Case("densenet_bc100", {"growth": 4, "stem": 8}, 8),
    Case("googlenet", {}, 8),
    Case("lenet"),
    Case("mlp"),
    Case("mobilenet_v1", {"small_input": True, "classes": 10, "multiplier": 0.25}, 32),
    Case("mobilenet_v2", {"small_input": True, "classes": 10, "multiplier": 0.5}, 32),
    Case("nasbench201", {}, 16),
    Case("resnet18", {"width": 16, "classes": 10}, 64),
    Case("resnet20", {}, 16),
    Case("resnet50", {"width": 8, "classes": 10}, 64),
    Case("resnet56", {}, 16),
    Case("resnet110", {}, 8),
    Case("shufflenet_v2", {"small_input": True, "classes": 10, "multiplier": 0.5}, 32),
    Case("vgg16", {"widths": [8, 8, 12, 12, 16, 16, 16, 20, 20, 20, 24, 24, 24, 32, 40], "classes": 10}, 64),
    Case("vgg16_cifar", {"widths": [8, 8, 12, 12, 16, 16, 16, 20, 20, 20, 24, 24, 24]}),
    Case("vgg19", {"widths": [8, 8, 12, 12, *[16] * 4, *[20] * 4, *[24] * 4, 32, 40], "classes": 10}, 64),
    Case("vgg19_cifar", {"widths": [8, 8, 12, 12, *[16] * 4, *[20] * 4, *[24] * 4]}),
]


def frozen_in(case: Case) -> dict[str, str]:
    """Return the layers that have channels which always stay, with the end of the reason."""
    if case.name == "mlp":
        return {"layers.4": "it has one channel"}
    frozen = {LAST.get(case.name, "fc"): OUTPUT}
    if case.name == "shufflenet_v2":
        # Splitting and shuffling again and again ties every channel of a stage to every other, unless powers of two divide
        # their number often enough; the next stage reads them channel by channel.
        for first, following in [(4, 12)] if case.arguments.get("multiplier") == 0.5 else [(0, 4), (4, 12)]:
            layers = [f"blocks.{block}.branch.2.conv" for block in range(first, following)]
            layers += [f"blocks.{first}.shortcut.1.conv", f"blocks.{following}.shortcut.0.conv"]
            frozen |= dict.fromkeys(layers, "")
    return frozen


def assert_frozen(network: evo.Network, case: Case) -> None:
    found, expected = {entry.name: entry.reason for entry in network.frozen}, frozen_in(case)
    assert found.keys() == expected.keys()
    assert {name: reason for name, reason in found.items() if not reason.endswith(expected[name])} == {}


LAST = {
    "lenet": "fc2",
    "adalayernet": "classifier",
    "alexnet": "fc8",
    "vgg16": "classifier.6",
    "vgg16_cifar": "classifier",
    "vgg19": "classifier.6",
    "vgg19_cifar": "classifier",
}
"""The layer whose channels are the output, where it is not called fc."""


def made(case: Case) -> nn.Module:
    """Return the network in float64, with random weights that keep the size of signals and random statistics."""
    model = ZOO[case.name](**case.arguments).double().eval()
    generator = torch.Generator().manual_seed(1)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() > 1:
                bound = (6 / tensor[0].numel()) ** 0.5
                uniform(tensor, -bound, bound)
            elif name.endswith(("weight", "running_var")):
                uniform(tensor, 0.5, 1.5)
            elif tensor.is_floating_point():
                uniform(tensor, -0.2, 0.2)
    return model


@functools.cache
def analysed(name: str) -> tuple[Case, nn.Module, evo.Network]:
    """Return one of `QUICK`, read only."""
    case = next(case for case in QUICK if case.name == name)
    model = made(case)
    return case, model, evo.Network.analyse(model, images(case))


def images(case: Case) -> Tensor:
    return torch.randn(2, *case.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def cut_to(network: evo.Network, ratio: float) -> Blueprint:
    """Return a blueprint that keeps about this share of every group, chosen at random."""
    rng = np.random.default_rng(round(100 * ratio))
    masks = {}
    for group in network.groups:
        rows = [rng.permutation(group.size // group.parts) for _ in range(group.parts)]
        kept = max(1, round(ratio * group.size / group.parts))
        masks[group.name] = np.concatenate([row < kept for row in rows])
    return Blueprint.from_masks(masks)


def silenced(model: nn.Module, network: evo.Network, blueprint: Blueprint, inputs: Tensor) -> Tensor:
    """Return the output of the whole network with every removed channel made as zeros."""
    parameters = dict(model.named_parameters())
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for group in network.groups:
            gone = np.append(~blueprint.masks[group.name], False)
            for cut in group.cuts:
                if cut.tensor in parameters and not cut.reads:
                    parameters[cut.tensor].index_fill_(
                        cut.dim, torch.from_numpy(np.flatnonzero(gone[cut.channels])), 0.0
                    )
        out: Tensor = model(inputs)
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    return out


def assert_cut_well(case: Case, model: nn.Module, network: evo.Network, ratio: float, *, again: bool) -> None:
    """Assert that one candidate runs, costs what it should, and computes what the silenced network does."""
    blueprint, inputs = cut_to(network, ratio), images(case)
    small = network.build(blueprint)
    with evaluating(small):
        out, whole = small(inputs), model(inputs)
    expected = silenced(model, network, blueprint, inputs)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10 * scale)
    assert float((whole - expected).detach().abs().max()) > 1e-6 * scale, "silencing has no effect: nothing was tested"

    costs = network.cost_of(blueprint)
    if again:
        analysed_again = evo.Network.analyse(small, inputs)
        assert analysed_again.cost_of(analysed_again.full) == costs
    counted = count(small.float(), case.shape)
    assert (costs["params"], costs["weights"], costs["macs"]) == (counted.params, counted.weights, counted.macs)
    assert (costs["feature_maps"], costs["bytes"]) == (counted.outputs, 8 * counted.params)


def test_every_network_of_the_zoo_is_here() -> None:
    assert {case.name for case in QUICK} == set(ZOO)


@pytest.mark.parametrize("name", [case.name for case in QUICK])
def test_nothing_is_frozen_that_should_not_be(name: str) -> None:
    case, _, network = analysed(name)
    assert_frozen(network, case)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", [case.name for case in QUICK])
def test_cut_networks_are_exact(name: str, ratio: float) -> None:
    assert_cut_well(*analysed(name), ratio, again=ratio == RATIOS[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_networks_of_full_size_are_exact(name: str) -> None:
    case = Case(name)
    model = made(case)
    network = evo.Network.analyse(model, images(case))
    assert_frozen(network, case)
    for ratio in RATIOS:
        assert_cut_well(case, model, network, ratio, again=True)


@pytest.mark.slow
def test_analysing_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    evo.Network.analyse(ZOO["resnet50"](), torch.randn(1, 3, 224, 224))
    assert capfd.readouterr() == ("", "")
