"""The search loop, in one process: caching, failures, limits, resumption."""

import fcntl
import itertools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import tomli_w

import evo
from evo.algorithms import Algorithm
from evo.callbacks import Progress
from evo.candidate import Candidate
from evo.errors import EvaluatorError, RunFolderError, SettingsError
from evo.task import Task
from evo.testing import small_task
from tests.interruptions import Stopped, Watch, assert_same, lasting, stopping_after

HERE = evo.LocalEvaluator(workers=0, retries=0)


pytestmark = pytest.mark.usefixtures("one_by_one")


CALLS: list[str] = []


@evo.fitness(maximize="score", minimize=("noise", "macs"))
def judge(candidate: Candidate) -> Mapping[str, float]:
    CALLS.append(candidate.blueprint.key)
    counts = candidate.blueprint.counts
    if counts["0"] == 4:
        raise ValueError(f"four is refused, whatever {counts['9']} says")
    return {
        "score": 0.01 + abs(counts["4"] - 3) + counts["9"] / 100,
        "noise": float(candidate.rng("noise").normal()),
    }


def search(task: Task, folder: Path | None, **changes: Any) -> evo.Run:
    arguments: dict[str, Any] = {
        "encoding": evo.FilterBits(),
        "fitness": judge,
        "algorithm": evo.ECS(generations=5, population=10),
        "evaluator": HERE,
        "out": folder,
        "seed": 3,
        "reuse": False,
    }
    return evo.search(task, **{**arguments, **changes})


@pytest.fixture
def calls() -> list[str]:
    """What `judge` is called for in this process, by key."""
    CALLS.clear()
    return CALLS


def test_equal_structures_are_measured_once(task: Task, folder: Path, calls: list[str]) -> None:
    frame = search(task, folder, algorithm=evo.ECS(generations=12, population=10)).history
    assert len(calls) == len(set(calls)) == (~frame["cached"]).sum()
    assert frame["cached"].sum() > 0
    for _, rows in frame.groupby("key"):
        assert rows["cached"].tolist() == [False] + [True] * (len(rows) - 1)
        outcome = rows[["status", "reason", "score", "noise", "macs"]]
        assert len(outcome.drop_duplicates()) == 1
    assert frame.loc[frame["cached"], "seconds"].isna().all()
    assert frame.loc[~frame["cached"], "seconds"].gt(0).all()


def test_failures_are_rows_and_the_search_goes_on(task: Task, folder: Path) -> None:
    run = search(task, folder)
    frame = run.history
    failed = frame[frame["status"] == "failed"]
    assert len(failed) > 0
    assert failed["reason"].str.contains(r"^ValueError: four is refused, whatever \d+ says \(test_search.py:").all()
    assert failed[["score", "noise"]].isna().all().all()
    assert failed["macs"].gt(0).all(), "costs need no evaluation"
    assert frame["generation"].max() == 4
    named = {parent for parents in frame["parents"] for parent in json.loads(parents)}
    assert not named & set(failed.index), "failures have no children"


def test_history_agrees_with_what_the_candidates_are(task: Task, folder: Path) -> None:
    run = search(task, folder)
    for row, line in run.history.iterrows():
        blueprint = run.blueprint(int(str(row)))
        assert blueprint.key == line["key"]
        assert {name: line[name] for name in task.network.cost_of(blueprint)} == task.network.cost_of(blueprint)
        if line["status"] == "ok":
            assert judge(Candidate(task, blueprint, 3)) == {"score": line["score"], "noise": line["noise"]}


