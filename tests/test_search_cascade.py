"""Searches with a cascade: who is promoted, what is written, failures, limits, resumption."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

import evo
from evo.algorithms import Algorithm
from evo.callbacks import Progress
from evo.candidate import Candidate
from evo.errors import EvaluatorError, RunFolderError, SettingsError
from evo.records import MEASUREMENTS
from evo.status import status
from evo.task import Task
from evo.testing import small_task
from tests.interruptions import Stopped, Watch, assert_same, lasting, stopping_after

HERE = evo.LocalEvaluator(workers=0, retries=0)
CALLS: Counter[tuple[str, str]] = Counter()

ALGORITHMS: dict[str, Algorithm] = {
    "ecs": evo.ECS(generations=6, population=12),
    "fga": evo.FGA(generations=4, population=12, parents=4),
    "nsga2": evo.NSGA2(generations=5, population=12),
    "random": evo.RandomSearch(evaluations=40, batch=12),
}


pytestmark = pytest.mark.usefixtures("one_by_one")


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def judge(candidate: Candidate, purpose: str, noise: float) -> float:
    CALLS[candidate.blueprint.key, purpose] += 1
    counts = candidate.blueprint.counts
    return 1 + abs(counts["4"] - 3) + counts["9"] / 100 + noise * float(candidate.rng(purpose).normal())


@evo.fitness(minimize="loss")
def rough(candidate: Candidate) -> Mapping[str, float]:
    if candidate.blueprint.counts["0"] == 4:
        raise ValueError("four is refused")
    return {"loss": -judge(candidate, "rough", 0.5)}


@evo.fitness(maximize="value", minimize="noise")
def better(candidate: Candidate) -> Mapping[str, float]:
    if candidate.blueprint.counts["9"] == 5:
        raise ValueError("five is refused")
    return {"value": judge(candidate, "better", 0.2), "noise": 0.0}


@evo.fitness(maximize="score", minimize="params", version="1")
def exact(candidate: Candidate) -> Mapping[str, float]:
    return {"score": judge(candidate, "exact", 0)}


CASCADE = evo.Cascade([rough, better, exact], promote=(0.5, 0.5))


def search(task: Task, folder: Path, by: str = "ecs", **changes: Any) -> evo.Run:
    arguments: dict[str, Any] = {
        "encoding": evo.FilterBits(),
        "fitness": CASCADE,
        "algorithm": ALGORITHMS[by],
        "evaluator": HERE,
        "out": folder,
        "seed": 3,
        "reuse": False,
    }
    return evo.search(task, **{**arguments, **changes})


def assert_same_screenings(run: evo.Run, expected: evo.Run) -> None:
    assert_same(run, expected)
    ours, theirs = (
        each.screenings.drop(columns=[*MEASUREMENTS], errors="ignore").sort_values(
            ["fidelity", "key"], ignore_index=True
        )
        for each in (run, expected)
    )
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, evo.Run]:
    """The search by every algorithm, uninterrupted."""
    return {name: search(small_task(), tmp_path_factory.mktemp(name) / "run", name) for name in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_promoted_is_the_best_share_by_a_literal_computation(whole: dict[str, evo.Run], algorithm: str) -> None:
    run = whole[algorithm]
    history, screenings = run.history, run.screenings
    by_costs = algorithm in ("nsga2", "random")
    for _, rows in history.groupby("generation"):
        fresh = rows[~rows["cached"]].set_index("key")
        left = set(fresh.index)
        for fidelity, sign in ((1, 1.0), (2, -1.0)):
            numbers = screenings[screenings["fidelity"] == fidelity].set_index("key").loc[list(left)]
            failed = set(numbers.index[numbers["status"] == "failed"])
            good = numbers[numbers["status"] == "ok"]
            places = min(len(good), max(1, math.floor(len(good) / 2 + 0.5)))
            reasons = fresh.loc[sorted(left), "reason"]
            out = set(reasons.index[reasons.str.startswith(f"fidelity {fidelity} of 3")])
            assert failed <= out
            screened = out - failed
            assert (fresh.loc[sorted(screened), "status"] == "screened").all()
            stays = set(good.index) - screened
            assert len(stays) == places
            columns = [sign * good["score"]] + ([fresh.loc[good.index, "params"]] if by_costs else [])
            values: NDArray[np.float64] = pd.concat(columns, axis=1).to_numpy(dtype=float)
            worse = {
                key
                for key, value in zip(good.index, values, strict=True)
                for other, better_value in zip(good.index, values, strict=True)
                if other in screened and key in stays and (better_value <= value).all() and (better_value < value).any()
            }
            assert not worse, "nobody is promoted over somebody who is better in everything"
            left = stays
        assert set(fresh.index[fresh["status"] == "ok"]) == left


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_say_what_became_of_everybody(whole: dict[str, evo.Run], algorithm: str) -> None:
    run = whole[algorithm]
    history = run.history
    assert {*history["status"]} == {"ok", "screened", "failed"}
    screened, good = history[history["status"] == "screened"], history[history["status"] == "ok"]
    assert (
        screened["reason"]
        .str.fullmatch(
            r"fidelity [12] of 3 \(tests\.test_search_cascade:(?:rough|better)\): rank \d+ of \d+, \d+ promoted"
        )
        .all()
    )
    failed = history[history["status"] == "failed"]
    assert failed["reason"].str.contains(r"^fidelity [12] of 3 .*: ValueError: (?:four|five) is refused").all()
    for rows in (screened, failed):
        assert rows["score"].isna().all()
        assert rows["seconds"].isna().all()
        assert rows["tries"].eq(0).all()
        assert rows["params"].gt(0).all(), "costs need no evaluation"
    assert failed["log"][~failed["cached"]].str.contains("ValueError").all()
    for row, line in good.iterrows():
        candidate = Candidate(small_task(), run.blueprint(int(str(row))), 3)
        assert {**exact(candidate)} == {"score": line["score"]}
    named = {parent for parents in history["parents"] for parent in json.loads(parents)}
    assert named <= set(good.index), "only what was judged by the last fidelity has children"
    if algorithm != "random":
        assert named
    counts = run.generations[["asked", "evaluated", "failed", "cached", "screened"]]
    assert (counts["asked"] == counts["evaluated"] + counts["cached"] + counts["screened"]).all()
    assert counts["screened"].sum() == (~screened["cached"]).sum() > 0
    assert counts["failed"].sum() == (~failed["cached"]).sum() > 0


def test_what_was_screened_out_may_be_promoted_later_by_the_numbers_it_has(task: Task, folder: Path) -> None:
    """Eight structures in all, proposed again and again."""

    @evo.fitness(maximize="score")
    def cheap(candidate: Candidate) -> Mapping[str, float]:
        return {"score": judge(candidate, "cheap", 0)}

    run = search(
        task,
        folder,
        encoding=evo.ChannelVector(free=("4",), initial="random"),
        fitness=evo.Cascade([cheap, exact], promote=[0.4]),
        algorithm=evo.RandomSearch(evaluations=40, batch=4),
        seed=0,
    )
    assert max(CALLS.values()) == 1, "no fidelity judges a structure twice"
    history = run.history[~run.history["cached"]]
    became = history.groupby("key")["status"].agg(list)
    assert len(became) == len(run.screenings) <= 8
    assert any(len(statuses) > 2 for statuses in became)
    assert any(statuses[0] == "screened" and statuses[-1] == "ok" for statuses in became)
    for statuses in became:
        assert "ok" not in statuses[:-1], "what is measured is looked up"


@pytest.mark.parametrize("algorithm", ["ecs", "nsga2"])
@pytest.mark.parametrize("after", [0, 1, 11, 12, 14, 16, 18, 21, 23, 37])
def test_an_interrupted_search_continues_bit_for_bit(
    task: Task, folder: Path, whole: dict[str, evo.Run], algorithm: str, after: int
) -> None:
    with pytest.raises(Stopped):
        search(task, folder, algorithm, callbacks=[stopping_after(after)])
    assert_same_screenings(search(task, folder, algorithm), whole[algorithm])
    assert max(CALLS.values()) == 1, "nothing is measured twice"


def test_a_search_that_dies_between_two_writes_continues_bit_for_bit(
    task: Task, folder: Path, whole: dict[str, evo.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of a fidelity are written before the rows that they decide."""
    from evo.history import History

    write = History.add
    for lives in (1, 3, 6, 9):
        left = lives

        def dying(self: History, rows: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Stopped
            write(self, rows)

        monkeypatch.setattr(History, "add", dying)
        with pytest.raises(Stopped):
            search(task, folder, "fga")
    monkeypatch.setattr(History, "add", write)
    assert_same_screenings(search(task, folder, "fga"), whole["fga"])
    assert max(Counter(key for key in CALLS.elements() if key[1] != "exact").values()) == 1


def test_interruptions_without_end_change_nothing(task: Task, folder: Path, whole: dict[str, evo.Run]) -> None:
    interruptions = 0
    while True:
        try:
            run = search(task, folder, "fga", callbacks=[stopping_after(4, KeyboardInterrupt)])
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 10
    assert_same_screenings(run, whole["fga"])


def test_workers_change_nothing(task: Task, folder: Path, whole: dict[str, evo.Run]) -> None:
    run = search(task, folder, "nsga2", evaluator=evo.LocalEvaluator(workers=2, retries=0))
    assert_same_screenings(run, whole["nsga2"])


def test_the_table_of_fidelities_agrees_with_a_literal_computation(whole: dict[str, evo.Run]) -> None:
    run = whole["random"]
    table, history, screenings = run.fidelities, run.history, run.screenings
    assert table.index.tolist() == [1, 2, 3]
    assert table["name"].tolist() == [f"tests.test_search_cascade:{name}" for name in ("rough", "better", "exact")]
    assert table["objective"].tolist() == ["loss", "value", "score"]
    last = history[history["status"] == "ok"][lambda rows: ~rows["cached"]]
    scores = [
        {row.key: row.score for row in screenings.itertuples() if row.fidelity == 1 and row.status == "ok"},
        {row.key: row.score for row in screenings.itertuples() if row.fidelity == 2 and row.status == "ok"},
        dict(zip(last["key"], last["score"], strict=True)),
    ]
    assert table["evaluations"].tolist() == [*screenings["fidelity"].value_counts().sort_index(), len(last)]
    assert table["failed"].tolist() == [
        *(screenings["status"] == "failed").groupby(screenings["fidelity"]).sum(),
        0,
    ]
    entered = [set(screenings.loc[screenings["fidelity"] == 2, "key"]), set(last["key"])]
    assert table["promoted"].tolist() == [len(entered[0]), len(entered[1]), pd.NA]
    for place, sign in ((0, -1), (1, 1)):
        both = sorted(scores[place].keys() & scores[place + 1].keys())
        here, there = ([scores[at][key] for key in both] for at in (place, place + 1))
        assert table["compared"].iloc[place] == len(both) > 5
        expected = stats.spearmanr(np.array(here) * sign, there).statistic
        assert table["spearman"].iloc[place] == pytest.approx(expected)
        assert table["kendall"].iloc[place] == pytest.approx(stats.kendalltau(np.array(here) * sign, there).statistic)
    seconds = [*screenings.groupby("fidelity")["seconds"].sum(), last["seconds"].sum()]
    assert table["total_seconds"].tolist() == pytest.approx(seconds)
    assert table["mean_seconds"].tolist() == pytest.approx(np.array(seconds) / table["evaluations"])
    assert table["share"].tolist() == pytest.approx(np.array(seconds) / sum(seconds))


def test_any_other_fitness_is_one_fidelity(task: Task, folder: Path) -> None:
    run = search(task, folder, fitness=exact)
    (row,) = run.fidelities.itertuples()
    measured = run.history[~run.history["cached"]]
    assert (row.name, row.evaluations, row.failed, row.share) == (exact.name, len(measured), 0, 1)
    assert row.total_seconds == pytest.approx(measured["seconds"].sum())
    assert run.screenings.empty
    assert "screened" not in run.generations


def test_the_limit_counts_the_last_fidelity(task: Task, tmp_path: Path, whole: dict[str, evo.Run]) -> None:
    history = whole["fga"].history
    judged = history["tries"].gt(0).groupby(history["generation"]).sum().cumsum()
    run = search(task, tmp_path / "limited", "fga", max_evaluations=int(judged[1]) + 3)
    assert run.history["tries"].gt(0).sum() <= judged[1] + 3
    assert len(run.generations) >= 2
    stop = status(run.folder).stop
    assert stop is not None
    assert stop.rule == "max_evaluations"
    assert_same_screenings(search(task, tmp_path / "limited", "fga"), whole["fga"])
    with pytest.raises(SettingsError, match=r"^max_evaluations: got 2, but the first generation alone takes 3$"):
        search(task, tmp_path / "none", "fga", max_evaluations=2)


def test_progress_and_status_count_what_is_screened(task: Task, folder: Path) -> None:
    seen: list[Progress] = []
    run = search(task, folder, "nsga2", callbacks=[Watch(seen.append)])
    rows = run.history[~run.history["cached"]]
    counts = {name: int((rows["status"] == name).sum()) for name in ("ok", "failed", "screened")}
    found = status(folder)
    for state in (seen[-1], found):
        assert (state.screened, state.failed) == (counts["screened"], counts["failed"])
        assert state.evaluated == counts["ok"] + counts["failed"]
    assert {one.screening.partition(",")[0] for one in seen} == {
        "",
        *(f"fidelity {place} of 3 (tests.test_search_cascade:{name})" for place, name in ((1, "rough"), (2, "better"))),
    }
    assert sum(count for _, count in found.reasons) == counts["failed"]
    (node,) = found.nodes
    assert node.evaluations == len(run.screenings) + counts["ok"]


def test_when_a_fidelity_always_fails_the_search_stops_and_says_which(task: Task, tmp_path: Path) -> None:
    @evo.fitness(maximize="score")
    def broken(candidate: Candidate) -> Mapping[str, float]:
        raise OSError("no such data")

    with pytest.raises(
        EvaluatorError, match=r"^every one of the first 20 evaluations failed; the first: fidelity 1 of"
    ):
        search(
            task,
            tmp_path / "first",
            fitness=evo.Cascade([broken, exact], promote=[0.5]),
            algorithm=evo.RandomSearch(evaluations=60, batch=60),
        )
    assert len(evo.Run(tmp_path / "first").history) == len(evo.Run(tmp_path / "first").screenings) == 20
    with pytest.raises(EvaluatorError, match=r"^every one of the first \d+ evaluations failed; the first: "):
        search(task, tmp_path / "last", fitness=evo.Cascade([rough, broken], promote=[0.5]))


def test_failures_of_many_do_not_stop_a_search_that_promotes_others(task: Task, folder: Path) -> None:
    @evo.fitness(maximize="score")
    def picky(candidate: Candidate) -> Mapping[str, float]:
        if candidate.blueprint.counts["9"] > 2:
            raise ValueError("more than two")
        return {"score": 1.0}

    @evo.fitness(maximize="score")
    def odd(candidate: Candidate) -> Mapping[str, float]:
        if candidate.blueprint.counts["4"] % 2:
            raise ValueError("odd")
        return {"score": 1.0}

    run = search(
        task,
        folder,
        fitness=evo.Cascade([picky, odd, exact], promote=[1, 1]),
        algorithm=evo.RandomSearch(evaluations=60, batch=60),
    )
    reasons = run.history.loc[run.history["status"] == "failed", "reason"].str.slice(0, 15).value_counts()
    assert reasons["fidelity 1 of 3"] > 20
    assert reasons["fidelity 2 of 3"] > 0
    assert (run.history["status"] == "ok").any()


def test_other_runs_share_what_the_last_fidelity_measured(task: Task, tmp_path: Path) -> None:
    first = search(task, tmp_path / "alone", "random", fitness=exact, reuse=True)
    second = search(task, tmp_path / "cascade", "random", reuse=True)
    good = second.history[second.history["status"] == "ok"]
    assert set(good["reused"]) == {"alone"}
    assert (second.screenings["fidelity"] == 1).sum() == (~second.history["cached"]).sum()
    without = search(task, tmp_path / "without", "random")
    pd.testing.assert_frame_equal(lasting(second), lasting(without), check_exact=True)
    assert second.fidelities["total_seconds"].iloc[-1] == 0
    third = search(task, tmp_path / "third", "random", fitness=exact, seed=3, reuse=True)
    pd.testing.assert_frame_equal(lasting(third), lasting(first), check_exact=True)


def test_a_plain_search_takes_from_a_cascade_what_was_judged_in_full(task: Task, tmp_path: Path) -> None:
    first = search(task, tmp_path / "cascade", "random", reuse=True).history
    second = search(task, tmp_path / "alone", "random", fitness=exact, reuse=True).history
    assert (second["status"] == "ok").all()
    assert set(second.loc[second["reused"] != "", "key"]) == set(first.loc[first["status"] == "ok", "key"])


def test_another_cascade_is_another_search(task: Task, folder: Path) -> None:
    search(task, folder, max_evaluations=3)
    with pytest.raises(RunFolderError, match=r"fitness\.promote was \[0\.5, 0\.5\], is now \[0\.5, 0\.4\]"):
        search(task, folder, fitness=evo.Cascade([rough, better, exact], promote=(0.5, 0.4)))


def test_an_asynchronous_search_is_refused(task: Task, folder: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"^algorithm\.asynchronous: a Cascade promotes a share of every generation"
    ):
        search(task, folder, algorithm=evo.NSGA2(asynchronous=True))
    assert not folder.exists()


def test_a_toolbox_is_refused(task: Task) -> None:
    with pytest.raises(SettingsError, match=r"^toolbox: a Cascade leaves most individuals without a fitness"):
        evo.toolbox(task, evo.FilterBits(), CASCADE, HERE)


def test_timeouts_are_of_every_fidelity(task: Task, folder: Path) -> None:
    @evo.fitness(maximize="score")
    def endless(candidate: Candidate) -> Mapping[str, float]:
        while candidate.blueprint.counts["0"] > 3:
            pass
        return {"score": 1.0}

    run = search(
        task,
        folder,
        fitness=evo.Cascade([endless, exact], promote=[1]),
        algorithm=evo.RandomSearch(evaluations=6, batch=6),
        evaluator=evo.LocalEvaluator(workers=0, timeout=0.05),
    )
    late = run.history[run.history["status"] == "timeout"]
    assert len(late) > 0
    assert late["reason"].str.endswith("endless): took longer than its timeout of 0.05 s").all()
    assert (run.screenings["status"] == "timeout").sum() == len(late)
