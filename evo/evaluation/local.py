"""Evaluation on this machine: in this process, or in worker processes that may hang or die without harm."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from evo.evaluation.base import Evaluator, Item, Job, Outcome, Pace, Result, Session, Shared, Tries, Work, evaluate
from evo.evaluation.calls import Calls
from evo.evaluation.pool import ProcessSession
from evo.evaluation.pool_map import map_by_processes

BATCH_SECONDS = 0.05  # what takes less is handed out together: writing it down one by one would take longer than it did


class LocalEvaluator(Evaluator):
    """This machine's processors.

    With `workers=0` everything happens in the calling process: the easiest to debug, but a timeout then cannot stop code
    that never returns to Python, and a crash takes the search along.
    """

    workers: Annotated[
        int | None, Field(ge=0, description="worker processes; 0 is this process; default one per processor")
    ] = None

    def open(self, job: Job) -> Session:
        """Start worker processes, or none."""
        return (
            ProcessSession(job, self._processes, self.retries)
            if self._processes
            else InProcessSession(job, self.retries)
        )

    def map(self, function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], /) -> list[Result]:
        """Call the function by worker processes, or here if there are none."""
        calls = Calls(function, shared, items, self.threads)
        if self._processes and len(items):
            return map_by_processes(calls, self._processes, self.retries)
        return [calls(number).result() for number in range(len(items))]

    @property
    def _processes(self) -> int:
        return self.workers if self.workers is not None else len(os.sched_getaffinity(0))


class InProcessSession(Session):
    """Evaluates one candidate after the other in the calling process, when it is asked for outcomes."""

    def __init__(self, job: Job, retries: int) -> None:
        self._job = job
        self._retries = retries
        self._tries = Tries(retries)
        self._pending: deque[Work] = deque()
        self._finished: list[Outcome] = []
        self._pace = Pace()

    def submit(self, work: Sequence[Work]) -> None:
        """Queue candidates."""
        self._pace.expect(work)
        self._pending.extend(work)

    def receive(self) -> list[Outcome]:
        """Evaluate the next candidate, and more if they are done in no time."""
        end = time.monotonic() + BATCH_SECONDS
        while self._pending and not (self._finished and time.monotonic() + (self._pace.seconds or math.inf) > end):
            outcome = self._tries.final(evaluate(self._job, self._pending[0]))
            if outcome is not None:  # else the same again
                self._pending.popleft()
                self._finished.append(outcome)
                self._pace.note(outcome)
        outcomes, self._finished = self._finished, []
        return outcomes

    def room(self, population: int) -> int:
        """Return 1 if nothing is queued: a second candidate would only wait."""
        return 0 if self._pending else 1

    def cancel(self) -> None:
        """Forget what is queued."""
        self._pending.clear()
        self._finished.clear()
        self._tries = Tries(self._retries)

    def close(self) -> None:
        """Nothing to release, and nothing more to do."""
        self.cancel()
