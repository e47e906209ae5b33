"""Searches side by side, by a common measure."""

from pathlib import Path

import moocore
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import evo
from evo.errors import RunFolderError, SettingsError
from evo.run import Run
from evo.testing import small_task
from tests.searches import search

NAMES = ["error", "params"]


@pytest.fixture(scope="module")
def comparison(ecs_run: Run, nsga_run: Run, vector_run: Run) -> evo.Comparison:
    return evo.compare([ecs_run, str(nsga_run.folder), vector_run.folder], objectives=NAMES)


def measured(run: Run) -> pd.DataFrame:
    return run.history.query("status == 'ok' and not cached")


def test_the_summary_says_what_each_took_and_found(
    comparison: evo.Comparison, ecs_run: Run, nsga_run: Run, vector_run: Run
) -> None:
    summary = comparison.summary
    assert summary.index.tolist() == ["ecs", "nsga", "vectors"]
    assert summary["algorithm"].tolist() == ["ecs", "nsga2", "random"]
    assert summary["encoding"].tolist() == ["filter_bits", "filter_bits", "channel_vector"]
    assert summary["fitness"].tolist() == ["tests.searches:judge", "tests.searches:weigh", "tests.searches:judge"]
    for run in (ecs_run, nsga_run, vector_run):
        row, history = summary.loc[run.folder.name], run.history
        rows = history[~history["cached"]]
        assert row["evaluations"] == len(rows) == int(run.generations["evaluated"].sum())
        assert row["failures"] == int(run.generations["failed"].sum())
        assert row["cached"] == history["cached"].sum()
        assert row["seconds"] == pytest.approx(rows["seconds"].sum())
        span = history["finished"].max() - history["finished"].min()
        assert row["elapsed"] == span.total_seconds()
        assert row["best_error"] == measured(run)["error"].min()
        assert row["best_params"] == measured(run)["params"].min()
        assert row["front"] == len(run.pareto(NAMES))


def test_all_hypervolumes_are_taken_in_one_box(
    comparison: evo.Comparison, ecs_run: Run, nsga_run: Run, vector_run: Run
) -> None:
    everything = pd.concat([measured(run)[NAMES] for run in (ecs_run, nsga_run, vector_run)])
    assert comparison.reference == {"error": everything["error"].max(), "params": comparison.original["params"]}
    assert comparison.ideal == {"error": everything["error"].min(), "params": 0.0}
    for run in (ecs_run, nsga_run, vector_run):
        expected = run.hypervolume(NAMES, comparison.reference, comparison.ideal)
        assert comparison.summary.loc[run.folder.name, "hypervolume"] == pytest.approx(expected, rel=1e-12)
    own = evo.compare([ecs_run], objectives=NAMES, reference={"error": 2.0, "params": 9_999}, ideal={"error": 1.0})
    volume = moocore.hypervolume(measured(ecs_run)[NAMES].to_numpy(float), ref=[2.0, 9_999]) / 9_999
    assert own.summary.loc["ecs", "hypervolume"] == pytest.approx(volume, rel=1e-12)


def test_the_joint_front_is_what_no_run_beats(
    comparison: evo.Comparison, ecs_run: Run, nsga_run: Run, vector_run: Run
) -> None:
    everything = pd.concat([measured(run)[NAMES] for run in (ecs_run, nsga_run, vector_run)]).drop_duplicates()
    best = everything[moocore.is_nondominated(everything.to_numpy(float), keep_weakly=True)]
    front = comparison.front
    assert sorted(map(tuple, front[NAMES].drop_duplicates().to_numpy().tolist())) == sorted(
        map(tuple, best.to_numpy().tolist())
    )
    assert front["error"].is_monotonic_increasing
    for run in (ecs_run, nsga_run, vector_run):
        mine = front[front["run"] == run.folder.name]
        assert comparison.summary.loc[run.folder.name, "share"] == len(mine[NAMES].drop_duplicates()) / len(best)
        row = mine.iloc[0] if len(mine) else None
        if row is not None:
            assert run.history.loc[row["id"], "key"] == row["key"]


def test_a_point_that_two_have_found_counts_for_both(ecs_run: Run, tmp_path: Path) -> None:
    again = search(tmp_path / "again")
    twice = evo.compare([ecs_run, again], objectives=NAMES)
    assert twice.summary["share"].tolist() == [1.0, 1.0]
    first, second = twice.summary["hypervolume"].tolist()
    assert first == second


def test_the_convergence_is_long(comparison: evo.Comparison, ecs_run: Run) -> None:
    frame = comparison.convergence
    assert frame.columns.tolist() == [
        "run", "evaluations", "id", "generation", "best_error", "best_params", "hypervolume", "front",
    ]  # fmt: skip
    last = frame.groupby("run", observed=True).last()
    pd.testing.assert_series_equal(last["best_error"], comparison.summary["best_error"], check_index=False)
    assert last["evaluations"].tolist() == comparison.summary["evaluations"].tolist()
    assert frame["run"].cat.categories.tolist() == ["ecs", "nsga", "vectors"]


