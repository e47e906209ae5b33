"""`run.plot`: pictures of individuals of any encoding, and what all pictures have in common."""

import inspect
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

import evo
from evo.cli.plot import KINDS
from evo.errors import RunFolderError, SettingsError
from evo.report.accessor import RunPlots
from evo.report.style import Picture


def pixels(axes: Axes) -> NDArray[np.float64]:
    return np.ma.filled(np.ma.asarray(axes.images[0].get_array(), dtype=float), np.nan)


OF_RUNS = [kind for kind in KINDS if kind != "filters"]


def test_the_shell_knows_every_picture() -> None:
    own = [name for name, member in vars(RunPlots).items() if inspect.isfunction(member) and not name.startswith("_")]
    assert sorted(own) == sorted(KINDS)


OF_ENCODINGS = ("widths", "ribbon", "fingerprint", "layers", "filters")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("ecs_run", kind) for kind in KINDS],
        *[(name, kind) for name in ("policy_run", "vector_run") for kind in OF_ENCODINGS],
    ],
)
def test_every_picture_of_every_encoding_is_a_figure_of_its_own(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(name)
    figure = getattr(run.plot, kind)()
    assert isinstance(figure, Picture)
    figure.draw_without_rendering()
    assert figure._repr_png_().startswith(b"\x89PNG"), "as a notebook shows it"
    for axes in figure.axes:
        for legend in filter(None, [axes.get_legend(), *figure.legends]):
            box = legend.get_window_extent()
            assert box.x0 >= -1, "the legend is cut off"
            assert box.x1 <= figure.bbox.x1 + 1


@pytest.mark.parametrize("kind", OF_RUNS)
def test_of_failures_alone_there_is_no_picture(kind: str, failed_run: evo.Run) -> None:
    with pytest.raises(RunFolderError, match=r"failed: no evaluation has succeeded yet$"):
        getattr(failed_run.plot, kind)()


def test_a_ribbon_without_bits_tells_the_pruning_by_colour(ecs_run: evo.Run) -> None:
    axes = ecs_run.plot.ribbon(2).axes[0]
    layers = ecs_run.layers(2).iloc[:-1]
    segments = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    widths = layers["kept_weights"] / layers["kept_weights"].sum()
    np.testing.assert_allclose([segment.get_width() for segment in segments], widths)
    colours = matplotlib.colormaps["cividis"](layers["pruned"].to_numpy())
    np.testing.assert_allclose(to_rgba_array([segment.get_facecolor() for segment in segments]), colours)
    assert not any(segment.get_hatch() for segment in segments)
    assert [text.get_text().split("\n")[0] for text in axes.texts] == list(layers.index)
    assert axes.get_title() == "Architecture ribbon of id 2"


def test_a_ribbon_of_few_bits(policy_run: evo.Run) -> None:
    row = int(str(policy_run.best.name))
    axes = policy_run.plot.ribbon().axes[0]
    layers = policy_run.layers(row).iloc[:-1]
    for text, (name, layer) in zip(axes.texts, layers.iterrows(), strict=True):
        assert text.get_text() == f"{name}\n{int(layer['kept_weights'])} · {int(layer['bits'])} bit"


def test_a_fingerprint_draws_what_there_is(ecs_run: evo.Run, policy_run: evo.Run) -> None:
    plain, bits = ecs_run.plot.fingerprint(2).axes[0], policy_run.plot.fingerprint(2).axes[0]
    assert [label.get_text() for label in plain.get_xticklabels()] == ["weights", "FLOPs", "feature\nmaps", "pruning"]
    assert [label.get_text() for label in bits.get_xticklabels()][-1] == "bits"
    layers = ecs_run.layers(2).iloc[:-1]
    for line, (_, layer) in zip(plain.lines, layers.iterrows(), strict=True):
        expected = [layer[name] / layers[name].max() for name in ("kept_weights", "kept_macs", "kept_feature_maps")]
        np.testing.assert_allclose(np.asarray(line.get_ydata())[:4], [*expected, layer["pruned"]])


def test_layers_before_and_after(ecs_run: evo.Run) -> None:
    upper, lower = ecs_run.plot.layers(2).axes
    layers = ecs_run.layers(2).iloc[:-1]
    heights = [bar.get_height() for bar in upper.patches if isinstance(bar, Rectangle)]
    assert heights == [*layers["weights"], *layers["kept_weights"]]
    left = [bar.get_height() for bar in lower.patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose(left, layers["kept_weights"] / layers["weights"])
    assert lower.get_ylabel() == "weights left"


def test_filters_before_and_after(ecs_run: evo.Run) -> None:
    row = 2
    blueprint = ecs_run.blueprint(row)
    tuned = ecs_run.build(row)
    figure = ecs_run.plot.filters(row, "4", tuned)
    original = ecs_run.network.build(ecs_run.network.full).get_parameter("4.weight").detach().numpy()
    channel = int(np.flatnonzero(blueprint.masks["0"])[0])
    kept = np.flatnonzero(blueprint.masks["4"]).tolist()
    pictures = [pixels(axes) for axes in figure.axes]
    for index in range(8):
        tiles = [picture[:3, 4 * index : 4 * index + 3] for picture in pictures]
        np.testing.assert_array_equal(tiles[0], original[index, channel])
        for tile in tiles[1:]:  # not fine-tuned: the weights are the original's
            np.testing.assert_array_equal(tile, original[index, channel] if index in kept else np.full((3, 3), np.nan))
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["original", f"kept, {len(kept)} of 8", "kept, after fine-tuning"]


def test_filters_that_cannot_be_drawn(ecs_run: evo.Run) -> None:
    with pytest.raises(SettingsError, match="unknown convolution '9'; known are: 0, 4"):
        ecs_run.plot.filters(layer="9")
    whole = ecs_run.network.build(ecs_run.network.full)
    with pytest.raises(SettingsError, match="tuned: its 4 has 8 filters, that of id 2 keeps"):
        ecs_run.plot.filters(2, "4", whole)
    with pytest.raises(RunFolderError, match=r"open the run with its task: Run\(folder, task\)"):
        evo.Run(ecs_run.folder).plot.filters()


def test_many_filters_are_wrapped() -> None:
    from evo.report.plots import TILES, plot_filters

    before = np.arange(60 * 9, dtype=np.float32).reshape(60, 3, 3)
    original, kept = plot_filters(before, [59], None).axes
    picture = pixels(original)
    assert picture.shape == (3 * 4 - 1, TILES * 4 - 1)
    np.testing.assert_array_equal(picture[8:11, 4 * 9 : 4 * 9 + 3], before[59])
    assert np.isfinite(pixels(kept)).sum() == 9


def test_matplotlib_is_imported_by_the_first_picture(ecs_run: evo.Run, tmp_path: Path) -> None:
    code = f"""
import sys, evo
run = evo.Run({str(ecs_run.folder)!r})
run.history, run.pareto(), evo.compare([run], objectives=["error", "params"])
assert "matplotlib" not in sys.modules
run.plot.front()
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
