"""The figures of the ECS paper that are pure arithmetic, to every printed digit, and the formulas behind them."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evo
from evo.errors import NetworkError, SettingsError
from evo.network import COSTS, CostModel, LayerCost, Width
from evo.network.cost_plan import IntArray

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
        fan_in = replace(inputs, divisor=split)
        costs.append(LayerCost(f"layer{index}", kernel, inputs, outputs, fan_in, positions, positions))
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


def test_weights_of_a_depthwise_layer_lose_input_and_output_together() -> None:
    channels = Width(0, ((0, 1),))
    model = CostModel([8], [LayerCost("depthwise", 9, channels, channels, Width(1), 16, 16)])
    for variant in ("weights", "eq4", "eq6", "eq7"):
        assert float(model.removed([6], variant)) == 2 / 8


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


UNIT = 12
"""Groups of even number have sizes that every divisor drawn here divides; so do their counts."""


@st.composite
def widths(draw: st.DrawFn, groups: int) -> Width:
    members = draw(st.lists(st.integers(0, groups - 1), max_size=4, unique=True))
    entries = tuple((group, draw(st.integers(1, 5))) for group in members)
    if any(group % 2 for group in members):
        return Width(draw(st.integers(0, 20)), entries)
    return Width(UNIT * draw(st.integers(0, 3)), entries, draw(st.sampled_from([1, 2, 3, 4, 6, 12])))


@st.composite
def models(draw: st.DrawFn) -> CostModel:
    groups = draw(st.integers(1, 8))
    sizes = [draw(st.integers(1, 9)) * (1 if group % 2 else UNIT) for group in range(groups)]
    width = widths(groups)
    number = st.integers(0, 1000)
    layer = st.builds(LayerCost, st.just("layer"), st.integers(1, 49), width, width, width, number, number)
    return CostModel(
        sizes,
        # The same few layers again and again, as blocks of a stage are.
        draw(st.lists(layer, max_size=4)) * draw(st.integers(1, 2)),
        others=draw(st.lists(width, max_size=6)),
        bytes_per_parameter=draw(st.sampled_from([2, 4, 8])),
        activations=draw(st.lists(width, max_size=12)),
    )


@st.composite
def populations(draw: st.DrawFn) -> tuple[CostModel, IntArray]:
    model = draw(models())
    units = [1 if group % 2 else UNIT for group in range(len(model.sizes))]
    one = st.tuples(*(st.integers(0, size // unit) for size, unit in zip(model.sizes, units, strict=True)))
    rows = draw(st.lists(one, min_size=1, max_size=5))
    kind = draw(st.sampled_from([np.int64, np.int32, np.int16, np.uint8]))
    order = draw(st.sampled_from(["C", "F"]))
    return model, np.array(np.array(rows) * units, dtype=kind, order=order)  # type: ignore[call-overload]


def value(width: Width, counts: list[int]) -> int:
    quotient, remainder = divmod(width.fixed + sum(e * counts[g] for g, e in width.groups), width.divisor)
    assert remainder == 0
    return quotient


def one_by_one(model: CostModel, counts: list[int]) -> dict[str, int]:
    """All costs of one candidate, layer by layer, in Python's integers."""
    weights = [layer.kernel * value(layer.fan_in, counts) * value(layer.outputs, counts) for layer in model.layers]
    params = sum(weights) + sum(value(width, counts) for width in model.others)
    return {
        "params": params,
        "weights": sum(weights),
        "macs": sum(count * layer.uses for count, layer in zip(weights, model.layers, strict=True)),
        "bytes": params * model.bytes_per_parameter,
        "feature_maps": sum(value(layer.outputs, counts) * layer.positions for layer in model.layers),
        "peak_memory": max([0, *(value(width, counts) for width in model.activations)]),
    }


@given(populations())
def test_populations_cost_what_counting_layer_by_layer_says(drawn: tuple[CostModel, IntArray]) -> None:
    model, counts = drawn
    costs = model.costs(counts)
    assert list(costs) == list(COSTS)
    for index, row in enumerate(counts.tolist()):
        expected = one_by_one(model, row)
        assert {name: values[index] for name, values in costs.items()} == expected
        assert model.costs(counts[index]) == expected
    again = CostModel.from_dict(json.loads(json.dumps(model.to_dict())))
    assert (again.layers, again.others, again.activations) == (model.layers, model.others, model.activations)