def test_every_column_is_described(comparison: evo.Comparison) -> None:
    for frame in (comparison.summary.reset_index(), comparison.convergence, comparison.fronts, comparison.front):
        assert set(frame.columns) <= set(frame.attrs["columns"]), frame.attrs
    assert comparison.summary.attrs["columns"]["seconds"].endswith("[s]")


def test_tables_go_to_parquet_and_back(comparison: evo.Comparison, tmp_path: Path) -> None:
    for frame in (comparison.summary, comparison.convergence, comparison.fronts, comparison.front):
        frame.to_parquet(tmp_path / "x.parquet")
        again = pd.read_parquet(tmp_path / "x.parquet")
        pd.testing.assert_frame_equal(again, frame)
        assert again.attrs == frame.attrs


def test_names(ecs_run: Run, nsga_run: Run, tmp_path: Path) -> None:
    named = evo.compare({"mine": ecs_run, "yours": nsga_run.folder}, objectives=NAMES)
    assert named.summary.index.tolist() == ["mine", "yours"]
    other = search(tmp_path / "ecs")
    parents = [ecs_run.folder.parent.name, tmp_path.name]
    assert evo.compare([ecs_run, other]).summary.index.tolist() == [f"{name}/ecs" for name in parents]


def test_a_run_without_results_beside_others(ecs_run: Run, failed_run: Run) -> None:
    summary = evo.compare([ecs_run, failed_run], objectives=NAMES).summary
    row = summary.loc["failed"]
    assert (row["failures"], row["front"], row["hypervolume"], row["share"]) == (4, 0, 0.0, 0.0)
    assert np.isnan(row["best_error"])
    assert summary.loc["ecs", "share"] == 1


def test_default_objectives_are_what_the_runs_weigh(ecs_run: Run, vector_run: Run) -> None:
    assert dict(evo.compare([ecs_run, vector_run]).maximized) == {"error": False, "params": False}
    assert dict(evo.compare([ecs_run], objectives=["score", "macs"]).maximized) == {"score": True, "macs": False}


def test_what_does_not_compare_is_refused(ecs_run: Run, nsga_run: Run, failed_run: Run, tmp_path: Path) -> None:
    one = evo.RandomSearch(evaluations=1)

    def refused(sentence: str, *arguments: object, **others: object) -> None:
        with pytest.raises(SettingsError, match=sentence):
            evo.compare(*arguments, **others)  # type: ignore[arg-type]

    refused(r"^runs: expected a list of runs or folders, got a Run$", ecs_run)
    refused(r"^runs: expected a list of runs or folders, got a str$", "runs/a")
    refused(r"^runs: expected at least one run or folder, got none$", [])
    refused(r"^runs: expected runs or folders, got 3$", [ecs_run, 3])
    refused(r"^runs: .*ecs is there twice$", [ecs_run, ecs_run.folder])
    refused(r"^unknown objective 'eror'; did you mean 'error'\?$", [ecs_run], objectives="eror")
    refused(r"^unknown objective 'score'; known are: ", [ecs_run, nsga_run], objectives="score")
    refused(r"^reference: unknown objective 'macs'; known are: error, params$", [ecs_run], reference={"macs": 1.0})
    task = small_task()
    with torch.no_grad():
        model = task.network.build(task.network.full)
        next(layer for layer in model.modules() if isinstance(layer, nn.Linear)).weight.add_(1)
    search(tmp_path / "net", task=evo.Task(model, task.train, task.val), algorithm=one)
    refused(r"^runs: net is a search with another network than ecs; such", [ecs_run, tmp_path / "net"])
    search(tmp_path / "val", task=evo.Task(task.network, task.train, task.train), algorithm=one)
    refused(r"^runs: val is a search with other validation images than ecs; such", [ecs_run, tmp_path / "val"])

    @evo.fitness(maximize=("error", "gain"))
    def upside_down(candidate: evo.Candidate) -> dict[str, float]:
        return {"error": 1.0, "gain": 1.0}

    @evo.fitness(minimize=("run", "error"))
    def called_run(candidate: evo.Candidate) -> dict[str, float]:
        return {"error": 1.0, "run": 1.0}

    search(tmp_path / "run", fitness=called_run, algorithm=one)
    refused(r"^runs: run has an objective called 'run', as a column of comparisons is$", [tmp_path / "run"])
    search(tmp_path / "up", fitness=upside_down, algorithm=one)
    both = r"^runs: ecs weighs error \(min\), params \(min\), up error \(max\), gain \(max\); name objectives or costs "
    refused(both, [ecs_run, tmp_path / "up"])
    refused(r"^runs: ecs weighs error \(min\), up error \(max\)", [ecs_run, tmp_path / "up"], objectives="error")
    with pytest.raises(RunFolderError, match=r"failed: no evaluation has succeeded yet$"):
        evo.compare([failed_run])
    with pytest.raises(RunFolderError, match="nowhere: not a run folder"):
        evo.compare(["nowhere"])
