"""Worker processes of this machine: real ones, and really killed."""

import importlib
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import EvaluatorError
from evo.evaluation import Job, Session
from evo.evaluation.base import DIED, Outcome
from evo.evaluation.worker import exit_reason

Structures = Callable[[int], list[Blueprint]]


def open_session(task: evo.Task, body: Callable[[Candidate], float], evaluator: evo.LocalEvaluator) -> Session:
    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": body(candidate)}

    return evaluator.open(Job(task, judge, 0, evaluator.threads, evaluator.timeout, evaluator.memory))


def outcomes_of(
    task: evo.Task, body: Callable[[Candidate], float], evaluator: evo.LocalEvaluator, blueprints: list[Blueprint]
) -> list[Outcome]:
    """Return them in the order of `blueprints`, each of which has exactly one."""
    with open_session(task, body, evaluator) as session:
        outcomes = list(session.run(blueprints))
    assert sorted(outcome.key for outcome in outcomes) == sorted(blueprint.key for blueprint in blueprints)
    by_key = {outcome.key: outcome for outcome in outcomes}
    return [by_key[blueprint.key] for blueprint in blueprints]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_deaths_and_hangs_of_workers_are_outcomes_and_cost_nobody_else_anything(
    task: evo.Task, tmp_path: Path, structures: Structures
) -> None:
    blueprints = structures(8)
    kinds = dict(zip([blueprint.key for blueprint in blueprints], ["kill", "hang"], strict=False))

    def body(candidate: Candidate) -> float:
        kind = kinds.get(candidate.blueprint.key)
        if kind is not None:
            with (tmp_path / kind).open("a") as file:
                file.write("x")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            print("for ever and ever")
            time.sleep(3600)
        return float(candidate.rng().random())

    evaluator = evo.LocalEvaluator(workers=2, retries=1, timeout=0.5)
    kill, hang, *others = outcomes_of(task, body, evaluator, blueprints)
    assert (kill.status, kill.reason, kill.tries) == ("failed", f"{DIED}, on each of 2 tries", 2)
    assert kill.log == "the worker process ended with signal SIGKILL"
    assert (hang.status, hang.reason, hang.tries) == ("timeout", "took longer than its timeout of 0.5 s", 1)
    assert hang.log == "for ever and ever\n"
    assert hang.seconds < 10
    assert {file.name: file.stat().st_size for file in tmp_path.iterdir()} == {"kill": 2, "hang": 1}
    for blueprint, outcome in zip(blueprints[2:], others, strict=True):
        assert outcome.objectives == {"score": float(Candidate(task, blueprint, 0).rng().random())}
        assert outcome.tries == 1


def test_a_worker_that_dies_leaves_its_last_words(
    task: evo.Task, structures: Structures, capfd: pytest.CaptureFixture[str]
) -> None:
    abort, orphan = structures(2)

    def body(candidate: Candidate) -> float:
        print("before the end")
        if candidate.blueprint == abort:
            os.write(2, b"terminate called after throwing an instance of 'c10::Error'\n")
            os.abort()
        if os.fork() == 0:
            time.sleep(3600)  # and holds the pipe of its parent open
        os._exit(3)

    began = time.monotonic()
    aborted, left = outcomes_of(task, body, evo.LocalEvaluator(workers=2, retries=0), [abort, orphan])
    assert time.monotonic() - began < 30
    assert (aborted.reason, left.reason) == (DIED, DIED)
    first, second, *account = aborted.log.splitlines()
    assert (first, second) == ("before the end", "terminate called after throwing an instance of 'c10::Error'")
    assert account[0] == "Fatal Python error: Aborted"
    assert any(line.endswith("in body") for line in account)
    assert account[-1] == "the worker process ended with signal SIGABRT"
    assert left.log == "before the end\nthe worker process ended with exit status 3"
    assert aborted.worker != left.worker
    assert capfd.readouterr() == ("", "")