@given(populations(), st.data())
def test_bytes_with_bits_are_those_of_every_layer(drawn: tuple[CostModel, IntArray], data: st.DataObject) -> None:
    model, counts = drawn
    layers = len(model.layers)
    bits = np.array(data.draw(st.lists(st.integers(1, 32), min_size=layers, max_size=layers)), dtype=np.int64)
    expected = []
    for row in counts.tolist():
        total = model.bytes_per_parameter * sum(value(width, row) for width in model.others)
        for layer, depth in zip(model.layers, bits.tolist(), strict=True):
            weights = layer.kernel * value(layer.fan_in, row) * value(layer.outputs, row)
            if depth == 32:
                total += weights * model.bytes_per_parameter
            else:
                total += math.ceil(weights * depth / 8) + 4 * value(layer.outputs, row)
        expected.append(total)
    assert model.bytes(counts, bits).tolist() == expected
    assert model.bytes(counts, np.tile(bits, (len(counts), 1))).tolist() == expected
    assert model.bytes(counts[0], bits) == expected[0]
    untouched = model.bytes(counts, np.full(layers, 32))
    assert np.array_equal(untouched, model.costs(counts, ["bytes"])["bytes"])


def test_bits_of_lenet(lenet_network: evo.Network) -> None:
    # 500, 25,000, 400,000 and 5,000 weights; 3 × 570 + 10 biases and normalisation parameters.
    costs = lenet_network.costs
    assert int(costs.bytes(LENET, [8, 4, 3, 32])) == 500 + 12_500 + 150_000 + 20_000 + 4 * 570 + 4 * 1720
    assert costs.bytes([LENET, LENET_SMALL], [[8] * 4, [1] * 4]).tolist() == [
        430_500 + 4 * 580 + 4 * 1720,
        29 + 479 + 2856 + 105 + 4 * 120 + 4 * 340,
    ]


def test_bits_change_bytes_alone(lenet_network: evo.Network) -> None:
    costs, counts = lenet_network.costs, np.array([LENET, LENET_SMALL])
    bits = costs.bits_of({"conv2": 4, "fc1": 3})
    assert bits.tolist() == [32, 4, 3, 32]
    for depth in (bits, np.stack([bits, bits])):
        plain, low = costs.costs(counts), costs.costs(counts, bits=depth)
        assert low.pop("bytes").tolist() == costs.bytes(counts, bits).tolist()
        assert all(np.array_equal(low[name], plain[name]) for name in low)
    assert costs.costs(LENET, ["bytes"], bits)["bytes"] == costs.bytes(LENET, bits)
    with pytest.raises(NetworkError, match="bits: unknown layer with a weight of its own 'conv3'; did you mean 'conv"):
        costs.bits_of({"conv3": 4})


