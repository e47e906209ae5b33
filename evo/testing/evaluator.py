"""What every evaluator has to do."""

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import DataError, EvaluatorError
from evo.evaluation import Evaluator, Job, Outcome, Screening, evaluate
from evo.evaluation.base import DIED
from evo.fitness.base import Fitness, Objective, measure
from evo.fitness.cascade import Cascade
from evo.fitness.zero_shot import ZeroShot
from evo.task import Task
from evo.testing.tasks import small_task

TIMEOUT = 2.0  # an evaluation takes milliseconds; this is for machines that have something else to do

UNUSABLE: Mapping[str, tuple[Any, str]] = {
    "nan": ({"score": float("nan")}, "objective 'score' is nan, expected a finite number"),
    "type": ([1.0], "the fitness returned list, expected a dictionary of numbers"),
    "text": ({"score": "high"}, "objective 'score' is 'high', expected a number"),
    "missing": ({"speed": 1.0}, "the fitness returned ['speed'], without its objective 'score'"),
}
"""Returned values that are not the objectives' numbers, and what is recorded of them."""


class _Judge(Fitness):
    """Judges by the network's output and a random number; the behaviour of some structures is told beforehand."""

    def __init__(self, behaviour: Mapping[str, str], folder: Path) -> None:
        self.behaviour = dict(behaviour)
        self.folder = folder

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return Objective("score", True), Objective("params", False)

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        kind = self.behaviour.get(candidate.blueprint.key, "")
        if kind in UNUSABLE:
            unusable: Mapping[str, float] = UNUSABLE[kind][0]
            return unusable
        if kind:
            self.misbehave(kind, candidate)
        with torch.no_grad():
            output = candidate.build()(candidate.task.val.x)
        return {"score": float(output.std()) + float(candidate.rng().random())}

    def misbehave(self, kind: str, candidate: Candidate) -> None:
        match kind:
            case "raises":
                raise ArithmeticError("no such number\non two lines")
            case "exits":
                raise SystemExit(3)
            case "memory":
                raise MemoryError
            case "once":
                if not (mark := self.folder / "once").exists():
                    mark.touch()
                    raise ArithmeticError("only the first time")
            case "hangs":
                time.sleep(3600)
            case "prints":
                print("to standard output")
                print("to standard error", file=sys.stderr)
                handler = logging.StreamHandler()
                handler.emit(logging.makeLogRecord({"msg": "to the log"}))
            case "writes weights":
                candidate.task.network._tensors["0.weight"].add_(1)
            case "writes data":
                candidate.task.val.x.add_(1)

    def describe(self) -> dict[str, Any]:
        return {"name": "judge"}

    def check(self, task: Task) -> None:
        pass


def _multiplied(shared: Mapping[str, Any], item: int) -> tuple[float, float, int]:
    """Return a product, a random number, and the process that did it; some items are told beforehand to misbehave."""
    match shared["behaviour"].get(item):
        case "raises":
            raise ArithmeticError("no such number\non two lines")
        case "exits":
            raise SystemExit(3)
        case "cannot be sent":
            return lambda: item  # type: ignore[return-value]
        case "refuses":
            raise DataError("what, where and what would be right")
        case "dies once" if not (mark := shared["folder"] / "died").exists():
            mark.touch()
            os._exit(1)
        case "dies":
            os._exit(1)
    return float(shared["weights"].sum()) * item, float(torch.rand(())), os.getpid()


