import pytest
import torch

from evo.errors import SettingsError
from evo.network.zoo.googlenet import INCEPTIONS, Inception, googlenet
from tests.network.zoo.counting import count
from tests.network.zoo.searches import searched
from tests.network.zoo.steps import assert_learns

CIFAR = (3, 32, 32)
NARROW = [[max(1, width // 8) for width in row] for row in INCEPTIONS]


def test_size_to_the_unit() -> None:
    with torch.device("meta"):
        counts = count(googlenet(), CIFAR)
    assert (counts.params, counts.weights, counts.macs) == (6_166_250, 6_142_528, 1_521_756_160)


def test_the_papers_figures_are_reproduced_by_their_conventions() -> None:
    # FNP, Tables 4 and 6: 6.15 M and 1534.55 M. It averages 8×8 maps of 1024 channels with a kernel of size 8.
    with torch.device("meta"):
        counts = count(googlenet(), CIFAR)
    assert counts.without_norm() == 6_150_442
    assert counts.operations(pooling=1024 * (8 + 1)) == 1_534_550_006


def test_branches_lie_side_by_side_in_order() -> None:
    torch.manual_seed(0)
    block = Inception(8, INCEPTIONS[0]).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        parts = block(x).split((64, 128, 32, 32), 1)
        branches = (block.branch1, block.branch3, block.branch5, block.branch_pool)
        for part, branch in zip(parts, branches, strict=True):
            torch.testing.assert_close(part, branch(x))


def test_it_learns_with_other_widths() -> None:
    torch.manual_seed(0)
    assert_learns(googlenet(5, in_channels=2, stem=24, widths=NARROW), (2, 32, 32), 5)


def test_every_convolution_is_searched() -> None:
    torch.manual_seed(0)
    groups = searched(googlenet(stem=24, widths=NARROW), CIFAR)
    assert len(groups) == 1 + 9 * 7
    # What FNP searches: the inner convolutions of two branches.
    assert {"stage3.0.branch3.0.conv", "stage3.0.branch5.0.conv", "stage3.0.branch5.1.conv"} < set(groups)


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(SettingsError, match="googlenet: widths has 8 rows, expected one for each of 9 blocks"):
        googlenet(widths=INCEPTIONS[:-1])
    with pytest.raises(SettingsError, match="googlenet, block 8: widths has 6 entries, expected 7"):
        googlenet(widths=[*INCEPTIONS[:-1], (1, 2, 3, 4, 5, 6)])
    with pytest.raises(SettingsError, match="googlenet, stem: widths are positive integers"):
        googlenet(stem=0)
