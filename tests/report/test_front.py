"""Fronts: what is drawn is what the history says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

import evo
from evo.errors import RunFolderError, SettingsError
from evo.report.front import plot_front, plot_fronts
from tests.searches import search


def points(axes: Axes, label: str) -> Any:
    """Return the points of the markers with this label, or that begins with it."""
    (drawn,) = (entry for entry in axes.collections if str(entry.get_label()).startswith(label))
    return np.asarray(drawn.get_offsets()).tolist()


def test_every_candidate_and_the_front(ecs_run: evo.Run) -> None:
    axes = plot_front(ecs_run).axes[0]
    measured = ecs_run.history.query("status == 'ok' and not cached")
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == measured[["params", "error"]].to_numpy().tolist()
    front = ecs_run.pareto(["error", "params"]).sort_values("params")
    assert points(axes, "Pareto front") == front[["params", "error"]].to_numpy().tolist()
    assert axes.get_xlabel() == "parameters (less is better)"
    assert axes.get_ylabel() == "error (less is better)"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    original = ecs_run.costs.costs(ecs_run.costs.sizes)
    (line,) = (line for line in axes.lines if line.get_label() == "original network")
    assert set(np.asarray(line.get_xdata()).tolist()) == {int(original["params"])}


@pytest.mark.parametrize(("x", "y"), [("params", "error"), ("score", "error"), ("macs", "score"), ("score", "params")])
def test_no_candidate_is_beyond_the_staircase(ecs_run: evo.Run, x: str, y: str) -> None:
    """Between two points of a front, the step is what the one that reaches as far has."""
    axes = plot_front(ecs_run, x, y).axes[0]
    most = ecs_run.maximized([x, y])
    measured = ecs_run.history.query("status == 'ok' and not cached")
    stairs = next(line for line in axes.lines if line.get_drawstyle().startswith("steps"))
    where = stairs.get_drawstyle().removeprefix("steps-")
    assert where == ("pre" if most[x] else "post")
    steps = list(zip(*(np.asarray(data).tolist() for data in (stairs.get_xdata(), stairs.get_ydata())), strict=True))
    for right, up in measured[[x, y]].to_numpy().tolist():
        reached = [height for place, height in steps if (place >= right if most[x] else place <= right)]
        best = (max if most[y] else min)(reached)
        assert up <= best if most[y] else up >= best


def test_individuals_are_marked(ecs_run: evo.Run) -> None:
    rows = ecs_run.history.query("status == 'ok'").index[:2].tolist()
    axes = plot_front(ecs_run, chosen=rows).axes[0]
    assert [text.get_text() for text in axes.texts] == [f"id {row}" for row in rows]
    rings = [entry for entry in axes.collections if np.size(entry.get_facecolor()) == 0]
    drawn = [np.asarray(ring.get_offsets())[0].tolist() for ring in rings]
    assert drawn == ecs_run.history.loc[rows, ["params", "error"]].to_numpy().tolist()


def test_what_cannot_be_drawn_is_one_sentence(ecs_run: evo.Run, failed_run: evo.Run) -> None:
    with pytest.raises(SettingsError, match=r"^unknown objective 'eror'; did you mean 'error'\?$"):
        plot_front(ecs_run, y="eror")
    with pytest.raises(SettingsError, match=r"^x, y: expected two different objectives or costs, got 'macs' twice$"):
        plot_front(ecs_run, x="macs", y="macs")
    with pytest.raises(RunFolderError, match=r": no evaluation has succeeded yet$"):
        plot_front(failed_run)
    with pytest.raises(RunFolderError, match=r"there is no row 999"):
        plot_front(ecs_run, chosen=[999])
    row = int(ecs_run.history.query("status == 'failed'").index[0])
    with pytest.raises(RunFolderError, match=f"row {row} has no results to draw, its status is failed$"):
        plot_front(ecs_run, chosen=[row])


def test_a_single_point(tmp_path: Path) -> None:
    run = search(tmp_path / "run", algorithm=evo.RandomSearch(evaluations=1))
    figure = plot_front(run)
    figure.draw_without_rendering()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["1 candidate", "Pareto front, 1 point", "original network"]


def test_fronts_of_several_runs(ecs_run: evo.Run, nsga_run: evo.Run) -> None:
    comparison = evo.compare([ecs_run, nsga_run], objectives=["error", "params"])
    figure = comparison.plot.front()
    axes = figure.axes[0]
    for name, run in (("ecs", ecs_run), ("nsga", nsga_run)):
        expected = run.pareto(["error", "params"]).sort_values("params")
        assert points(axes, name) == expected[["params", "error"]].to_numpy().tolist()
    joint = comparison.front[["params", "error"]].drop_duplicates().sort_values("params")
    assert points(axes, "joint front") == joint.to_numpy().tolist()


def test_a_projection_has_no_staircase(ecs_run: evo.Run) -> None:
    comparison = evo.compare([ecs_run], objectives=["error", "params", "macs"])
    axes = plot_fronts(comparison, x="macs").axes[0]
    assert not [line for line in axes.lines if line.get_drawstyle() != "default"]
    assert len(points(axes, "ecs")) == comparison.summary.loc["ecs", "front"]
    with pytest.raises(SettingsError, match="unknown objective 'score'; known are: error, macs, params"):
        plot_fronts(comparison, x="score")
    with pytest.raises(SettingsError, match="front: it takes two objectives, compared was error alone"):
        plot_fronts(evo.compare([ecs_run], objectives="error"))
