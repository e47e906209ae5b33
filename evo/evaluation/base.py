"""The evaluation of one candidate, and what an evaluator has to do with many."""

import os
import socket
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import EvaluatorError
from evo.evaluation.complaints import account, describe, is_out_of_memory, one_line
from evo.evaluation.limits import TimeUp, TooMuchMemory, limits
from evo.evaluation.log import Log, logged
from evo.evaluation.memory import give_back, own_memory, peak, reset_peak
from evo.fitness.base import Fitness, UnusableError, measure
from evo.fitness.cascade import Cascade
from evo.network.modes import apart, using_threads
from evo.settings import Settings
from evo.task import Task

Status = Literal["ok", "failed", "timeout"]

Fault = Literal["", "error", "crash", "memory", "node"]
"""Why a try came to nothing, if another one may do better.

`error`: the fitness raised; `crash`: its worker process died; `memory`: it ran out of memory; `node`: its machine was lost.
Empty if another try would end like this one: a result, a timeout, or something that the fitness returned and is unusable.
"""

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

NODE_LOSSES = 20
"""Further tries after losing the machine, which is never the candidate's fault."""

GIB = 2**30

UNNOTICED = 0.05
"""Share of `Evaluator.memory` that an evaluation may leave behind in its process."""

OUT_OF_MEMORY = "it ran out of memory"
"""The reason recorded for `memory`, the same whoever noticed it."""

DIED = "its worker process died (writing into the task's data or weights does that; its log may say more)"
"""The reason recorded for `crash`, the same on every evaluator: how the process ended belongs into the log."""


@dataclass(frozen=True)
class Screening:
    """A structure that an earlier fidelity of the job's cascade judges, in place of the last.

    Attributes:
        blueprint: the structure.
        fidelity: place of the fidelity, from 0.
    """

    blueprint: Blueprint
    fidelity: int

    @property
    def key(self) -> str:
        """That of the structure."""
        return self.blueprint.key


Work = Blueprint | Screening
"""What is to be evaluated: a structure by the job's fitness, or by one fidelity of it."""


@dataclass(frozen=True)
class Job:
    """What every evaluation of a run has in common; travels to a worker once.

    Attributes:
        task, fitness, seed: what is evaluated.
        threads, timeout, memory: as `Evaluator` has them.
    """

    task: Task
    fitness: Fitness
    seed: int
    threads: int
    timeout: float | None
    memory: float | None = None

    def __call__(self, work: Work) -> "Outcome":
        """Return the outcome of one try."""
        return evaluate(self, work)

    def judge(self, work: Work) -> Fitness:
        """Return what judges a structure."""
        if isinstance(work, Blueprint):
            return self.fitness
        assert isinstance(self.fitness, Cascade)
        return self.fitness.fidelities[work.fidelity]


@dataclass(frozen=True)
class Outcome:
    """The result of one evaluation.

    Attributes:
        key: the blueprint's key.
        status: "ok", "failed" (it raised, returned something unusable or its worker died) or "timeout".
        objectives: by name, in the fitness's order; empty unless ok.
        reason: why it is not ok, in one line; empty if it is.
        seconds: wall time of the last try in the worker.
        node: the machine that did it.
        worker: the process that did it.
        worker_memory: peak resident memory of that process meanwhile, in bytes, what it shares with others included; None
            if nobody lived to tell.
        log: the end of what the evaluation printed, with the traceback of what it raised and the last words of a worker
            that died.
        tries: how many it took.
        fault: why another try might do better, see `Fault`; the outcomes that a session hands out are final.
    """

    key: str
    status: Status
    objectives: dict[str, float]
    reason: str
    seconds: float
    node: str
    worker: int | None
    worker_memory: int | None = None
    log: str = ""
    tries: int = 1
    fault: Fault = ""


def evaluate(job: Job, work: Work, node: str = "") -> Outcome:
    """Try one candidate once, in this process; depends on `job` and `work` alone and never raises a fitness's error.

    Args:
        job: what all evaluations have in common.
        work: the candidate's structure, and what judges it unless that is the job's fitness.
        node: what to call this machine; default its host name.
    """
    before = own_memory() if job.memory is not None else None
    log = Log()
    reset_peak()
    start = time.perf_counter()
    status, objectives, reason, fault = _try(job, work, log)
    seconds = time.perf_counter() - start
    most = peak()
    _tidy(job, fault, before)
    node = node or socket.gethostname()
    return Outcome(work.key, status, objectives, reason, seconds, node, os.getpid(), most, log.text(), fault=fault)


