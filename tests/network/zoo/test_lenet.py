from evo.network.zoo import lenet
from tests.network.zoo.counting import agrees, count

WIDTHS = (20, 50, 500)
COMPRESSED = (9, 17, 84)


def test_weights_and_multiplications_of_the_paper() -> None:
    # ECS, section 4: 15.52 and 5.76 times fewer.
    before, after = (count(lenet(*widths), (1, 28, 28)) for widths in (WIDTHS, COMPRESSED))
    assert [layer.weights for layer in before.layers.values()] == [500, 25_000, 400_000, 5_000]
    assert (before.weights, before.macs) == (430_500, 2_293_000)
    assert (after.weights, after.macs) == (27_738, 398_088)
    assert f"{before.weights / after.weights:.4f} {before.macs / after.macs:.4f}" == "15.5202 5.7600"
    assert before.params == 432_220


def test_prunable_filters() -> None:
    assert sum(WIDTHS) == 570
    assert sum(layer.biases for layer in count(lenet(), (1, 28, 28)).layers.values()) == 570 + 10


def feature_maps(widths: tuple[int, int, int]) -> int:
    """Values of the maps that Table 4 counts: of convolutions, both poolings, and the one ReLU, after the third layer."""
    layers = count(lenet(*widths), (1, 28, 28)).layers
    return sum(layer.outputs for layer in layers.values()) + widths[0] * 12**2 + widths[1] * 4**2 + widths[2]


def test_feature_maps_of_table_4() -> None:
    before, after = feature_maps(WIDTHS), feature_maps(COMPRESSED)
    assert agrees(4 * before / 2**20, "0.07")
    assert agrees(before / after, "2.42")
