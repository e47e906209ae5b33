import numpy as np
import pytest
import torch

import evo
from evo.errors import SettingsError
from evo.network.zoo.channelbench import WIDEST, channel_bench
from tests.network.zoo.counting import count
from tests.network.zoo.steps import assert_learns
from tests.network.zoo.tables import published

CIFAR = (3, 32, 32)
GROUPS = ["stem.conv", *(f"block{b}.conv{c}.conv" for b, c in [(1, 1), (2, 1), (3, 1), (3, 2), (4, 1), (5, 1)])]

# Rows of Channel-Bench-Macro: architecture, parameters, multiply-accumulates.
ROWS = [
    ("1111111", 963_658, 90_096_896),
    ("4444444", 15_356_170, 1_436_226_560),
    ("1234123", 2_735_050, 245_810_432),
    ("4321432", 8_276_362, 813_372_416),
    ("2143411", 5_322_762, 482_186_240),
]


def widths_of(arch: str) -> list[int]:
    """Return c0 … c6 of an architecture of the benchmark."""
    return [int(digit) * width // 4 for digit, width in zip(arch, WIDEST, strict=True)]


def built(arch: str) -> tuple[int, int]:
    """Return parameters and multiply-accumulates of the network, made without memory."""
    with torch.device("meta"):
        counts = count(channel_bench(widths_of(arch)), CIFAR)
    return counts.params, counts.macs


@pytest.mark.parametrize(("arch", "params", "macs"), ROWS)
def test_size_is_the_benchmarks(arch: str, params: int, macs: int) -> None:
    assert built(arch) == (params, macs)


def test_the_seven_widths_are_the_coupling_groups() -> None:
    torch.manual_seed(0)
    network = evo.Network.analyse(channel_bench((8, 9, 10, 11, 12, 13, 14)), torch.randn(1, *CIFAR))
    assert [(group.name, group.size) for group in network.groups] == list(zip(GROUPS, range(8, 15), strict=True))
    assert [entry.name for entry in network.frozen] == ["fc"]
    kept = [3, 1, 10, 4, 5, 6, 2]
    costs = network.costs.costs(kept)
    with torch.device("meta"):
        counts = count(channel_bench(kept), CIFAR)
    assert [int(costs["params"]), int(costs["macs"])] == [counts.params, counts.macs]


@pytest.mark.slow
def test_all_costs_are_the_benchmarks() -> None:
    table = published("channel_bench_macro_resnet.csv.gz")
    torch.manual_seed(0)
    network = evo.Network.analyse(channel_bench(), torch.randn(1, *CIFAR))
    assert [group.name for group in network.groups] == GROUPS
    costs = network.costs.costs(np.array([widths_of(arch) for arch in table["arch"]]))
    assert len(table) == 4**7
    assert (costs["params"] == table["params"]).all()
    assert (costs["macs"] == table["macs"]).all()
    sample = table.sample(50, random_state=0)
    assert [built(arch) for arch in sample["arch"]] == list(zip(sample["params"], sample["macs"], strict=True))


def test_it_learns_with_other_widths() -> None:
    torch.manual_seed(0)
    assert_learns(channel_bench((5, 6, 7, 8, 9, 10, 11), 5, in_channels=2), (2, 16, 16), 5)


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(SettingsError, match="channel_bench: widths has 6 entries, expected 7"):
        channel_bench([8] * 6)
    with pytest.raises(SettingsError, match="channel_bench: widths are positive integers"):
        channel_bench([8] * 6 + [0])
