import pytest
import torch

from evo.errors import SettingsError
from evo.network.zoo.shufflenet import BLOCKS, ShuffleBlock, shuffled, shufflenet_v2
from tests.network.zoo.counting import count
from tests.network.zoo.searches import searched
from tests.network.zoo.steps import assert_learns


# The parameters are torchvision's. Ma et al. (2018, Table 5) print 41, 146, 299 and 591 million multiply-accumulates, up to
# 1.3 % more, without saying what they count.
@pytest.mark.parametrize(
    ("multiplier", "params", "macs"),
    [
        (0.5, 1_366_792, 40_476_448),
        (1.0, 2_278_604, 144_907_992),
        (1.5, 3_503_624, 295_759_392),
        (2.0, 7_393_996, 583_253_464),
    ],
)
def test_size_to_the_unit(multiplier: float, params: int, macs: int) -> None:
    with torch.device("meta"):
        counts = count(shufflenet_v2(multiplier=multiplier), (3, 224, 224))
    assert (counts.params, counts.macs) == (params, macs)


def test_size_for_small_images() -> None:
    with torch.device("meta"):
        counts = count(shufflenet_v2(10, small_input=True), (3, 32, 32))
    assert (counts.params, counts.macs) == (1_263_854, 45_002_112)


def test_shuffling_alternates_the_halves() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert shuffled(x)[1, :, 2, 3].tolist() == [0, 3, 1, 4, 2, 5]


def test_half_of_the_channels_pass_a_block_as_they_are() -> None:
    torch.manual_seed(0)
    block = ShuffleBlock(8).eval()
    x = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, ::2], x[:, :4])
    torch.testing.assert_close(y[:, 1::2], block.branch(x[:, 4:]))


def test_it_learns_with_other_widths() -> None:
    torch.manual_seed(0)
    assert_learns(shufflenet_v2(5, in_channels=2, widths=(7, 10, 12, 14, 20), small_input=True), (2, 32, 32), 5)


def test_the_inside_of_every_block_is_searched() -> None:
    # Shuffling ties the stages' own channels until so few classes of them are left that most layers stay whole.
    torch.manual_seed(0)
    groups = searched(shufflenet_v2(10, multiplier=0.5, small_input=True), (3, 32, 32), whole=None)
    assert {"stem.conv", *(f"blocks.{index}.branch.0.conv" for index in range(sum(BLOCKS))), "last.conv"} <= set(groups)


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"shufflenet_v2: multiplier is one of 0\.5, 1\.0, 1\.5, 2\.0, got 0\.7"):
        shufflenet_v2(multiplier=0.7)
    with pytest.raises(SettingsError, match="shufflenet_v2: widths has 4 entries, expected 5"):
        shufflenet_v2(widths=(24, 48, 96, 192))
    with pytest.raises(SettingsError, match=r"widths of the stages are even, got \[48, 95, 192\]"):
        shufflenet_v2(widths=(24, 48, 95, 192, 1024))
