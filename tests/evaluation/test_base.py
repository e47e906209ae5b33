import asyncio
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

import evo
from evo.candidate import Candidate
from evo.evaluation import Job, Outcome, Screening, evaluate
from evo.evaluation.base import NODE_LOSSES, Fault, Pace, Tries


def outcome_of(
    task: evo.Task,
    body: Callable[[], float],
    *,
    timeout: float | None = None,
    threads: int = 1,
    memory: float | None = None,
) -> Outcome:
    @evo.fitness(maximize="score", minimize="macs")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": body()}

    return evaluate(Job(task, judge, 0, threads, timeout, memory), task.network.full)


def test_a_success_has_all_objectives_and_no_reason(task: evo.Task) -> None:
    outcome = outcome_of(task, lambda: 0.25)
    assert (outcome.key, outcome.status, outcome.reason) == (task.network.full.key, "ok", "")
    assert outcome.objectives == {"score": 0.25, "macs": task.network.cost_of(task.network.full)["macs"]}
    assert 0 < outcome.seconds < 5
    assert (outcome.node, outcome.worker) == (socket.gethostname(), os.getpid())
    assert outcome.worker_memory is not None
    assert 2**26 < outcome.worker_memory < 2**36
    assert (outcome.log, outcome.tries, outcome.fault) == ("", 1, "")


def test_a_node_may_have_another_name(task: evo.Task) -> None:
    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": 1.0}

    assert evaluate(Job(task, judge, 0, 1, None), task.network.full, "ruby-1f").node == "ruby-1f"


def test_a_failure_says_what_and_where_in_one_line_and_all_of_it_in_the_log(task: evo.Task) -> None:
    def fail() -> float:
        print("nearly there")
        raise LookupError("one\n  two")

    outcome = outcome_of(task, fail)
    assert (outcome.status, outcome.objectives, outcome.fault) == ("failed", {}, "error")
    assert outcome.reason.startswith("LookupError: one two (test_base.py:")
    assert outcome.reason.endswith(", in fail)")
    said, *rest = outcome.log.splitlines()
    assert said == "nearly there"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-2:] == ["LookupError: one", "  two"]
    assert "measure" not in outcome.log


@pytest.mark.parametrize("error", [SystemExit, RecursionError, FloatingPointError])
def test_errors_of_every_kind_are_failures(task: evo.Task, error: type[BaseException]) -> None:
    def fail() -> float:
        raise error

    outcome = outcome_of(task, fail)
    assert (outcome.status, outcome.fault) == ("failed", "error")


@pytest.mark.parametrize("ask", [lambda: bytearray(10**14), lambda: torch.empty(10**14), lambda: np.empty(10**14)])
def test_running_out_of_memory_reads_the_same_whoever_says_it(task: evo.Task, ask: Callable[[], object]) -> None:
    outcome = outcome_of(task, lambda: float(ask() is None))
    assert (outcome.status, outcome.reason, outcome.fault) == ("failed", "it ran out of memory", "memory")
    assert "Traceback" in outcome.log


def test_taking_more_memory_than_allowed_is_running_out_of_it(task: evo.Task) -> None:
    def take(mebibytes: int) -> float:
        taken = np.ones(mebibytes * 2**20, dtype=np.uint8)
        try:
            time.sleep(60 if mebibytes > 100 else 0.2)
        except Exception:
            return 1.0
        return float(taken[0])

    assert outcome_of(task, lambda: take(50), memory=0.125).status == "ok"
    outcome = outcome_of(task, lambda: take(200), memory=0.125)
    assert (outcome.status, outcome.fault) == ("failed", "memory")
    assert outcome.reason == "it ran out of memory"
    assert outcome.worker_memory is not None
    assert outcome.worker_memory > 200 * 2**20


def test_unusable_returns_are_failures_that_nobody_tries_again(task: evo.Task) -> None:
    outcome = outcome_of(task, lambda: float("nan"))
    assert (outcome.status, outcome.fault) == ("failed", "")
    assert outcome.reason == "objective 'score' is nan, expected a finite number"
    raised = outcome_of(task, lambda: float("no number"))
    assert (raised.status, raised.fault) == ("failed", "error"), "a ValueError of the fitness itself is another matter"


def test_what_an_evaluation_prints_is_its_log(task: evo.Task, capsys: pytest.CaptureFixture[str]) -> None:
    def talk() -> float:
        print("one")
        print("two", file=sys.stderr)
        return 1.0

    assert outcome_of(task, talk).log == "one\ntwo\n"
    assert capsys.readouterr() == ("one\n", "two\n")
    assert outcome_of(task, lambda: 1.0).log == ""


def test_ctrl_c_is_the_users(task: evo.Task) -> None:
    def interrupt() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcome_of(task, interrupt)


def test_the_alarm_ends_what_takes_too_long(task: evo.Task) -> None:
    def swallow() -> float:
        try:
            time.sleep(60)
        except Exception:
            return 1.0
        return 2.0

    outcome = outcome_of(task, swallow, timeout=0.2)
    assert (outcome.status, outcome.reason) == ("timeout", "took longer than its timeout of 0.2 s")
    assert outcome.fault == ""
    assert "in swallow" in outcome.log
    assert 0.2 <= outcome.seconds < 5


