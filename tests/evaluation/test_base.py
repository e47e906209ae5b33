import signal
import threading
import time
from collections.abc import Callable, Mapping

import pytest
import torch

import evo
from evo.candidate import Candidate
from evo.evaluation import Job, Outcome, evaluate
from evo.evaluation.base import worker_name


def outcome_of(task: evo.Task, body: Callable[[], float], *, timeout: float | None = None, threads: int = 1) -> Outcome:
    @evo.fitness(maximize="score", minimize="macs")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": body()}

    return evaluate(Job(task, judge, 0, threads, timeout), task.network.full)


def test_a_success_has_all_objectives_and_no_reason(task: evo.Task) -> None:
    outcome = outcome_of(task, lambda: 0.25)
    assert (outcome.key, outcome.status, outcome.reason) == (task.network.full.key, "ok", "")
    assert outcome.objectives == {"score": 0.25, "macs": task.network.cost_of(task.network.full)["macs"]}
    assert 0 < outcome.seconds < 5
    assert outcome.worker == worker_name()


def test_a_failure_says_what_and_where_in_one_line(task: evo.Task) -> None:
    def fail() -> float:
        raise LookupError("one\n  two")

    outcome = outcome_of(task, fail)
    assert (outcome.status, outcome.objectives) == ("failed", {})
    assert outcome.reason.startswith("LookupError: one two (test_base.py:")
    assert outcome.reason.endswith(", in fail)")


@pytest.mark.parametrize("error", [MemoryError, SystemExit, RecursionError, FloatingPointError])
def test_errors_of_every_kind_are_failures(task: evo.Task, error: type[BaseException]) -> None:
    def fail() -> float:
        raise error

    assert outcome_of(task, fail).status == "failed"


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
    assert 0.2 <= outcome.seconds < 5


def test_the_alarm_is_put_back(task: evo.Task) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    assert outcome_of(task, lambda: 1.0, timeout=50).status == "ok"
    assert outcome_of(task, lambda: float("nan"), timeout=50).status == "failed"
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


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