def test_what_workers_print_is_in_the_log_and_nowhere_else(
    task: evo.Task, structures: Structures, capfd: pytest.CaptureFixture[str]
) -> None:
    varied, endless, quiet = structures(3)

    def body(candidate: Candidate) -> float:
        if candidate.blueprint == varied:
            print("printed")
            print("in red", file=sys.stderr)
            warnings.warn("warned", stacklevel=1)
            logging.getLogger("some.where").warning("logged")
        if candidate.blueprint == endless:
            print("x" * 10_000)
        return 1.0

    outcomes = outcomes_of(task, body, evo.LocalEvaluator(workers=1), [varied, endless, quiet])
    printed, red, warned, *_, logged = outcomes[0].log.splitlines()
    assert (printed, red, logged) == ("printed", "in red", "logged")
    assert warned.endswith("UserWarning: warned")
    assert outcomes[1].log.startswith("[…]\nxxx")
    assert len(outcomes[1].log) < 4100
    assert outcomes[2].log == ""
    assert capfd.readouterr() == ("", "")


def test_deaths_in_the_midst_of_very_short_evaluations_are_blamed_on_the_right_ones(
    task: evo.Task, tmp_path: Path, structures: Structures
) -> None:
    blueprints = structures(600)
    deadly = {blueprints[150].key, blueprints[400].key}

    def body(candidate: Candidate) -> float:
        key = candidate.blueprint.key
        if key in deadly and not (tmp_path / key).exists():
            (tmp_path / key).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(candidate.rng().random())

    outcomes = outcomes_of(task, body, evo.LocalEvaluator(workers=2), blueprints)
    for blueprint, outcome in zip(blueprints, outcomes, strict=True):
        assert outcome.tries == (2 if blueprint.key in deadly else 1)
        assert outcome.objectives == {"score": float(Candidate(task, blueprint, 0).rng().random())}


def test_what_ran_out_of_memory_has_the_machine_to_itself(
    task: evo.Task, tmp_path: Path, structures: Structures
) -> None:
    """In a steady state with always more to do, too; and workers give back what they kept."""
    bloated, greedy, *others = structures(40)

    def body(candidate: Candidate) -> float:
        mark, begun = tmp_path / "process", time.monotonic()
        if candidate.blueprint == bloated:
            pieces = [bytes(1000) for _ in range(300_000)]
            mark.write_text(str(os.getpid()))
            return float(len(pieces))
        time.sleep(0.1)
        if candidate.blueprint == greedy:
            if not (tmp_path / "again").exists():
                while not mark.exists():
                    time.sleep(0.01)
                time.sleep(0.2)
                (tmp_path / "again").touch()
                raise MemoryError
            time.sleep(0.5)
            resident, shared = Path("/proc", mark.read_text(), "statm").read_text().split()[1:3]
            (tmp_path / "kept").write_text(str((int(resident) - int(shared)) * os.sysconf("SC_PAGESIZE")))
        with (tmp_path / "times").open("a") as file:
            file.write(f"{candidate.blueprint == greedy:d} {begun} {time.monotonic()}\n")
        return 1.0

    outcomes: list[Outcome] = []
    waiting = [*reversed(others), greedy, bloated]
    with open_session(task, body, evo.LocalEvaluator(workers=2)) as session:
        while len(outcomes) < 40:
            while waiting and session.room(20) > 0:
                session.submit([waiting.pop()])
            outcomes += session.receive()
    by_key = {outcome.key: outcome for outcome in outcomes}
    assert len(by_key) == 40
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert by_key[greedy.key].tries == 2
    assert outcomes.index(by_key[greedy.key]) < 30, "it was not put off to the end"
    assert int((tmp_path / "kept").read_text()) < (by_key[bloated.key].worker_memory or 0) - 200 * 2**20
    times = [[float(part) for part in line.split()] for line in (tmp_path / "times").read_text().splitlines()]
    ((_, begun, ended),) = [entry for entry in times if entry[0]]
    for _, other_begun, other_ended in [entry for entry in times if not entry[0]]:
        assert other_ended <= begun or other_begun >= ended


