"""Layer widths: shares of channels that individuals keep."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from torch import nn

import evo
from evo.errors import RunFolderError, SettingsError
from evo.report.widths import kept_shares
from tests.searches import search


def test_shares_are_those_of_the_structures(ecs_run: evo.Run) -> None:
    shares = kept_shares(ecs_run, [3, 0])
    assert shares.index.tolist() == [3, 0]
    for row in (3, 0):
        masks = ecs_run.blueprint(row).masks
        assert shares.loc[row].to_dict() == {name: masks[name].mean() for name in ("0", "4", "9")}


def test_a_panel_per_group(ecs_run: evo.Run) -> None:
    figure = ecs_run.plot.widths(best=3)
    assert [axes.get_title() for axes in figure.axes] == ["0 (6 channels)", "4 (8 channels)", "9 (12 channels)"]
    history = ecs_run.history.query("status == 'ok'")
    for group, axes in zip(ecs_run.groups, figure.axes, strict=True):
        (mean,) = axes.lines
        for generation, value in zip(*map(np.asarray, (mean.get_xdata(), mean.get_ydata())), strict=True):
            best = history[history["generation"] == generation].nlargest(3, "score", keep="first")
            assert value == pytest.approx(np.mean([ecs_run.blueprint(row).masks[group].mean() for row in best.index]))


def test_a_heat_map_of_one_generation(vector_run: evo.Run) -> None:
    axes = vector_run.plot.widths(best=99).axes[0]
    (picture,) = axes.images
    rows = vector_run.history.query("status == 'ok'").index.tolist()
    np.testing.assert_allclose(np.asarray(picture.get_array())[:, 0], kept_shares(vector_run, rows).mean())
    assert picture.get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "4", "9"]


def test_a_heat_map_of_many_groups(tmp_path: Path, task: evo.Task) -> None:
    deep = nn.Sequential(*(nn.Sequential(nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1), nn.ReLU()) for i in range(7)))
    network = nn.Sequential(*deep, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    run = search(
        tmp_path / "run",
        task=evo.Task(network, task.train, task.val),
        fitness=evo.ZeroShot(proxy="capacity"),
        algorithm=evo.RandomSearch(evaluations=12, batch=6),
    )
    (picture,) = run.plot.widths(best=2).axes[0].images
    assert np.asarray(picture.get_array()).shape == (7, 2)


def test_parallel_coordinates_have_a_line_per_point_of_the_front(ecs_run: evo.Run) -> None:
    figure = ecs_run.plot.parallel()
    (bundle,) = (entry for entry in figure.axes[0].collections if isinstance(entry, LineCollection))
    front = ecs_run.pareto(["error", "params"])
    names = ["error", "params", "macs", "feature_maps", "peak_memory"]
    heights = np.array([np.asarray(segment)[:, 1] for segment in bundle.get_segments()])
    values = front[names].to_numpy(dtype=float)
    span = values.max(0) - values.min(0)
    np.testing.assert_allclose(heights, 1 - (values - values.min(0)) / span, err_msg="all are minimised: less is up")
    assert np.asarray(bundle.get_array()).tolist() == front["error"].tolist()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[:2] == ["error", "parameters"]


def test_parallel_coordinates_of_widths_and_of_what_is_maximised(ecs_run: evo.Run) -> None:
    row = int(ecs_run.history.query("status == 'ok'").index[0])
    axes = ecs_run.plot.parallel(["score", "error"], widths=True, chosen=row).axes[0]
    marked = next(line for line in axes.lines if len(np.asarray(line.get_xdata())) == 5)
    heights = np.asarray(marked.get_ydata())
    assert heights[2:].tolist() == kept_shares(ecs_run, [row]).to_numpy()[0].tolist()
    (bundle,) = (entry for entry in axes.collections if isinstance(entry, LineCollection))
    scores = np.asarray(bundle.get_array())
    first = np.array([np.asarray(segment)[0, 1] for segment in bundle.get_segments()])
    np.testing.assert_allclose(first, (scores - scores.min()) / (scores.max() - scores.min()))
    assert f"id {row}" in [text.get_text() for text in axes.texts]


def test_what_cannot_be_drawn(ecs_run: evo.Run, failed_run: evo.Run) -> None:
    with pytest.raises(SettingsError, match="columns: expected at least two objectives or costs, got error"):
        ecs_run.plot.parallel(["error"])
    with pytest.raises(SettingsError, match="unknown objective 'sore'; did you mean 'score'"):
        ecs_run.plot.parallel(["sore", "error"])
    with pytest.raises(SettingsError, match="best: expected at least 1 individual of each generation, got 0"):
        ecs_run.plot.widths(0)
    for draw in (failed_run.plot.widths, failed_run.plot.parallel):
        with pytest.raises(RunFolderError, match="no evaluation has succeeded yet"):
            draw()