class EvaluatorContract:
    """Conformance tests of an evaluator.

    A subclass provides the fixture `evaluator`, with its default timeout and retries and fewer than ten workers, on this
    machine. They need to be able to import evo.testing.

    Attributes:
        apart: workers are processes other than the caller's, whose memory nothing that they do can alter.
    """

    apart = True

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        """Return the evaluator to test: to be overridden."""
        raise NotImplementedError("EvaluatorContract: override the fixture `evaluator` with one that returns yours")

    @pytest.fixture
    def task(self) -> Task:
        """Return the task that candidates belong to."""
        return small_task()

    @pytest.fixture
    def blueprints(self, task: Task) -> list[Blueprint]:
        """Return twelve different structures."""
        rng = np.random.default_rng(0)
        found: dict[str, Blueprint] = {}
        while len(found) < 12:
            masks = {group.name: rng.random(group.size) < 0.6 for group in task.network.groups}
            blueprint = task.network.repaired(masks)
            found[blueprint.key] = blueprint
        return list(found.values())

    def test_outcomes_equal_those_of_this_process(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint], tmp_path: Path
    ) -> None:
        """Every structure has exactly one outcome, bit for bit what one process computes; workers serve several runs."""
        job = Job(task, _Judge({}, tmp_path), 5, evaluator.threads, evaluator.timeout)
        session = evaluator.open(job)
        try:
            outcomes = list(session.run(blueprints[:7]))
            assert list(session.run([])) == []
            outcomes += session.run(blueprints[7:])
        finally:
            session.close()
        session.close()
        expected = {blueprint.key: evaluate(job, blueprint).objectives for blueprint in blueprints}
        assert sorted(outcome.key for outcome in outcomes) == sorted(expected)
        assert {outcome.key: outcome.objectives for outcome in outcomes} == expected
        for outcome in outcomes:
            assert (outcome.status, outcome.reason, outcome.fault, outcome.tries) == ("ok", "", "", 1)
            assert list(outcome.objectives) == ["score", "params"]
            assert outcome.seconds > 0
            assert outcome.node
            assert (outcome.worker != os.getpid()) == self.apart
            assert outcome.worker_memory is not None
            assert outcome.worker_memory > 2**20

    def test_a_cascade_is_judged_by_the_fidelity_that_is_asked_for(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint], tmp_path: Path
    ) -> None:
        """One session serves all fidelities in turn; a structure alone is judged by the last."""
        fidelities = (ZeroShot(), ZeroShot(proxy="params"), _Judge({}, tmp_path))
        cascade = Cascade(fidelities, promote=(1, 1))
        with evaluator.open(Job(task, cascade, 5, evaluator.threads, evaluator.timeout)) as session:
            for place, fidelity in enumerate(fidelities):
                last = fidelity is fidelities[-1]
                work = [each if last else Screening(each, place) for each in blueprints]
                found = {outcome.key: outcome.objectives for outcome in session.run(work)}
                assert found == {each.key: measure(fidelity, Candidate(task, each, 5)) for each in blueprints}

    def test_candidates_come_in_any_rhythm(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint], tmp_path: Path
    ) -> None:
        """There is room until enough is under way; what is cancelled has no outcome and leaves the session usable."""
        *others, last = blueprints
        judge = _Judge({last.key: "hangs"}, tmp_path)
        with evaluator.open(Job(task, judge, 5, evaluator.threads, evaluator.timeout)) as session:
            assert session.receive() == []
            assert session.room(len(blueprints)) > 0
            session.submit(others[:1])
            session.submit(others[1:9])
            assert session.room(len(blueprints)) == 0
            keys = [outcome.key for outcome in session.receive()]
            assert keys
            session.submit(others[9:])
            while received := session.receive():
                keys += [outcome.key for outcome in received]
                assert session.room(len(blueprints)) >= 0
            assert sorted(keys) == sorted(blueprint.key for blueprint in others)
            assert session.room(len(blueprints)) > 0

            session.submit([last, *others])
            session.cancel()
            assert session.room(len(blueprints)) > 0
            assert session.receive() == []
            assert [outcome.key for outcome in session.run(others[:1])] == [others[0].key]

    def test_misbehaving_fitness_disturbs_nobody(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint], tmp_path: Path
    ) -> None:
        """What raises, returns rubbish or never returns has an outcome with a reason; the others have theirs."""
        retried = {
            "raises": "ArithmeticError: no such number on two lines (evaluator.py:",
            "exits": "SystemExit: 3 (evaluator.py:",
            "memory": "it ran out of memory",
        }
        kinds = [*retried, *UNUSABLE, "hangs", "once", "prints"]
        behaviour = dict(zip((blueprint.key for blueprint in blueprints), kinds, strict=False))
        evaluator = evaluator.model_copy(update={"timeout": TIMEOUT})
        job = Job(task, _Judge(behaviour, tmp_path), 5, evaluator.threads, evaluator.timeout)
        outcomes: dict[str, Outcome] = {}
        with evaluator.open(job) as session:
            for outcome in session.run(blueprints):
                assert outcome.key not in outcomes
                outcomes[outcome.key] = outcome
        assert set(outcomes) == {blueprint.key for blueprint in blueprints}
        undisturbed = Job(task, _Judge({}, tmp_path), 5, evaluator.threads, evaluator.timeout)
        for blueprint in blueprints:
            outcome, kind = outcomes[blueprint.key], behaviour.get(blueprint.key)
            assert "\n" not in outcome.reason
            if kind in (None, "once", "prints"):
                assert outcome.objectives == evaluate(undisturbed, blueprint).objectives
                assert (outcome.status, outcome.reason) == ("ok", "")
            else:
                assert outcome.objectives == {}
                assert outcome.status == ("timeout" if kind == "hangs" else "failed")
        by_kind = {kind: outcomes[key] for key, kind in behaviour.items()}
        for kind, beginning in retried.items():
            assert by_kind[kind].reason.startswith(beginning)
            assert "Traceback" in by_kind[kind].log
        assert by_kind["raises"].reason.endswith(f"in misbehave), on each of {evaluator.retries + 1} tries")
        assert by_kind["memory"].reason.endswith(", with a whole machine to itself as well")
        assert by_kind["hangs"].reason == f"took longer than its timeout of {TIMEOUT:g} s"
        for kind, (_, reason) in UNUSABLE.items():
            assert by_kind[kind].reason == reason
        tries = {kind: outcome.tries for kind, outcome in by_kind.items()}
        most = evaluator.retries + 1
        expected = {"raises": most, "exits": most, "memory": 2, "once": 2}
        assert tries == {**dict.fromkeys([*UNUSABLE, "hangs", "prints"], 1), **expected}
        for text in ("to standard output\n", "to standard error\n", "to the log\n"):
            assert text in by_kind["prints"].log

    def test_nobody_can_alter_what_others_see(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint], tmp_path: Path
    ) -> None:
        """A fitness that writes into the task's weights or data instead of copying them fails, and that is all."""
        if not self.apart:
            pytest.skip("in the caller's process its memory cannot be protected")
        behaviour = {blueprints[0].key: "writes weights", blueprints[1].key: "writes data"}
        evaluator = evaluator.model_copy(update={"retries": 0})
        job = Job(task, _Judge(behaviour, tmp_path), 5, evaluator.threads, evaluator.timeout)
        with evaluator.open(job) as session:
            outcomes = {outcome.key: outcome for outcome in session.run(blueprints)}
        for blueprint in blueprints:
            outcome = outcomes[blueprint.key]
            if blueprint.key in behaviour:
                assert (outcome.status, outcome.reason) == ("failed", DIED)
            else:
                assert outcome.objectives == evaluate(job, blueprint).objectives

    def test_closing_stops_what_is_running(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint], tmp_path: Path
    ) -> None:
        """A session may be closed with work left over, and closed again."""
        session = evaluator.open(Job(task, _Judge({}, tmp_path), 5, evaluator.threads, evaluator.timeout))
        outcomes = session.run(blueprints)
        assert next(outcomes).status == "ok"
        session.close()
        session.close()

    def test_a_map_returns_what_one_process_would(self, evaluator: Evaluator, tmp_path: Path) -> None:
        """Results are in the order of the items; random numbers do not depend on what was called before."""
        shared = {"weights": torch.arange(1000.0), "behaviour": {}, "folder": tmp_path}
        found = evaluator.map(_multiplied, shared, range(12))
        assert [value for value, _, _ in found] == [499500.0 * item for item in range(12)]
        assert len({drawn for _, drawn, _ in found}) == 1
        assert all((process != os.getpid()) == self.apart for _, _, process in found)
        assert evaluator.map(_multiplied, shared, []) == []

    @pytest.mark.parametrize(
        ("kind", "items", "error", "message"),
        [
            (
                "raises",
                range(12),
                EvaluatorError,
                r"^_multiplied failed: ArithmeticError: no such number on two lines \(evaluator\.py:",
            ),
            ("exits", [5], EvaluatorError, r"^_multiplied failed: SystemExit: 3 \(evaluator\.py:"),
            ("cannot be sent", [5], EvaluatorError, r"^_multiplied failed: .* local object .*\(calls\.py:"),
            ("refuses", [5], DataError, "^what, where and what would be right$"),
        ],
    )
    def test_what_a_call_of_a_map_raises_is_raised(
        self,
        evaluator: Evaluator,
        tmp_path: Path,
        kind: str,
        items: Sequence[int],
        error: type[Exception],
        message: str,
    ) -> None:
        """An error that a user can read as it is, any other with its place."""
        shared = {"weights": torch.ones(3), "behaviour": {5: kind}, "folder": tmp_path}
        with pytest.raises(error, match=message):
            evaluator.map(_multiplied, shared, items)

    def test_a_call_of_a_map_that_loses_its_worker_is_repeated(self, evaluator: Evaluator, tmp_path: Path) -> None:
        """And is given up when it has lost as many as an evaluation may."""
        if not self.apart:
            pytest.skip("in the caller's process nobody is left to repeat it")
        shared = {"weights": torch.ones(3), "behaviour": {5: "dies once"}, "folder": tmp_path}
        assert [value for value, _, _ in evaluator.map(_multiplied, shared, [5, 6])] == [15, 18]
        shared = {"weights": torch.ones(3), "behaviour": {5: "dies"}, "folder": tmp_path}
        once = evaluator.model_copy(update={"retries": 0})
        with pytest.raises(EvaluatorError, match=r"^_multiplied: its worker process died \("):
            once.map(_multiplied, shared, [5])