def test_a_limit_of_memory_holds_in_workers(task: evo.Task, structures: Structures) -> None:
    small, large = structures(2)

    def body(candidate: Candidate) -> float:
        taken = torch.ones(2**20 * (75 if candidate.blueprint == large else 10))
        time.sleep(0.5)
        return float(taken[0])

    evaluator = evo.LocalEvaluator(workers=1, memory=0.2)
    outcomes = outcomes_of(task, body, evaluator, [small, large])
    assert [outcome.status for outcome in outcomes] == ["ok", "failed"]
    assert outcomes[1].reason == "it ran out of memory, with a whole machine to itself as well"
    assert outcomes[0].worker == outcomes[1].worker, "nobody had to be killed"


def test_what_a_script_defines_travels_to_workers_that_stay_and_end_with_the_session(
    task: evo.Task, monkeypatch: pytest.MonkeyPatch, structures: Structures
) -> None:
    monkeypatch.setenv("EVO_TEST_MARK", "41")
    number = [1]
    *others, last = structures(6)

    def body(candidate: Candidate) -> float:
        if candidate.blueprint == last:
            time.sleep(3600)
        return 100 * torch.get_num_threads() + int(os.environ["EVO_TEST_MARK"]) + number[0]

    with open_session(task, body, evo.LocalEvaluator(workers=1, threads=2)) as session:
        outcomes = list(session.run(others[:3])) + list(session.run(others[3:]))
        assert [outcome.objectives for outcome in outcomes] == [{"score": 242.0}] * 5
        (process,) = {outcome.worker for outcome in outcomes}
        assert process is not None
        assert process != os.getpid()
        assert is_alive(process)
        session.submit([last, others[0]])
        began = time.monotonic()
        session.close()
        assert time.monotonic() - began < 20, "closing waits for nobody"
        assert not is_alive(process)


class Unreadable:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Callable[[Any], object], argument: object) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (self.argument,)


@pytest.mark.parametrize(
    ("unreadable", "message"),
    [
        (
            Unreadable(exec, r"import os; os.write(2, b'I cannot\ngo on\n'); os._exit(7)"),
            r"die before they are ready \(exit status 7; the last words: go on\)",
        ),
        (Unreadable(sys.exit, "not here"), r"cannot load what they are to evaluate \(SystemExit: not here\)"),
        (
            Unreadable(importlib.import_module, "no_such_module"),
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
    ],
)
def test_workers_that_never_get_ready_are_an_error(
    task: evo.Task, unreadable: object, message: str, structures: Structures
) -> None:
    body: Callable[[Candidate], float] = lambda candidate: float(unreadable is None)  # noqa: E731
    with (
        open_session(task, body, evo.LocalEvaluator(workers=1)) as session,
        pytest.raises(EvaluatorError, match=message),
    ):
        list(session.run(structures(2)))


def test_workers_import_what_this_process_imports(
    task: evo.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evo").mkdir()
    (tmp_path / "evo" / "__init__.py").write_text("raise ImportError('another evo in the current folder')")
    monkeypatch.chdir(tmp_path)
    job = Job(task, evo.SubsetFineTune(images=20, batch_size=10), 0, 1, None)
    with evo.LocalEvaluator(workers=1).open(job) as session:
        (outcome,) = session.run([task.network.full])
    assert outcome.status == "ok"


def test_every_way_to_die_has_a_name() -> None:
    assert exit_reason(3) == "exit status 3"
    assert exit_reason(-9) == "signal SIGKILL"
    assert exit_reason(-40) == "signal 40"


def test_a_fitness_that_cannot_be_sent_is_refused_in_one_sentence(task: evo.Task) -> None:
    lock = threading.Lock()

    @evo.fitness(maximize="score")
    def locked(candidate: Candidate) -> Mapping[str, float]:
        with lock:
            return {"score": 1.0}

    evaluator = evo.LocalEvaluator(workers=1)
    with pytest.raises(
        EvaluatorError,
        match=r"^the task, the fitness or the function cannot be sent to worker processes \(cannot pickle",
    ):
        evaluator.open(Job(task, locked, 0, 1, None))