def test_when_everything_fails_the_search_stops_and_says_why(task: Task, folder: Path) -> None:
    @evo.fitness(maximize="score")
    def broken(candidate: Candidate) -> Mapping[str, float]:
        raise OSError("no such data")

    with pytest.raises(
        EvaluatorError, match=r"^every one of the first 10 evaluations failed; the first: OSError: no"
    ) as e:
        search(task, folder, fitness=broken)
    assert "\n" not in str(e.value)
    run = evo.Run(folder)
    assert (run.history["status"] == "failed").all()
    with pytest.raises(RunFolderError, match="no evaluation has succeeded yet"):
        _ = run.best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "bits"}, "encoding: expected an Encoding, got str"),
        (
            {"fitness": lambda candidate: {}},
            r"fitness: expected a Fitness, got function; decorate the function with @evo",
        ),
        ({"algorithm": evo.ECS}, "algorithm: expected an Algorithm, got ModelMetaclass"),
        ({"evaluator": 2}, "evaluator: expected an Evaluator, got int"),
        ({"seed": -1}, "seed: expected a whole number ≥ 0, got -1"),
        ({"seed": 0.5}, r"seed: expected a whole number ≥ 0, got 0\.5"),
        ({"max_evaluations": 0}, "max_evaluations: expected a whole number ≥ 1, got 0"),
        ({"max_evaluations": "5"}, "max_evaluations: expected a whole number ≥ 1, got '5'"),
        ({"max_evaluations": 10.5}, r"max_evaluations: expected a whole number ≥ 1, got 10\.5"),
        ({"seed": True}, "seed: expected a whole number ≥ 0, got True"),
        ({"fitness": evo.fitness(minimize="error")(lambda candidate: {"error": 1})}, "the fitness minimises 'error'"),
        ({"fitness": evo.fitness(maximize="status")(lambda candidate: {})}, "an objective cannot be called 'status'"),
        ({"fitness": evo.SubsetFineTune(batch_size=500)}, "batch_size 500 is larger than the 96 images"),
        ({"budget": 0.3}, r"^budget: expected a Budget, got float$"),
        ({"budget": evo.Budget(params=9)}, r"^budget: params ≤ 9 \(0\.942 % of 955\) cannot be met; even the smallest"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    task: Task, folder: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        search(task, folder, **change)
    assert "\n" not in str(raised.value)
    assert not folder.exists()


def test_a_task_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="task: expected a Task, got NoneType"):
        search(None, folder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 4}, "seed was 3, is now 4"),
        ({"algorithm": evo.ECS(generations=6, population=10)}, "algorithm.generations was 5, is now 6"),
        ({"algorithm": evo.RandomSearch()}, "algorithm"),
        ({"encoding": evo.FilterBits(min_filters=2)}, "encoding.min_filters was 1, is now 2"),
        ({"evaluator": evo.LocalEvaluator(workers=0, threads=2)}, "threads was 1, is now 2"),
        ({"fitness": evo.SubsetFineTune(batch_size=32)}, "fitness"),
        ({"budget": evo.Budget(params=0.5)}, "budget was None, is now {'params': 0.5}"),
    ],
)
def test_another_search_is_refused_with_the_difference(
    task: Task, folder: Path, change: dict[str, Any], difference: str
) -> None:
    search(task, folder, max_evaluations=10)
    with pytest.raises(RunFolderError, match=difference) as raised:
        search(task, folder, **change)
    assert str(raised.value).startswith(f"{folder}: belongs to another search (")


def test_other_data_or_weights_are_refused(task: Task, folder: Path) -> None:
    search(task, folder, max_evaluations=10)
    model = task.network.build(task.network.full)
    with pytest.raises(RunFolderError, match=r"task\.val was '\w+', is now"):
        search(evo.Task(model, task.train, task.train), folder)
    model.get_parameter("0.weight").data.add_(1.0)
    with pytest.raises(RunFolderError, match=r"task\.network was '\w+', is now"):
        search(evo.Task(model, task.train, task.val), folder)


def test_a_folder_that_another_search_writes_is_refused(task: Task, folder: Path) -> None:
    search(task, folder, max_evaluations=10)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="another search is writing here"):
            search(task, folder)
    assert len(search(task, folder).history) > 10