def test_a_table_with_bits_says_what_they_save(lenet_network: evo.Network) -> None:
    costs, bits = lenet_network.costs, [8, 4, 3, 32]
    plain, table = costs.table(LENET_SMALL), costs.table(LENET_SMALL, bits)
    assert table.drop(columns=["bits", "kept_bytes"]).equals(plain.drop(columns=["bits", "kept_bytes"]))
    assert set(plain["bits"]) == {32}
    assert plain["kept_bytes"].equals(4 * plain["kept_weights"])
    assert table["bits"].tolist()[:4] == bits
    assert table["kept_bytes"].tolist()[:4] == costs.layer_bytes(LENET_SMALL, bits).tolist()
    others = 4 * (int(costs.costs(LENET_SMALL)["params"]) - int(costs.costs(LENET_SMALL)["weights"]))
    assert table["kept_bytes"].tolist()[-1] + others == costs.bytes(LENET_SMALL, bits)
    kept = plain["kept_weights"][:4]
    assert table.loc["total", "bits"] == pytest.approx((kept * bits).sum() / kept.sum())


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ([8, 8, 8], r"bits: got int64 of shape \(3,\), expected integers of shape \(4,\), one per layer"),
        ([8.0] * 4, r"bits: got float64 of shape \(4,\)"),
        ([[8] * 4], r"shape \(1, 4\)"),
        ([8, 8, 0, 8], "bits: got 0, expected 1 to 32"),
        ([8, 33, 8, 8], "bits: got 33, expected 1 to 32"),
    ],
)
def test_wrong_bits_are_refused(lenet_network: evo.Network, bits: list[float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        lenet_network.costs.bytes(LENET, bits)


def test_names_choose_costs_and_their_order(vgg16: CostModel) -> None:
    everything = vgg16.costs(VGG_SMALL)
    for names in (["macs", "params"], ["peak_memory"], ["bytes"], []):
        chosen = vgg16.costs(VGG_SMALL, names)
        assert list(chosen) == names
        assert chosen == {name: everything[name] for name in names}
    with pytest.raises(SettingsError, match="unknown cost 'flops'; "):
        vgg16.costs(VGG_SMALL, ["flops"])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([9, 17], r"counts: got int64 of shape \(2,\), expected integers of shape \(3,\) or \(N, 3\)"),
        ([9.0, 17.0, 84.0], "counts: got float64"),
        ([[[9, 17, 84]]], r"shape \(1, 1, 3\)"),
    ],
)
def test_wrong_counts_are_refused(lenet_network: evo.Network, counts: list[float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        lenet_network.costs.costs(counts)


@pytest.mark.parametrize("counts", [[9, 17, 501], [9, -1, 84]])
def test_counts_out_of_range_are_refused_everywhere(lenet_network: evo.Network, counts: list[int]) -> None:
    costs = lenet_network.costs
    for call in (costs.costs, costs.weights, costs.table, partial(costs.bytes, bits=[8] * 4)):
        with pytest.raises(
            SettingsError, match=r"counts: candidate 0 keeps (501|-1) channels of group \d, expected 0 to "
        ):
            call(counts)


def test_nobody_costs_nothing(alexnet: CostModel) -> None:
    costs = alexnet.costs(np.zeros((0, 7), dtype=int))
    assert {name: values.shape for name, values in costs.items()} == dict.fromkeys(COSTS, (0,))


def test_a_network_without_groups_has_its_costs() -> None:
    layer = LayerCost("fc", 1, Width(5), Width(3), Width(5), 1, 1)
    model = CostModel([], [layer], others=[Width(3)], activations=[Width(32)])
    costs = {name: int(values) for name, values in model.costs(np.zeros(0, dtype=int)).items()}
    assert costs == {"params": 18, "weights": 15, "macs": 15, "bytes": 72, "feature_maps": 3, "peak_memory": 32}


def product(sizes: list[int], uses: int = 1) -> CostModel:
    """One layer with as many weights as the product of two counts."""
    first, second = Width(0, ((0, 1),)), Width(0, ((1, 1),))
    return CostModel(sizes, [LayerCost("layer", 1, first, second, first, uses, 1)], activations=[first])


def test_costs_that_float64_would_round_are_exact() -> None:
    # 3 · 3002399751580331 = 2^53 + 1, the first integer that float64 does not have.
    model = product([3, 3002399751580331])
    assert model.costs([3, 3002399751580331])["weights"] == 2**53 + 1
    population = [[1, 1], [3, 3002399751580330], [3, 3002399751580331], [2, 3]]
    weights = [1, 2**53 - 2, 2**53 + 1, 6]
    assert model.costs(population)["weights"].tolist() == weights
    assert model.costs(population)["params"].tolist() == weights
    assert model.costs(population)["peak_memory"].tolist() == [1, 3, 3, 2]
    assert product([2**53 + 1, 1]).costs([2**53 + 1, 1])["peak_memory"] == 2**53 + 1


def test_costs_beyond_64_bits_are_refused() -> None:
    assert product([2**30, 2**30]).costs([2**30, 2**30])["params"] == 2**60
    with pytest.raises(NetworkError, match=f"got up to {2**70}, which does not fit into 64 bits"):
        product([2**30, 2**30], uses=2**10).costs([2**30, 2**30])