def test_the_alarm_is_put_back(task: evo.Task) -> None:
    handler, (delay, interval) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    assert outcome_of(task, lambda: 1.0, timeout=5000).status == "ok"
    assert outcome_of(task, lambda: float("nan"), timeout=5000).status == "failed"
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == pytest.approx((delay, interval), abs=10)


def test_other_threads_evaluate_without_an_alarm(task: evo.Task) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(outcome_of(task, lambda: 1.0, timeout=30)))
    thread.start()
    thread.join()
    assert [outcome.status for outcome in outcomes] == ["ok"]


def test_torch_uses_the_jobs_threads_and_gets_its_own_back(task: evo.Task) -> None:
    before = torch.get_num_threads()
    assert before != 2
    assert outcome_of(task, torch.get_num_threads, threads=2).objectives["score"] == 2
    assert torch.get_num_threads() == before
    assert outcome_of(task, lambda: float("nan"), threads=2).status == "failed"
    assert torch.get_num_threads() == before


def test_randomness_comes_from_seed_and_structure(task: evo.Task) -> None:
    @evo.fitness(maximize="score")
    def draw(candidate: Candidate) -> Mapping[str, float]:
        return {"score": float(candidate.rng().random())}

    drawn = [evaluate(Job(task, draw, seed, 1, None), task.network.full).objectives for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def trial(fault: Fault, reason: str = "") -> Outcome:
    return Outcome("a", "failed" if fault else "ok", {}, reason, 1.0, "here", 1, fault=fault)


def test_tries_are_limited_by_cause_and_counted_together() -> None:
    tries = Tries(2)
    faults: list[Fault] = ["error", "memory", "crash", "error", *["node"] * NODE_LOSSES]  # type: ignore[list-item]
    for fault in faults:
        assert tries.final(trial(fault)) is None
    final = tries.final(trial("error", "it broke"))
    assert final is not None
    assert (final.tries, final.reason) == (len(faults) + 1, "it broke, on each of 3 tries")
    assert tries.final(trial("error")) is None, "all is forgotten"
    success = tries.final(trial(""))
    assert success is not None
    assert (success.tries, success.status) == (2, "ok")


@pytest.mark.parametrize(
    ("fault", "retries", "most", "ending"),
    [
        ("error", 0, 1, ""),
        ("crash", 1, 2, ", on each of 2 tries"),
        ("memory", 0, 2, ", with a whole machine to itself as well"),
        ("node", 0, NODE_LOSSES + 1, f", on each of {NODE_LOSSES + 1} tries"),
        ("", 3, 1, ""),
    ],
)
def test_the_last_try_says_that_the_others_ended_alike(fault: Fault, retries: int, most: int, ending: str) -> None:
    tries = Tries(retries)
    outcomes = [tries.final(trial(fault, "so it goes")) for _ in range(most)]
    assert outcomes[:-1] == [None] * (most - 1)
    assert outcomes[-1] is not None
    assert (outcomes[-1].tries, outcomes[-1].reason) == (most, f"so it goes{ending}")


def test_what_a_fitness_does_to_global_state_reaches_no_other(task: evo.Task) -> None:
    @evo.fitness(maximize="score")
    def careless(candidate: Candidate) -> Mapping[str, float]:
        assert torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        drawn = float(torch.rand(()).item()) + float(np.random.rand()) + random.random()  # noqa: NPY002
        return {"score": drawn}

    job = Job(task, careless, 0, 1, None)
    other = task.network.repaired({group.name: np.arange(group.size) < 2 for group in task.network.groups})
    before = random.getstate(), torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    outcomes = [evaluate(job, blueprint) for blueprint in (task.network.full, other, task.network.full)]
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    scores = [outcome.objectives["score"] for outcome in outcomes]
    assert scores[0] == scores[2] != scores[1]
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert str(np.random.get_state()) == before[2]  # noqa: NPY002


def test_an_error_of_any_kind_is_a_row(task: evo.Task) -> None:
    @evo.fitness(maximize="score")
    def cancelled(candidate: Candidate) -> Mapping[str, float]:
        raise asyncio.CancelledError("x" * 2000)

    outcome = evaluate(Job(task, cancelled, 0, 1, None), task.network.full)
    assert (outcome.status, outcome.fault) == ("failed", "error")
    assert outcome.reason.startswith("CancelledError: xxx")
    assert len(outcome.reason) < 700


def test_the_pace_is_that_of_one_fidelity(task: evo.Task) -> None:
    """What a formula takes says nothing of a training: a worker would be given many at once."""
    full, pace = task.network.full, Pace()
    pace.note(outcome_of(task, lambda: 0.25))
    pace.expect([full])
    known = pace.seconds
    assert known is not None
    pace.expect([])
    assert pace.seconds == known
    for work in ([Screening(full, 0)], [Screening(full, 1)], [full]):
        pace.expect(work)
        assert pace.seconds is None
        pace.note(outcome_of(task, lambda: 0.25))
        pace.expect(work)
        assert pace.seconds is not None
