"""The figures of the ECS paper that are pure arithmetic, to every printed digit, and the formulas behind them."""

import json

import numpy as np
import pytest

import evo
from evo.network import COSTS, CostModel, LayerCost, Width

LENET = (20, 50, 500)
LENET_SMALL = (9, 17, 84)

VGG_SMALL = (12, 28, 57, 61, 133, 127, 137, 194, 119, 320, 72, 62, 122, 2300, 125)
ALEXNET_SMALL = (56, 120, 190, 188, 144, 1386, 1848)


def chain(widths: list[int], layers: list[tuple[int, int, int, int]], classes: int) -> CostModel:
    """A plain network: per layer kernel area, positions, groups, entries per input channel; all but the last prunable."""
    inputs = Width(3)
    costs = []
    for index, (kernel, positions, split, entries) in enumerate(layers):
        outputs = Width(0, ((index, 1),)) if index < len(widths) else Width(classes)
        if index:
            inputs = Width(0, ((index - 1, entries),))
        costs.append(LayerCost(f"layer{index}", kernel, inputs, outputs, positions, split))
    return CostModel(widths, costs)


@pytest.fixture
def vgg16() -> CostModel:
    sides = [224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14]
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096]
    return chain(widths, [*((9, side**2, 1, 1) for side in sides), (1, 1, 1, 49), (1, 1, 1, 1), (1, 1, 1, 1)], 1000)


@pytest.fixture
def alexnet() -> CostModel:
    layers = [(121, 55**2, 1, 1), (25, 27**2, 2, 1), (9, 13**2, 1, 1), (9, 13**2, 2, 1), (9, 13**2, 2, 1)]
    layers += [(1, 1, 1, 36), (1, 1, 1, 1), (1, 1, 1, 1)]
    return chain([96, 256, 384, 384, 256, 4096, 4096], layers, 1000)


def test_lenet_as_printed(lenet_network: evo.Network) -> None:
    assert lenet_network.channels == 570
    full, small = (lenet_network.costs.costs(counts) for counts in (LENET, LENET_SMALL))
    assert [full["weights"], full["macs"]] == [430_500, 2_293_000]
    assert [small["weights"], small["macs"]] == [27_738, 398_088]
    total = lenet_network.costs.table(LENET_SMALL).loc["total"]
    assert (f"{total['r_c']:.4f}", f"{total['r_s']:.4f}") == ("15.5202", "5.7600")


def test_vgg16_as_printed(vgg16: CostModel) -> None:
    full, small = vgg16.costs(vgg16.sizes), vgg16.costs(VGG_SMALL)
    assert [full["weights"], small["weights"]] == [138_344_128, 15_697_840]
    assert [full["macs"], small["macs"]] == [15_470_264_320, 2_632_636_444]
    total = vgg16.table(VGG_SMALL).loc["total"]
    assert (f"{total['r_c']:.4f}", f"{total['r_s']:.4f}") == ("8.8129", "5.8763")


def test_alexnet_as_printed(alexnet: CostModel) -> None:
    assert alexnet.sizes.sum() == 9568
    assert alexnet.costs(alexnet.sizes)["weights"] == 60_954_656
    assert alexnet.costs(ALEXNET_SMALL)["weights"] == 12_186_444
    total = alexnet.table(ALEXNET_SMALL).loc["total"]
    assert f"{total['r_c']:.4f}" == "5.0018"


def test_feature_map_ratio_of_the_papers_lenet(lenet_network: evo.Network) -> None:
    full, small = (lenet_network.costs.costs(counts)["feature_maps"] for counts in (LENET, LENET_SMALL))
    # Outputs of 24×24, 8×8, 1×1 and 1×1 positions.
    assert full == 20 * 576 + 50 * 64 + 500 + 10
    assert small == 9 * 576 + 17 * 64 + 84 + 10
    assert lenet_network.costs.table(LENET_SMALL).loc["total", "r_f"] == full / small


def test_parameters_include_biases_and_normalisation(lenet_network: evo.Network) -> None:
    costs = lenet_network.costs.costs(LENET_SMALL)
    filters = sum(LENET_SMALL)
    assert costs["params"] == costs["weights"] + 3 * filters + 10
    assert costs["bytes"] == 4 * costs["params"]
    assert set(costs) == set(COSTS)


def test_a_population_costs_what_its_members_cost(vgg16: CostModel) -> None:
    rng = np.random.default_rng(0)
    population = rng.integers(1, vgg16.sizes + 1, (20, len(vgg16.sizes)))
    together = vgg16.costs(population)
    removed = vgg16.removed(population, "weights")
    for index, counts in enumerate(population):
        assert {name: values[index] for name, values in together.items()} == vgg16.costs(counts)
        assert removed[index] == vgg16.removed(counts, "weights")


def test_removed_lies_between_nothing_and_everything(alexnet: CostModel) -> None:
    for variant in ("weights", "eq4", "eq6", "eq7"):
        least = float(alexnet.removed(np.ones(7, dtype=int) * 2, variant))
        assert 0.5 < least < 1
        assert alexnet.removed(alexnet.sizes, variant) == 0


def test_removed_by_filters_is_their_plain_share(alexnet: CostModel) -> None:
    kept = np.array(ALEXNET_SMALL)
    assert float(alexnet.removed(kept, "eq4")) == pytest.approx(1 - kept.sum() / 9568, abs=1e-15)


def test_table_has_a_row_per_layer_and_the_total(lenet_network: evo.Network) -> None:
    table = lenet_network.costs.table(LENET_SMALL)
    assert list(table.index) == ["conv1", "conv2", "fc1", "fc2", "total"]
    assert table["kept_filters"].tolist() == [9, 17, 84, 10, 120]
    assert table["weights"].tolist() == [500, 25_000, 400_000, 5_000, 430_500]
    assert table["kept_weights"].tolist() == [225, 3_825, 22_848, 840, 27_738]
    assert table.loc["conv2", "r_c"] == 25_000 / 3_825
    assert table.loc["conv1", "r_f"] == 20 / 9


def test_goes_through_json(alexnet: CostModel) -> None:
    again = CostModel.from_dict(json.loads(json.dumps(alexnet.to_dict())))
    assert again.costs(ALEXNET_SMALL) == alexnet.costs(ALEXNET_SMALL)
    assert again.table(ALEXNET_SMALL).equals(alexnet.table(ALEXNET_SMALL))
