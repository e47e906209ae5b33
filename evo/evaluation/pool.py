"""A pool of worker processes on this machine."""

import math
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence

from evo.errors import EvaluatorError
from evo.evaluation.base import (
    DIED,
    OUT_OF_MEMORY,
    Fault,
    Job,
    Outcome,
    Pace,
    Session,
    Status,
    Tries,
    Work,
    timeout_reason,
)
from evo.evaluation.memory import kernel_kills
from evo.evaluation.shared import packed
from evo.evaluation.worker import Worker, exit_reason, farewell

LOOK = 0.5  # seconds between looks at workers that say nothing
AHEAD = 0.05  # seconds of work that a worker is given at once, if evaluations are shorter than that
MOST = 64  # evaluations that it is given at once
PIPE = 2**16  # bytes of them, which fit into a pipe: giving work never waits
NODE = socket.gethostname()

Verdict = tuple[Status, str, Fault]


class ProcessSession(Session):
    """Keeps workers busy, and replaces those that die or hang.

    Python's own pools lose every pending call when one worker dies, cannot stop a hanging one, and start workers by running
    the user's script again; this one does none of that.
    """

    def __init__(self, job: Job, workers: int, retries: int) -> None:
        self._timeout = job.timeout
        self._threads = job.threads
        self._count = workers
        self._job, self._spans = packed(job)
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._retries = retries
        self._tries = Tries(retries)
        self._pending: deque[Work] = deque()
        self._alone: deque[Work] = deque()  # those that ran out of memory; the first is next, or under way
        self._finished: list[Outcome] = []
        self._under_way = 0
        self._pace = Pace()
        self._size = 1  # bytes of the largest item in a pipe
        self._stillborn = 0
        self._looked = 0.0
        self._kills = (kernel_kills(),) * 2  # at the last look but one, and at the last

    def submit(self, work: Sequence[Work]) -> None:
        """Queue candidates, and start on them if a worker is free."""
        self._pace.expect(work)
        self._pending.extend(work)
        self._under_way += len(work)
        self._assign()

    def receive(self) -> list[Outcome]:
        """Wait for outcomes; workers are busy again when they are returned."""
        while self._under_way and not self._finished:
            self._assign()
            for key, _ in self._selector.select(LOOK):
                self._attend(key.data)
            if time.monotonic() - self._looked > LOOK:
                self._look()
        self._assign()  # the caller takes its time with the outcomes
        outcomes, self._finished = self._finished, []
        self._under_way -= len(outcomes)
        return outcomes

    def room(self, population: int) -> int:
        """Return what lacks to a quarter more than the workers can do at once."""
        most = math.ceil(1.25 * self._count)
        ahead = math.ceil(1.25 * self._count * self._ahead())
        return max(0, max(most, min(ahead, population // 4)) - self._under_way)

    def _ahead(self) -> int:
        """Return how many evaluations a worker is given at once."""
        if self._pace.seconds is None:
            return 1
        most = max(1, min(MOST, PIPE // self._size))
        return min(most, math.ceil(AHEAD / max(self._pace.seconds, 1e-6)))

    def _assign(self) -> None:
        """Give workers something to do, and start more if there is more to do."""
        if self._alone:
            self._assign_alone(self._alone[0])
            return
        ahead = self._ahead()
        while self._pending and (worker := self._available(ahead)):
            # Less towards the end, so that all workers finish at about the same time.
            share = min(ahead, math.ceil(len(self._pending) / (2 * self._count))) if worker.ready else 1
            sent = worker.assign([self._pending.popleft() for _ in range(share)])
            self._size = max(self._size, sent // share)

    def _assign_alone(self, item: Work) -> None:
        """Start on this one as soon as nothing else is under way on this machine, and on nothing else before it is done."""
        if any(worker.queue for worker in self._workers):
            return
        for worker in self._workers:
            worker.trim()
        if (free := self._available(1)) is not None:
            free.assign([item])

    def _available(self, ahead: int) -> Worker | None:
        """Return the worker that is to be given work next, a new one if need be; None if all have enough."""
        for worker in [worker for worker in self._workers if not worker.queue]:
            if worker.alive():
                return worker
            self._remove(worker)
        if len(self._workers) < self._count:
            worker = Worker(self._job, self._spans, self._threads)
            self._workers.append(worker)
            self._selector.register(worker.connection, selectors.EVENT_READ, worker)
            return worker
        least = min(self._workers, key=lambda worker: len(worker.queue))
        return least if len(least.queue) <= ahead // 2 else None

    def _attend(self, worker: Worker) -> None:
        """Take a worker's next message."""
        try:
            answer = worker.listen()
        except EOFError:
            self._bury(worker)
            return
        if answer is not None:
            item, outcome = answer
            self._stillborn = 0
            self._pace.note(outcome)
            self._conclude(item, outcome)

    def _look(self) -> None:
        """Find workers that are late, and those that died while a process that a fitness left behind holds their pipe."""
        self._looked = time.monotonic()
        self._kills = self._kills[1], kernel_kills()
        for worker in list(self._workers):
            dead = not worker.alive()
            while worker in self._workers and worker.speaks():
                self._attend(worker)
            if worker in self._workers and (dead or worker.late(self._timeout)):
                self._bury(worker, late=not dead)

    def _bury(self, worker: Worker, *, late: bool = False) -> None:
        """Remove a worker; to blame is the candidate that it was at, not those that it had not begun with."""
        status, words = self._remove(worker)
        if not worker.ready:
            self._note_stillborn(status, words)
        if not worker.queue:
            return
        item, *others = worker.queue
        self._pending.extendleft(reversed(others))
        if not worker.ready:
            self._again(item)
            return
        if late:
            verdict: Verdict = "timeout", timeout_reason(self._timeout), ""
        elif status == -signal.SIGKILL and kernel_kills() > self._kills[0]:
            verdict = "failed", OUT_OF_MEMORY, "memory"
        else:
            verdict = "failed", DIED, "crash"
            words = f"{words.rstrip()}\nthe worker process ended with {exit_reason(status)}".lstrip()
        kind, reason, fault = verdict
        seconds = time.monotonic() - worker.started
        process = worker.process.pid
        self._conclude(item, Outcome(item.key, kind, {}, reason, seconds, NODE, process, log=words, fault=fault))

    def _conclude(self, item: Work, outcome: Outcome) -> None:
        """Take note of how a try ended."""
        final = self._tries.final(outcome)
        if final is None and outcome.fault == "memory":
            self._alone.append(item)
        elif final is None:
            self._again(item)
        else:
            if self._alone and self._alone[0] == item:
                self._alone.popleft()
            self._finished.append(final)

    def _again(self, item: Work) -> None:
        """Queue a candidate again, unless it is the one that everything else waits for."""
        if not self._alone or self._alone[0] != item:
            self._pending.append(item)

    def _note_stillborn(self, status: int, words: str) -> None:
        self._stillborn += 1
        if self._stillborn > 2 * self._count:
            raise EvaluatorError(f"worker processes die before they are ready ({farewell(status, words)})")

    def _remove(self, worker: Worker) -> tuple[int, str]:
        """Let a worker go; return its exit status and last words."""
        self._workers.remove(worker)
        self._selector.unregister(worker.connection)
        worker.kill()
        return worker.bury()

    def cancel(self) -> None:
        """Kill the workers that are busy; others come when there is work again."""
        for worker in [worker for worker in self._workers if worker.queue]:
            self._remove(worker)
        self._forget()

    def _forget(self) -> None:
        self._pending.clear()
        self._alone.clear()
        self._finished.clear()
        self._tries = Tries(self._retries)
        self._under_way = 0

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.bury()
        self._workers.clear()
        self._forget()
        self._selector.close()
        self._job.close()
