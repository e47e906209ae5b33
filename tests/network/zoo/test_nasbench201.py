import pytest
import torch
from torch import nn

from evo.errors import SettingsError
from evo.network.zoo.nasbench201 import RESNET_CELL, Cell, ReluConvNorm, nasbench201, parse_cell
from tests.network.zoo.counting import count
from tests.network.zoo.searches import searched
from tests.network.zoo.steps import assert_learns
from tests.network.zoo.tables import published

CIFAR = (3, 32, 32)

# Rows of NATS-Bench's topology search space: cell and parameters.
ROWS = {
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": 129_306,
    "|avg_pool_3x3~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|": 73_306,
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": 1_288_506,
    "|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|none~2|": 372_346,
}


def built(arch: str) -> int:
    """Return the parameters of the network, made without memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in nasbench201(arch).parameters())


@pytest.mark.parametrize("arch", ROWS)
def test_parameters_are_the_benchmarks(arch: str) -> None:
    assert built(arch) == ROWS[arch]


@pytest.mark.slow
def test_parameters_of_all_cells_are_the_benchmarks() -> None:
    table = published("nats_tss.csv.gz")
    convolutions = [table["arch"].str.count(f"nor_conv_{size}") for size in ("3x3", "1x1")]
    computed = 73_306 + 243_040 * convolutions[0] + 28_000 * convolutions[1]
    assert len(table) == 15_625
    assert (computed == table["params"]).all()
    sample = table.sample(60, random_state=0)
    assert [built(arch) for arch in sample["arch"]] == sample["params"].tolist()


def test_size_to_the_unit() -> None:
    with torch.device("meta"):
        counts = count(nasbench201(), CIFAR)
    # Two 3×3 convolutions in each of 15 cells: in every stage 9 · 16² · 1024 products each.
    assert counts.macs == 7_783_040 + 2 * 15 * 9 * 16**2 * 1024 == 78_561_920
    assert counts.params == 73_306 + 2 * 243_040


def test_a_cell_sums_what_its_edges_carry() -> None:
    torch.manual_seed(0)
    arch = "|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    cell = Cell(parse_cell(arch), 4).eval()
    conv3, conv1 = [module for module in cell.modules() if isinstance(module, ReluConvNorm)]
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        pooled = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        torch.testing.assert_close(cell(x), x + conv1(pooled + conv3(x)))


def test_a_cell_without_a_path_gives_zeros() -> None:
    cell = Cell(parse_cell("|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"), 4)
    assert torch.equal(cell(torch.randn(1, 4, 3, 3)), torch.zeros(1, 4, 3, 3))


def test_pooling_ignores_the_padding() -> None:
    cell = Cell(parse_cell("|avg_pool_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|"), 1)
    torch.testing.assert_close(cell(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_it_learns_at_another_size() -> None:
    torch.manual_seed(0)
    assert_learns(nasbench201(RESNET_CELL, 5, in_channels=2, width=4, cells=1), (2, 16, 16), 5)


def test_every_width_is_searched() -> None:
    # The stem and its cell's sum, the inside of a cell, both convolutions of a reduction.
    torch.manual_seed(0)
    groups = searched(nasbench201(width=6, cells=1), CIFAR)
    insides = [f"stage{stage}.0.nodes.0.operations.0.conv" for stage in (1, 2, 3)]
    reductions = [f"reduction{index}.conv{conv}.conv" for index in (1, 2) for conv in (1, 2)]
    assert sorted(groups) == sorted(["stem.0", *insides, *reductions])


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("", 'node 1 of the cell is "", expected "|operation~0|"'),
        ("|skip_connect~0", 'node 1 of the cell is "|skip_connect~0", expected "|operation~0|"'),
        (
            "|skip_connect~0|+|none~0|none~2|",
            'node 2 of the cell is "|none~0|none~2|", expected "|operation~0|operation~1|"',
        ),
        ("|skip_connect~0|+|none~0|", 'node 2 of the cell is "|none~0|", expected "|operation~0|operation~1|"'),
        ("|max_pool_3x3~0|", "unknown operation 'max_pool_3x3'; did you mean 'avg_pool_3x3'?"),
    ],
)
def test_what_is_no_cell_is_refused(arch: str, message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        nasbench201(arch)
    assert str(raised.value) == f"nasbench201: {message}"
