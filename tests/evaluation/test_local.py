"""Worker processes of this machine: real ones, and really killed."""

import importlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import EvaluatorError, SettingsError
from evo.evaluation import Evaluator, Job
from evo.evaluation.local import InProcessSession, ProcessSession
from evo.fitness import Fitness
from evo.testing import EvaluatorContract


class TestInThisProcess(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return evo.LocalEvaluator(workers=0)


class TestTwoWorkers(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return evo.LocalEvaluator(workers=2)


def structures(task: evo.Task, count: int) -> list[Blueprint]:
    """Different ones: all channels but one."""
    found = []
    for index in range(count):
        masks = {group.name: np.ones(group.size, dtype=bool) for group in task.network.groups}
        masks["9"][index] = False
        found.append(Blueprint.from_masks(masks))
    return found


def job(task: evo.Task, fitness: Fitness, evaluator: Evaluator) -> Job:
    return Job(task, fitness, 0, evaluator.threads, evaluator.timeout)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_deaths_and_hangs_of_workers_are_outcomes_and_cost_nobody_else_anything(task: evo.Task, tmp_path: Path) -> None:
    blueprints = structures(task, 9)
    kinds = dict(zip([blueprint.key for blueprint in blueprints], ["kill", "hang", "once"], strict=False))

    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        kind = kinds.get(candidate.blueprint.key)
        if kind is not None:
            log = tmp_path / kind
            with log.open("a") as file:
                file.write("x")
            if kind == "once" and log.stat().st_size == 1:
                os._exit(3)
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hang":
                signal.signal(signal.SIGALRM, signal.SIG_IGN)
                time.sleep(3600)
        return {"score": float(candidate.rng().random())}

    evaluator = evo.LocalEvaluator(workers=2, retries=1, timeout=0.5)
    with evaluator.open(job(task, judge, evaluator)) as session:
        outcomes = {outcome.key: outcome for outcome in session.run(blueprints)}
    assert set(outcomes) == {blueprint.key for blueprint in blueprints}
    by_kind = {kind: outcomes[key] for key, kind in kinds.items()}
    assert by_kind["kill"].status == "failed"
    assert "worker process died (signal SIGKILL) on each of 2 tries" in by_kind["kill"].reason
    assert by_kind["hang"].status == "timeout"
    assert by_kind["hang"].reason == "took longer than its timeout of 0.5 s"
    assert by_kind["hang"].seconds < 10
    tries = {kind: (tmp_path / kind).stat().st_size for kind in by_kind}
    assert tries == {"kill": 2, "hang": 1, "once": 2}
    for blueprint in blueprints:
        if kinds.get(blueprint.key) in (None, "once"):
            expected = float(Candidate(task, blueprint, 0).rng().random())
            assert outcomes[blueprint.key].objectives == {"score": expected}


def test_what_a_script_defines_travels_to_workers_that_stay_and_end_with_the_session(
    task: evo.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVO_TEST_MARK", "41")
    number = [1]

    @evo.fitness(maximize=("mark", "threads"))
    def judge(candidate: Candidate) -> Mapping[str, float]:
        if candidate.blueprint == last:
            time.sleep(3600)
        return {"mark": int(os.environ["EVO_TEST_MARK"]) + number[0], "threads": torch.get_num_threads()}

    *others, last = structures(task, 6)
    evaluator = evo.LocalEvaluator(workers=1, threads=2)
    with evaluator.open(job(task, judge, evaluator)) as session:
        outcomes = list(session.run(others[:3])) + list(session.run(others[3:]))
        assert [outcome.objectives for outcome in outcomes] == [{"mark": 42.0, "threads": 2.0}] * 5
        (worker,) = {outcome.worker for outcome in outcomes}
        process = int(worker.rpartition(":")[2])
        assert process != os.getpid()
        assert is_alive(process)
        running = session.run([last, others[0]])
        began = time.monotonic()
        session.close()
        assert time.monotonic() - began < 5, "closing waits for nobody"
        assert not is_alive(process)
        running.close()  # type: ignore[attr-defined]


class Unreadable:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Callable[[Any], object], argument: object) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (self.argument,)


@pytest.mark.parametrize(
    ("unreadable", "message"),
    [
        (Unreadable(os._exit, 7), r"die before they are ready \(exit status 7\)"),
        (
            Unreadable(importlib.import_module, "no_such_module"),
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
    ],
)
def test_workers_that_never_get_ready_are_an_error(task: evo.Task, unreadable: object, message: str) -> None:

    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": float(unreadable is None)}

    evaluator = evo.LocalEvaluator(workers=1)
    with evaluator.open(job(task, judge, evaluator)) as session, pytest.raises(EvaluatorError, match=message):
        list(session.run(structures(task, 2)))


def test_the_default_is_a_worker_per_processor(task: evo.Task) -> None:
    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": 1.0}

    session = evo.LocalEvaluator().open(job(task, judge, evo.LocalEvaluator()))
    assert isinstance(session, ProcessSession)
    assert session._count == len(os.sched_getaffinity(0))
    session.close()
    assert isinstance(evo.LocalEvaluator(workers=0).open(job(task, judge, evo.LocalEvaluator())), InProcessSession)


@pytest.mark.parametrize(
    "setting", [{"workers": -1}, {"threads": 0}, {"timeout": 0}, {"retries": -1}, {"timeout": float("inf")}]
)
def test_wrong_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=rf"^LocalEvaluator\.{next(iter(setting))}: got "):
        evo.LocalEvaluator(**setting)


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
