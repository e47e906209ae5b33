"""The evaluation of one candidate, and what an evaluator has to do with many."""

import os
import signal
import socket
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Literal

from pydantic import Field

from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.fitness.base import Fitness, measure
from evo.network.modes import using_threads
from evo.settings import Settings
from evo.task import Task

Status = Literal["ok", "failed", "timeout"]


@dataclass(frozen=True)
class Job:
    """What every evaluation of a run has in common; travels to a worker once."""

    task: Task
    fitness: Fitness
    seed: int
    threads: int
    timeout: float | None


@dataclass(frozen=True)
class Outcome:
    """The result of one evaluation.

    Attributes:
        key: the blueprint's key.
        status: "ok", "failed" (it raised, returned something unusable or its worker died) or "timeout".
        objectives: by name, in the fitness's order; empty unless ok.
        reason: why it is not ok, in one line; empty if it is.
        seconds: wall time in the worker.
        worker: host and process that did it.
    """

    key: str
    status: Status
    objectives: dict[str, float]
    reason: str
    seconds: float
    worker: str


class _TimeUp(BaseException):
    """Raised by the alarm; not an Exception, so that a fitness cannot swallow it by accident."""


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """Raise _TimeUp in this thread after `seconds`; only the main thread can be interrupted, elsewhere nothing happens."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _TimeUp

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def worker_name() -> str:
    """Return host and process number of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def evaluate(job: Job, blueprint: Blueprint) -> Outcome:
    """Evaluate one candidate; depends on `job` and `blueprint` alone and never raises a fitness's error."""
    start = time.perf_counter()
    status: Status = "ok"
    objectives: dict[str, float] = {}
    reason = ""
    try:
        with _deadline(job.timeout), using_threads(job.threads):
            objectives = measure(job.fitness, Candidate(job.task, blueprint, job.seed))
    except _TimeUp:
        status, reason = "timeout", timeout_reason(job.timeout)
    except (Exception, SystemExit) as error:
        status, reason = "failed", _describe(error)
    return Outcome(blueprint.key, status, objectives, reason, time.perf_counter() - start, worker_name())


def timeout_reason(timeout: float | None) -> str:
    """Return the reason recorded for an evaluation that ran out of time."""
    return f"took longer than its timeout of {timeout:g} s"


def every_time(retries: int) -> str:
    """Return how a reason ends that held for the first try and all others."""
    return f" on each of {retries + 1} tries" if retries else ""


def _describe(error: BaseException) -> str:
    """Return one line: kind, message and the place in the code that raised it."""
    message = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {message}{place}"


class Session(ABC):
    """Workers that are ready to evaluate candidates of one job."""

    @abstractmethod
    def run(self, blueprints: Sequence[Blueprint]) -> Iterator[Outcome]:
        """Yield one outcome per blueprint, as they finish; the keys of `blueprints` are all different."""

    @abstractmethod
    def close(self) -> None:
        """Release the workers at once; what is still running is lost."""

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
    retries: Annotated[int, Field(ge=0, description="further tries after the worker died or ran out of memory")] = 2

    @abstractmethod
    def open(self, job: Job) -> Session:
        """Start workers for `job`.

        Raises:
            EvaluatorError: there are none to be had.
        """