def _try(job: Job, work: Work, log: Log) -> tuple[Status, dict[str, float], str, Fault]:
    """Return status, objectives, reason and fault of one try."""
    memory = None if job.memory is None else job.memory * GIB
    blueprint = work if isinstance(work, Blueprint) else work.blueprint
    try:
        with (
            apart(job.seed + int(work.key, 16)),
            using_threads(job.threads),
            logged(log),
            limits(job.timeout, memory, measure),
        ):
            return "ok", measure(job.judge(work), Candidate(job.task, blueprint, job.seed)), "", ""
    except TimeUp as error:
        log.add(account(error, measure))
        return "timeout", {}, timeout_reason(job.timeout), ""
    except TooMuchMemory as error:
        log.add(account(error, measure))
        return "failed", {}, OUT_OF_MEMORY, "memory"
    except UnusableError as error:
        return "failed", {}, one_line(error), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # some libraries have errors that are no Exception
        log.add(account(error, measure))
        if is_out_of_memory(error):
            return "failed", {}, OUT_OF_MEMORY, "memory"
        return "failed", {}, describe(error), "error"


def _tidy(job: Job, fault: Fault, before: int | None) -> None:
    """Give memory back that the next evaluation, here or elsewhere on this machine, would miss or be blamed for."""
    if fault == "memory":
        give_back()
    elif job.memory is not None and before is not None:
        kept = (own_memory() or 0) - before
        if kept > UNNOTICED * job.memory * GIB:
            give_back()


def timeout_reason(timeout: float | None) -> str:
    """Return the reason recorded for an evaluation that ran out of time."""
    return f"took longer than its timeout of {timeout:g} s"


class Tries:
    """Counts the tries of every candidate that came to nothing, by cause, and decides whether there is another."""

    def __init__(self, retries: int) -> None:
        self._limits: dict[Fault, int] = {"error": retries, "crash": retries, "memory": 1, "node": NODE_LOSSES}
        self._counts: Counter[tuple[str, Fault]] = Counter()

    def again(self, key: str, fault: Fault) -> bool:
        """Note a try that ended with `fault`; return whether to try again: after `memory`, with a whole machine to itself."""
        self._counts[key, fault] += 1
        return self._counts[key, fault] <= self._limits.get(fault, 0)

    def reason(self, fault: Fault, reason: str) -> str:
        """Return how the final reason reads; it is the same whatever else disturbed the candidate."""
        limit = self._limits.get(fault, 0)
        if fault == "memory":
            return f"{reason}, with a whole machine to itself as well"
        return f"{reason}, on each of {limit + 1} tries" if limit else reason

    def final(self, outcome: Outcome) -> Outcome | None:
        """Return the outcome to hand out for that of a try, or None if the candidate is to be tried again."""
        if outcome.fault and self.again(outcome.key, outcome.fault):
            return None
        made = self.made(outcome.key)
        if not made:
            return outcome
        self.forget(outcome.key)
        if outcome.fault:
            return replace(outcome, tries=made, reason=self.reason(outcome.fault, outcome.reason))
        return replace(outcome, tries=made + 1)

    def made(self, key: str) -> int:
        """Return how many tries of a candidate came to nothing."""
        return sum(count for (name, _), count in self._counts.items() if name == key)

    def forget(self, key: str) -> None:
        """Drop the counts of a candidate that has its outcome."""
        for entry in [entry for entry in self._counts if entry[0] == key]:
            del self._counts[entry]


def unsendable(error: Exception) -> EvaluatorError:
    """Return what to tell a user whose task, fitness or function cannot be sent to workers."""
    return EvaluatorError(
        f"the task, the fitness or the function cannot be sent to worker processes ({one_line(error)}); open files, locks "
        "and connections have to be made where they are used, or use LocalEvaluator(workers=0)"
    )


