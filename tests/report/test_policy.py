"""Pictures and table of a layer policy: what they show is what the table says."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from evo.errors import SettingsError
from evo.report.policy import plot_fingerprint, plot_layers, plot_ribbon, policy_table

PAPER = pd.DataFrame(
    {
        "params": [864, 18_432, 73_728, 147_456, 294_912, 589_824, 131_584, 131_328],
        "pruned": [0.064045, 0.1049, 0.067552, 0.058713, 0.16271, 0.054632, 0.32487, 0.22727],
        "bits": [8, 6, 5, 7, 7, 6, 5, 4],
        "A": [0.06, 0.08, 0.12, 0.12, 0.18, 0.15, 0.18, 0.11],
    },
    index=pd.Index(["Conv1", "Conv2", "Conv3", "Conv4", "Conv5", "Conv6", "FC1", "FC2"], name="layer"),
)
"""The paper's Fig. 6, where P counts parameters."""


def described(layers: pd.DataFrame) -> pd.DataFrame:
    kept = layers["params"] * (1 - layers["pruned"])
    return layers.assign(
        kept_params=kept,
        macs=layers["params"] * 64,
        kept_macs=kept * 64,
        bytes=4 * layers["params"],
        kept_bytes=kept * layers["bits"] / 8,
    )


def many(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = pd.Index([f"layer{index}.conv" for index in range(count)], name="layer")
    return described(
        pd.DataFrame(
            {
                "params": rng.integers(100, 100_000, count),
                "pruned": rng.random(count) * 0.9,
                "bits": rng.integers(2, 9, count),
                "A": rng.random(count),
            },
            index=names,
        )
    )


def test_the_papers_figure_6() -> None:
    table = policy_table(described(PAPER))
    printed = [0.20217, 3.0935, 10.742, 30.362, 54.015, 104.55, 13.881, 12.685]
    for found, expected in zip(table["params_k_after"].iloc[:-1], printed, strict=True):
        assert f"{found:.5g}" == f"{expected:.5g}"
    before, after = table[["params_k_before", "params_k_after"]].to_numpy()[-1]
    assert f"{after:.2f}" == "229.53", "Table 1 calls them megabytes"
    assert f"{before:.1f}" == "1388.1", "and prints 1389.1"
    assert 1 - after / before == pytest.approx(0.835, abs=1e-3)
    assert table["acc_contrib"].to_list() == pytest.approx([*PAPER["A"], 1.0])


def test_a_table_without_contributions_has_no_column_of_them() -> None:
    assert "acc_contrib" not in policy_table(described(PAPER).drop(columns="A"))


@pytest.mark.parametrize("layers", [described(PAPER), many(50), many(1)], ids=["paper", "50 layers", "one layer"])
class TestRibbon:
    def test_widths_are_shares_of_the_parameters_kept(self, layers: pd.DataFrame) -> None:
        segments = _segments(layers)
        shares = layers["kept_params"] / layers["kept_params"].sum()
        np.testing.assert_allclose([segment.get_width() for segment in segments], shares)
        np.testing.assert_allclose([segment.get_x() for segment in segments], shares.cumsum() - shares, atol=1e-12)

    def test_colours_tell_the_bits_and_hatches_the_pruning(self, layers: pd.DataFrame) -> None:
        segments = _segments(layers)
        colours = {bits: segment.get_facecolor() for bits, segment in zip(layers["bits"], segments, strict=True)}
        assert len(set(colours.values())) == layers["bits"].nunique()
        for bits, pruned, segment in zip(layers["bits"], layers["pruned"], segments, strict=True):
            assert segment.get_facecolor() == colours[bits]
            assert len(segment.get_hatch() or "") == math.ceil(5 * pruned)
        light = [sum(to_rgba(colours[bits])[:3]) for bits in sorted(colours)]
        assert light == sorted(light), "fewer bits are darker"

    def test_every_layer_has_its_name(self, layers: pd.DataFrame) -> None:
        texts = [text.get_text().split("\n")[0] for text in plot_ribbon(layers).axes[0].texts]
        assert texts == list(layers.index)


@pytest.mark.parametrize(
    "layers",
    [
        described(PAPER),
        many(12),
        many(12).rename(index=lambda name: f"features.denseblock1.{name}"),
        many(60).assign(kept_params=np.geomspace(1, 1e6, 60)),
    ],
    ids=["paper", "12 layers", "long names", "60 layers, the last ones large"],
)
def test_names_below_the_ribbon_do_not_overlap(layers: pd.DataFrame) -> None:
    figure = plot_ribbon(layers)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.x1


def _segments(layers: pd.DataFrame) -> list[Rectangle]:
    return [patch for patch in plot_ribbon(layers).axes[0].patches if isinstance(patch, Rectangle)]


def test_a_fingerprint_is_a_polygon_of_five_axes() -> None:
    layers = described(PAPER)
    (axes,) = plot_fingerprint(layers).axes
    assert len(axes.lines) == 8
    conv6 = np.asarray(axes.lines[5].get_ydata())
    np.testing.assert_allclose(conv6, [1, 1, 0.054632, 6 / 8, 0.15 / 0.18, 1])
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert legend == list(layers.index)


def test_of_many_layers_each_has_a_panel() -> None:
    layers = many(50)
    panels = plot_fingerprint(layers).axes
    assert [axes.get_title() for axes in panels] == list(layers.index)
    assert all(len(axes.lines) == 1 for axes in panels)


def test_a_fingerprint_leaves_out_what_is_not_there() -> None:
    (axes,) = plot_fingerprint(described(PAPER).drop(columns="A")).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["parameters", "FLOPs", "pruning", "bits"]
    with pytest.raises(
        SettingsError, match=r"a fingerprint takes three of the columns kept_params, .*, got pruned, bits$"
    ):
        plot_fingerprint(described(PAPER)[["pruned", "bits"]])


@pytest.mark.parametrize("layers", [described(PAPER), many(50)], ids=["paper", "50 layers"])
def test_bars_before_and_after(layers: pd.DataFrame) -> None:
    upper, lower = plot_layers(layers).axes
    heights = [bar.get_height() for bar in upper.patches if isinstance(bar, Rectangle)]
    assert heights == [*layers["params"], *layers["kept_params"]]
    left = [bar.get_height() for bar in lower.patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose(left[len(layers) :], layers["kept_bytes"] / layers["bytes"])
    assert [label.get_text() for label in lower.get_xticklabels()] == list(layers.index)