def test_a_place_that_cannot_be_written_is_refused(task: Task, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        search(task, tmp_path / "file" / "run")


def test_a_search_without_a_folder_makes_one(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = search(task, None, max_evaluations=10)
    assert run.folder.parent == Path("runs")
    assert (tmp_path / run.folder / "run.toml").is_file()


def test_the_limit_ends_the_search_before_the_generation_that_would_exceed_it(task: Task, tmp_path: Path) -> None:
    whole = search(task, tmp_path / "whole")
    measured = (~whole.history["cached"]).groupby(whole.history["generation"]).sum().cumsum()
    for limit, generations in ((int(measured[2]), 3), (int(measured[2]) - 1, 2), (int(measured[3]) + 1, 4)):
        run = search(task, tmp_path / f"limit{limit}", max_evaluations=limit)
        assert run.generations["generation"].tolist() == list(range(generations))
        assert (~run.history["cached"]).sum() <= limit
        assert_same(search(task, tmp_path / f"limit{limit}"), whole)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return search(small_task(), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("after", [0, 1, 2, 9, 10, 11, 12, 17, 25, 31, 40])
def test_an_interrupted_search_continues_bit_for_bit(
    task: Task, folder: Path, uninterrupted: evo.Run, calls: list[str], after: int
) -> None:
    with pytest.raises(Stopped):
        search(task, folder, callbacks=[stopping_after(after)])
    assert_same(search(task, folder), uninterrupted)
    assert len(calls) == len(set(calls)) > 20, "nothing is measured twice"


def test_interruptions_without_end_change_nothing(task: Task, folder: Path, uninterrupted: evo.Run) -> None:
    interruptions = 0
    while True:
        try:
            run = search(task, folder, callbacks=[stopping_after(3, KeyboardInterrupt)])
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 10
    assert_same(run, uninterrupted)


def test_a_limit_that_allows_no_generation_is_refused(task: Task, folder: Path, calls: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"^max_evaluations: got 9, but the first generation alone takes 10$"):
        search(task, folder, max_evaluations=9)
    assert calls == []
    assert len(search(task, folder, max_evaluations=10).generations) == 1


def test_the_limit_counts_what_an_interrupted_search_had_measured(task: Task, folder: Path) -> None:
    with pytest.raises(Stopped):
        search(task, folder, callbacks=[stopping_after(17)])
    rows = len(evo.Run(folder).history)
    assert 10 < rows < 20
    search(task, folder, max_evaluations=rows)
    assert (~evo.Run(folder).history["cached"]).sum() <= rows


def test_a_finished_search_is_returned_as_it_is(task: Task, folder: Path, calls: list[str]) -> None:
    first = lasting(search(task, folder))
    calls.clear()
    again = search(task, folder, max_evaluations=1)
    assert calls == []
    pd.testing.assert_frame_equal(lasting(again), first)


def test_same_seed_same_search_and_another_seed_another(task: Task, tmp_path: Path, uninterrupted: evo.Run) -> None:
    assert_same(search(task, tmp_path / "same"), uninterrupted)
    other = search(task, tmp_path / "other", seed=4)
    assert not set(other.history["key"]) <= set(uninterrupted.history["key"])


def test_workers_change_nothing(task: Task, folder: Path, uninterrupted: evo.Run) -> None:
    assert_same(search(task, folder, evaluator=evo.LocalEvaluator(workers=2, retries=0)), uninterrupted)


def test_parts_can_be_used_again(task: Task, tmp_path: Path) -> None:
    algorithm = evo.ECS(generations=3, population=6)
    runs = [search(task, tmp_path / name, algorithm=algorithm) for name in ("one", "two")]
    assert_same(*runs)


def test_progress_adds_up(task: Task, folder: Path) -> None:
    seen: list[Progress] = []
    run = search(task, folder, callbacks=[Watch(seen.append)])
    frame = run.history
    last = seen[-1]
    assert (last.generation, last.generations, last.pending) == (5, 5, 0)
    assert last.evaluated == (~frame["cached"]).sum()
    assert last.cached == frame["cached"].sum()
    assert last.failed == ((frame["status"] != "ok") & ~frame["cached"]).sum()
    assert last.best is not None
    assert last.best["score"] == run.best["score"] == frame["score"].max()
    assert frame.loc[int(last.best["id"]), "macs"] == last.best["macs"]
    assert last.original == task.network.cost_of(task.network.full)
    for before, after in itertools.pairwise(seen):
        assert after.evaluated - before.evaluated in (0, 1)
        assert after.seconds >= before.seconds
    assert all(one.seconds_left is not None and one.seconds_left >= 0 for one in seen if one.generation)
    assert len({one.pending for one in seen}) > 5


BUDGETED: dict[str, Any] = {
    "algorithm": evo.FGA(generations=4, population=8, parents=3),
    "budget": evo.Budget(params=0.3, macs=5000),
}


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return search(small_task(), tmp_path_factory.mktemp("budgeted") / "run", **BUDGETED)


def test_every_candidate_obeys_the_budget(budgeted: evo.Run) -> None:
    frame = budgeted.history
    assert len(frame) == 8 + 4 * 8
    assert frame["params"].max() <= 0.3 * 955
    assert frame["macs"].max() <= 5000
    assert budgeted.settings["budget"] == {"params": 0.3, "macs": 5000}
    assert budgeted.limits is not None
    assert budgeted.limits.describe() == "params ≤ 286 (29.9 % of 955), macs ≤ 5,000 (46.3 % of 10,788)"


def test_draws_are_counted_for_every_generation(budgeted: evo.Run, uninterrupted: evo.Run) -> None:
    table = budgeted.generations
    assert (table["drawn"] >= table["asked"] + table["rejected"]).all()
    new = table["drawn"] - table["rejected"] - table["duplicates"]
    assert (new <= table["asked"] + 1).all(), "of two children, the last place takes one"
    assert table["rejected"].sum() > 0
    assert table["duplicates"].sum() > 0
    assert not {"drawn", "rejected", "duplicates"} & {*uninterrupted.generations}
    assert uninterrupted.limits is None


@pytest.mark.parametrize("algorithm", [evo.ECS(generations=3, population=8), evo.RandomSearch(evaluations=20, batch=8)])
def test_any_algorithm_obeys_a_budget(task: Task, folder: Path, algorithm: Algorithm) -> None:
    run = search(task, folder, algorithm=algorithm, budget=evo.Budget(macs=0.2))
    assert run.history["macs"].max() <= 0.2 * 10_788
    assert run.generations["rejected"].sum() > 0


@pytest.mark.parametrize("after", [0, 3, 9, 14, 22])
def test_an_interrupted_search_within_a_budget_continues_bit_for_bit(
    task: Task, folder: Path, budgeted: evo.Run, after: int
) -> None:
    with pytest.raises(Stopped):
        search(task, folder, callbacks=[stopping_after(after)], **BUDGETED)
    seen: list[Progress] = []
    run = search(task, folder, callbacks=[Watch(seen.append)], **BUDGETED)
    assert_same(run, budgeted)
    assert (seen[-1].drawn, seen[-1].rejected) == tuple(budgeted.generations[["drawn", "rejected"]].sum())


def test_another_budget_is_another_search(task: Task, folder: Path) -> None:
    search(task, folder, max_evaluations=8, **BUDGETED)
    for budget, difference in (
        (evo.Budget(params=0.3), "budget.macs was 5000, is now None"),
        (evo.Budget(params=0.31, macs=5000), "budget.params was 0.3, is now 0.31"),
        (None, "budget was {'params': 0.3, 'macs': 5000}, is now None"),
    ):
        with pytest.raises(RunFolderError) as caught:
            search(task, folder, **{**BUDGETED, "budget": budget})
        assert str(caught.value) == f"{folder}: belongs to another search ({difference}); choose another folder"


def test_the_folder_holds_the_original_weights(task: Task, folder: Path) -> None:
    search(task, folder, max_evaluations=10)
    stored = safetensors.torch.load_file(folder / "base.safetensors")
    assert all(bool((stored[name] == tensor).all()) for name, tensor in task.network.tensors().items())


def test_where_the_parts_come_from_is_noted(task: Task, folder: Path) -> None:
    run = search(task, folder, max_evaluations=10, source={"model": "mine:net", "nothing": None})
    assert run.settings["source"] == {"model": "mine:net"}
    assert run.settings["max_evaluations"] == 10


def halves(task: Task) -> list[evo.Blueprint]:
    """Structures that keep the first half of one group, and all of the others."""
    full = task.network.full.masks
    return [
        evo.Blueprint.from_masks({**full, name: np.arange(len(mask)) < len(mask) // 2}) for name, mask in full.items()
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_search_begins_with_its_seeds_and_goes_on_with_them(tmp_path: Path, asynchronous: bool) -> None:
    task = small_task()
    seeds = halves(task)
    algorithm = evo.NSGA2(generations=3, population=10, asynchronous=asynchronous)
    whole = search(task, tmp_path / "whole", algorithm=algorithm, seeds=seeds)
    rows = whole.history[whole.history["operator"] == "seed"]
    assert rows.index.tolist() == list(range(len(seeds)))
    assert [whole.blueprint(int(row)) for row in rows.index] == seeds
    with pytest.raises(Stopped):
        search(task, tmp_path / "part", algorithm=algorithm, seeds=seeds, callbacks=[stopping_after(1)])
    assert_same(search(task, tmp_path / "part", algorithm=algorithm), whole)
    with pytest.raises(RunFolderError, match="it began with 3 seeds, not with these 2"):
        search(task, tmp_path / "part", algorithm=algorithm, seeds=seeds[:2])


def test_given_structures_alone_can_be_measured(tmp_path: Path) -> None:
    task = small_task()
    seeds = halves(task)
    run = search(task, tmp_path, algorithm=evo.RandomSearch(evaluations=3, batch=2), seeds=seeds)
    assert run.history["key"].tolist() == [structure.key for structure in seeds]


def test_seeds_that_cannot_be_are_refused(tmp_path: Path) -> None:
    task = small_task()
    seeds = halves(task)
    for changes, message in (
        ({"seeds": seeds, "budget": evo.Budget(params=0.6)}, "seeds: structure 0 exceeds the budget of params"),
        (
            {"seeds": seeds, "encoding": evo.ChannelVector(free=("4",))},
            "seeds: structure 0 is not one of this search's",
        ),
        (
            {"seeds": [evo.Blueprint.from_masks({"x": np.ones(3, bool)})]},
            "seeds: structure 0 is not one of this search's",
        ),
        ({"seeds": seeds, "encoding": evo.FilterBits(min_filters=9)}, "seeds: structure 0 cannot be expressed"),
        (
            {"seeds": seeds, "algorithm": evo.RandomSearch(evaluations=2)},
            "3 structures, but RandomSearch begins with 2",
        ),
        (
            {"seeds": seeds[0]},
            r"^seeds: expected structures \(evo\.Blueprint\) or sources of such \(evo\.seeds\) in a list, got Blueprint\(",
        ),
        ({"seeds": [seeds[0].masks]}, r"^seeds: expected structures .*, got \[\{"),
    ):
        with pytest.raises(SettingsError, match=message):
            search(task, tmp_path / "run", **changes)
        assert not (tmp_path / "run").exists()


def test_seeds_of_another_search_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    task = small_task()
    search(task, tmp_path, seeds=halves(task), max_evaluations=10)
    with pytest.raises(RunFolderError, match=r"belongs to another search \(encoding\.name was 'filter_bits'"):
        search(task, tmp_path, encoding=evo.ChannelVector(free=("4",)))


@pytest.mark.parametrize("damage", [3, ["{}"]], ids=["no list", "no structure"])
def test_recorded_seeds_that_are_damaged_are_named(tmp_path: Path, damage: object) -> None:
    task = small_task()
    search(task, tmp_path, seeds=halves(task), max_evaluations=10)
    settings = tmp_path / "run.toml"
    settings.write_text(tomli_w.dumps({**tomllib.loads(settings.read_text()), "seeds": damage}))
    with pytest.raises(RunFolderError, match=r"run\.toml: seeds: "):
        search(task, tmp_path)