class Pace:
    """How long evaluations take lately.

    Attributes:
        seconds: a running mean; None before the first success. Failures often take no time, which says nothing of the others.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._fidelity: int | None = None

    def expect(self, work: Sequence[Work]) -> None:
        """Forget the times of another fidelity than that of what is submitted now."""
        for one in work[:1]:
            fidelity = one.fidelity if isinstance(one, Screening) else None
            if fidelity != self._fidelity:
                self.seconds, self._fidelity = None, fidelity

    def note(self, outcome: Outcome) -> None:
        """Take in one more."""
        if outcome.status == "ok":
            self.seconds = outcome.seconds if self.seconds is None else 0.8 * self.seconds + 0.2 * outcome.seconds


class Session(ABC):
    """Workers that are ready to evaluate candidates of one job.

    Submit candidates, receive outcomes, in any rhythm: a generation at once, or one candidate whenever there is room.
    """

    @abstractmethod
    def submit(self, work: Sequence[Work]) -> None:
        """Take in candidates; their keys differ from each other's and from those of all that have not been received.

        All that is under way at a time is judged by the same fidelity.
        """

    @abstractmethod
    def receive(self) -> list[Outcome]:
        """Wait for at least one outcome and return all that have arrived, the first to finish first.

        Every candidate submitted has exactly one. Empty only if nothing is under way.

        Raises:
            EvaluatorError: no candidate can be evaluated.
        """

    @abstractmethod
    def room(self, population: int) -> int:
        """Return how many candidates more, right now, keep all workers busy until the next is submitted.

        Args:
            population: individuals that a search's next child may descend from. Where several short evaluations travel
                together, those under way stay a fraction of it, so that children descend from recent parents.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Stop and forget what was submitted and not received."""

    @abstractmethod
    def close(self) -> None:
        """Release the workers at once; what is still running is lost."""

    def run(self, work: Sequence[Work]) -> Iterator[Outcome]:
        """Submit candidates and yield their outcomes as they finish; what an abandoned call had left is cancelled.

        Raises:
            EvaluatorError: no candidate can be evaluated, or the session has lost some.
        """
        left = len(work)
        self.submit(work)
        try:
            while left > 0:
                outcomes = self.receive()
                if not outcomes:
                    raise EvaluatorError(f"the evaluator has no outcome for {left} of {len(work)} candidates")
                for outcome in outcomes:
                    left -= 1
                    yield outcome
        finally:
            if left > 0:
                self.cancel()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Evaluator(Settings, ABC):
    """Where and how candidates are evaluated; the results do not depend on it, except for `threads`."""

    threads: Annotated[
        int,
        Field(ge=1, description="torch threads per evaluation; results of different numbers differ in the last bits"),
    ] = 1
    timeout: Annotated[float | None, Field(gt=0, description="seconds that one evaluation may take")] = None
    memory: Annotated[
        float | None,
        Field(
            gt=0,
            description="GiB by which an evaluation may enlarge its process, ten looks a second; one that exceeds them is "
            "stopped (shared and GPU memory and processes that it starts do not count). On Ray also what it reserves of a node",
        ),
    ] = None
    retries: Annotated[
        int,
        Field(
            ge=0,
            description="further tries of an evaluation that raises, and of one whose worker dies; one that runs out of "
            "memory has one more, with a machine to itself, one that takes too long has none",
        ),
    ] = 2

    @abstractmethod
    def open(self, job: Job) -> Session:
        """Start workers for `job`.

        Raises:
            EvaluatorError: there are none to be had.
        """

    @abstractmethod
    def map(self, function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], /) -> list[Result]:
        """Return `function(shared, item)` of every item, in their order, by all workers.

        A call runs on `threads` torch threads and depends on its arguments alone; then the results do not depend on the
        evaluator, unless on `threads`. What dies with its worker is called again, up to `retries` times; what raises is
        not. `timeout` and `memory` are for evaluations.

        Args:
            function: importable by the workers, or sent by value; does not write to `shared`, and returns what pickle can
                carry.
            shared: sent to every machine once.
            items: likewise; at best several times as many as there are workers.

        Raises:
            EvoError: a call raised it.
            EvaluatorError: a call raised something else, something cannot be sent, or there are no workers.
        """
