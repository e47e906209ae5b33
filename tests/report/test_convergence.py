"""How searches got on: the lines are running bests and hypervolumes of the history."""

import moocore
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

import evo
from evo.errors import RunFolderError, SettingsError


def line(axes: Axes, label: str) -> Line2D:
    return next(line for line in axes.lines if line.get_label() == label)


def drawn(entry: Line2D) -> "pd.Series[float]":
    return pd.Series(np.asarray(entry.get_ydata()), index=np.asarray(entry.get_xdata()))


@pytest.mark.parametrize(("objective", "most"), [(None, True), ("error", False), ("macs", False)])
def test_candidates_quantiles_and_the_best_so_far(ecs_run: evo.Run, objective: str | None, most: bool) -> None:
    figure = ecs_run.plot.convergence(objective)
    axes = figure.axes[0]
    name = objective or "score"
    rows = ecs_run.history.query("not cached").reset_index(drop=True)
    values = rows[name].astype(float).where(rows["status"] == "ok")
    found: NDArray[np.float64] = np.ma.filled(np.ma.asarray(axes.collections[0].get_offsets()), np.nan)
    expected = pd.DataFrame({"evaluations": np.arange(1, len(rows) + 1), "value": values}).dropna()
    np.testing.assert_array_equal(found[~np.isnan(found).any(1)], expected.to_numpy())
    best = drawn(line(axes, "best so far"))
    for count, value in best.items():
        earlier = values[: int(str(count))].dropna()
        assert value == (earlier.max() if most else earlier.min())
    middle = drawn(line(axes, "its median"))
    for generation, members in values.groupby(rows["generation"]):
        end = members.index[-1] + 1
        assert middle[end] == members.median(), generation
    failures = int((rows["status"] != "ok").sum())
    assert f"{len(rows) - failures} candidates, {failures} failed" in [
        text.get_text() for text in figure.legends[0].get_texts()
    ]


def test_the_hypervolume_is_that_of_all_so_far(ecs_run: evo.Run) -> None:
    reference = {"error": 1.5, "params": 2_000.0}
    axes = ecs_run.plot.hypervolume(["error", "params"], reference).axes[0]
    rows = ecs_run.history.query("not cached")
    best = float(rows.query("status == 'ok'")["error"].min())
    expected = []
    for count in range(1, len(rows) + 1):
        values = rows[:count].query("status == 'ok'")[["error", "params"]].to_numpy(dtype=float)
        volume = moocore.hypervolume(values, ref=list(reference.values())) if len(values) else 0.0
        expected.append(volume / (1.5 - best) / 2_000)
    (curve,) = axes.lines
    np.testing.assert_allclose(np.asarray(curve.get_ydata()), expected, rtol=1e-12)
    assert axes.get_title() == "Hypervolume of error, parameters"
    assert axes.get_ylim()[0] == 0


def test_several_runs(ecs_run: evo.Run, nsga_run: evo.Run) -> None:
    comparison = evo.compare([ecs_run, nsga_run], objectives=["error", "params"])
    axes = comparison.plot.convergence("params").axes[0]
    volumes = comparison.plot.hypervolume().axes[0]
    for run in ("ecs", "nsga"):
        mine = comparison.convergence.query("run == @run").set_index("evaluations")
        assert drawn(line(axes, run)).to_list() == mine["best_params"].to_list()
        assert drawn(line(volumes, run)).to_list() == mine["hypervolume"].to_list()
    assert line(axes, "ecs").get_color() != line(axes, "nsga").get_color()
    assert axes.get_ylabel() == "best so far: parameters (less is better)"


def test_runs_in_groups(ecs_run: evo.Run, nsga_run: evo.Run, vector_run: evo.Run) -> None:
    comparison = evo.compare([ecs_run, nsga_run, vector_run], objectives=["error", "params"])
    axes = comparison.plot.convergence(by="encoding").axes[0]
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert labels == ["filter_bits, 2 runs", "channel_vector, 1 run"]
    both = [
        comparison.convergence.query("run == @run").set_index("evaluations")["best_error"] for run in ("ecs", "nsga")
    ]
    median = drawn(line(axes, labels[0]))
    shortest = min(map(len, both))
    assert len(median) <= shortest, "where a run has ended, the median of the others would be another one's"
    for count, value in median.items():
        assert value == np.median([curve[int(str(count))] for curve in both])
    with pytest.raises(SettingsError, match="unknown column 'encodin'; did you mean 'encoding'"):
        comparison.plot.hypervolume(by="encodin")
    with pytest.raises(SettingsError, match="unknown objective 'macs'; known are: error, params"):
        comparison.plot.convergence("macs")


def test_a_single_generation_has_no_band(vector_run: evo.Run) -> None:
    axes = vector_run.plot.convergence("params").axes[0]
    assert [entry.get_label() for entry in axes.lines] == ["best so far"]


def test_without_results_there_is_nothing_to_draw(failed_run: evo.Run) -> None:
    for draw in (failed_run.plot.convergence, failed_run.plot.hypervolume):
        with pytest.raises(RunFolderError, match=r"failed: no evaluation has succeeded yet$"):
            draw()
