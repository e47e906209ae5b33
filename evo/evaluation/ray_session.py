"""Candidates on their way through a Ray cluster.

Tasks rather than actors: a task finds a node that has just joined, and a dead worker takes one call along, not a share of
the pool. Ray's own retries are off, since it cannot tell a user's error from a lost node and repeats what ran out of memory
for ever.
"""

import math
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions

from evo.evaluation.base import Job, Outcome, Pace, Session, Tries, Work, timeout_reason
from evo.evaluation.log import LENGTH
from evo.evaluation.ray import own_signals
from evo.evaluation.ray_cluster import Cluster, Node
from evo.evaluation.ray_tasks import Tasks, cannot_run, loss
from evo.evaluation.ray_worker import GRACE, STARTED, stored

CHUNK_SECONDS = 0.25  # evaluations shorter than this travel several to a task
LOOK = 1.0  # seconds between looks at tasks that say nothing
AHEAD = 4  # tasks at least that wait for a slot, if there are candidates: with fewer, Ray gives workers back in between
OCCUPIED = 30.0  # seconds that a node which was to be had alone may be kept by others than this search


@dataclass
class _Flight:
    """A task under way.

    Attributes:
        items: what it evaluates, in this order.
        begun: when it was sent, or has said that it begins.
        running: it has said so.
        seen: when it was last known to be running.
        barred: the node that it must not go to.
    """

    items: list[Work]
    begun: float
    running: bool = False
    seen: float = 0.0
    barred: Node | None = None


@dataclass
class _Host:
    """The node that a candidate which ran out of memory gets to itself.

    Attributes:
        node: it.
        others: tasks that were under way before, and may be on it.
        handle: the candidate's task.
        free: since when no other task of this search can be on it.
        alone: it is to be had alone; not if others than this search never leave it.
    """

    node: Node
    others: set[Any]
    handle: Any = None
    free: float | None = None
    alone: bool = True


class RaySession(Session):
    """Keeps a few more tasks under way than the cluster has slots.

    A task brings the outcomes of one candidate, or of several that take no time. What dies with its worker is repeated, one
    by one: then the one at fault is known.
    """

    def __init__(self, job: Job, request: dict[str, float], retries: int, *, shut_down: bool) -> None:
        """Put the job into the object store.

        Args:
            job: what is evaluated.
            request: what one evaluation takes of a node, by Ray's names.
            retries: as `Evaluator` has it.
            shut_down: Ray was started for this session and ends with it.

        Raises:
            EvaluatorError: no node has that much.
        """
        self._timeout = job.timeout
        self._retries = retries
        self._shut_down = shut_down
        self._cluster = Cluster(request)
        self._cluster.check()
        self._reference: Any = stored(job)
        self._tasks = Tasks(request, job.threads, announce=job.timeout is not None)
        self._flights: dict[Any, _Flight] = {}
        self._random = random.Random()
        self._succeeded = False
        self._pace = Pace()
        self._population: int | None = None
        self._looked = 0.0
        self._forget()

    def _forget(self) -> None:
        self._tries = Tries(self._retries)
        self._pending: deque[Work] = deque()
        self._single: dict[str, str] = {}  # those that travel alone, each with the name of a node to avoid if possible
        self._hungry: deque[Work] = deque()  # those that ran out of memory; the first is next, or under way
        self._host: _Host | None = None
        self._under_way = 0

    def submit(self, work: Sequence[Work]) -> None:
        """Queue candidates; they leave, several to a task if they take no time, when outcomes are asked for."""
        self._pace.expect(work)
        self._pending.extend(work)
        self._under_way += len(work)

    def receive(self) -> list[Outcome]:
        """Wait for outcomes."""
        outcomes: list[Outcome] = []
        while self._under_way and not outcomes:
            self._launch()
            handles = list(self._flights)
            if not handles:
                time.sleep(LOOK / 10)  # there is no node for a candidate that needs one to itself
            elif ray.wait(handles, num_returns=1, timeout=LOOK)[0]:
                for handle in ray.wait(handles, num_returns=len(handles), timeout=0)[0]:
                    outcomes += self._land(handle)
            if time.monotonic() - self._looked > LOOK:
                self._look()
        self._under_way -= len(outcomes)
        return outcomes

    def room(self, population: int) -> int:
        """Return what lacks to a quarter more than the cluster can do at once."""
        self._population = population
        slots = max(1, self._cluster.slots())
        return max(0, math.ceil(1.25 * slots) * self._chunk(slots) - self._under_way)

    def _chunk(self, slots: int) -> int:
        """Return how many candidates should travel together.

        Those under way stay below a third of the population that the next child descends from. Of a whole generation, a task
        takes a share of what is left, so that all workers finish at about the same time.
        """
        if self._pace.seconds is None:
            return 1
        wanted = math.ceil(CHUNK_SECONDS / max(self._pace.seconds, 1e-4))
        most = len(self._pending) // (2 * slots) if self._population is None else self._population // (4 * slots)
        return max(1, min(wanted, most))

    def _launch(self) -> None:
        """Send tasks, but not more than keep the cluster busy: who comes later goes where there is room then."""
        self._serve_hungry()
        barred = self._host.node if self._host else None
        slots = self._cluster.slots(without=barred)
        if barred and not slots:
            return
        slots = max(1, slots)
        chunk = self._chunk(slots)
        enough, most = math.ceil(1.25 * slots), slots + max(AHEAD, math.ceil(slots / 4))
        while self._pending and len(self._flights) < (most if len(self._pending) >= chunk else enough):
            items = self._next(chunk)
            self._send(self._suited(items[0].key, barred), items, barred)

    def _next(self, chunk: int) -> list[Work]:
        """Take the candidates that travel next."""
        found = [self._pending.popleft()]
        if found[0].key not in self._single:
            while self._pending and len(found) < chunk and self._pending[0].key not in self._single:
                found.append(self._pending.popleft())
        return found

    def _suited(self, key: str, barred: Node | None) -> Any:
        """Return the remote function for a candidate: not to the node `barred`, and to another than where it raised."""
        if failed := self._single.get(key):
            others = [
                node
                for node in self._cluster.nodes()
                if (barred is None or node.id != barred.id) and node.name != failed
            ]
            if others:
                return self._tasks.preferring(self._random.choice(others))
        return self._tasks.avoiding(barred) if barred else self._tasks.anywhere

    def _send(self, remote: Any, items: list[Work], barred: Node | None = None) -> Any:
        handle = remote.remote([self._reference], items, 2 * CHUNK_SECONDS)
        self._flights[handle] = _Flight(items, time.monotonic(), barred=barred)
        return handle

    def _serve_hungry(self) -> None:
        """Give the first of those that ran out of memory a node to itself: other candidates do not go there any more."""
        if not self._hungry:
            return
        if self._host is None and (node := self._cluster.largest()) is not None:
            self._host = _Host(node, set(self._flights))
        host = self._host
        if host is not None and host.handle is None:
            host.handle = self._send(self._tasks.only_on(host.node, alone=host.alone), [self._hungry[0]])

    def _land(self, handle: Any) -> list[Outcome]:
        """Take the next report of a task; return the outcomes that are final, and queue again what has none."""
        flight = self._flights[handle]
        try:
            report = ray.get(next(handle) if isinstance(handle, ray.ObjectRefGenerator) else handle)
        except exceptions.RayError as error:
            self._remove(handle)
            return self._judge(flight, error)
        if report == STARTED:
            flight.begun = flight.seen = time.monotonic()
            flight.running = True
            return []
        self._remove(handle)
        self._succeeded = True
        self._pending.extendleft(reversed(flight.items[len(report) :]))
        finals: list[Outcome] = []
        for item, outcome in zip(flight.items, report, strict=False):
            self._pace.note(outcome)
            finals += self._conclude(item, outcome)
        return finals

    def _remove(self, handle: Any) -> None:
        del self._flights[handle]
        if self._host is not None:
            self._host.others.discard(handle)
            if self._host.handle is handle:
                self._host = None

    def _conclude(self, item: Work, outcome: Outcome) -> list[Outcome]:
        """Take note of how a try ended; return the outcome if that was the last."""
        key, fault = item.key, outcome.fault
        final = self._tries.final(outcome)
        hungry = bool(self._hungry) and self._hungry[0] == item
        if final is not None:
            self._single.pop(key, None)
            if hungry:
                self._hungry.popleft()
            return [final]
        if fault != "node":
            self._single[key] = outcome.node.rpartition("-")[2] if fault == "error" else ""
        if fault == "memory" and not hungry:
            self._hungry.append(item)
        elif not hungry:  # that one has a node to itself next time as well
            self._pending.appendleft(item)
        return []

    def _judge(self, flight: _Flight, error: Exception) -> list[Outcome]:
        """Find out why a task was lost; return the outcomes of candidates that are not to be tried again.

        Raises:
            EvaluatorError: no candidate can be evaluated.
        """
        if isinstance(error, exceptions.TaskUnschedulableError):  # the node that a candidate was to have is gone
            self._cluster.look_again()
            self._pending.extendleft(each for each in reversed(flight.items) if each not in self._hungry)
            return []
        verdict = loss(error)
        if verdict is None and self._succeeded:
            verdict = "its node cannot run it", "node"  # others can: one bad node does not end a search
        if verdict is None:
            raise cannot_run(error) from error
        reason, fault = verdict
        if len(flight.items) > 1 and fault != "node":
            # Nobody knows which of them it was: one by one it shows.
            self._single.update((item.key, "") for item in flight.items)
            self._pending.extendleft(reversed(flight.items))
            return []
        seconds = time.monotonic() - flight.begun
        # How long it ran is known up to the last look alone: the caller may have been away since it died.
        late = flight.running and self._timeout is not None and flight.seen - flight.begun >= self._timeout
        finals: list[Outcome] = []
        for item in reversed(flight.items):
            log = str(error)[-LENGTH:]  # names node, process and how it ended
            outcome = Outcome(item.key, "failed", {}, reason, seconds, "", None, log=log, fault=fault)
            if late and fault == "crash":
                outcome = Outcome(item.key, "timeout", {}, timeout_reason(self._timeout), seconds, "", None)
            finals += self._conclude(item, outcome)
        return finals

    def _look(self) -> None:
        """Look after tasks from which nothing will be heard."""
        self._looked = now = time.monotonic()
        handles = list(self._flights)
        silent = ray.wait(handles, num_returns=len(handles), timeout=0)[1] if handles else []
        for handle in silent:
            self._flights[handle].seen = now
        for handle, flight in list(self._flights.items()):
            if flight.barred and not self._cluster.slots(without=flight.barred):
                self._remove(handle)  # Ray would let it wait for ever
                ray.cancel(handle, force=True)
                self._pending.extendleft(reversed(flight.items))
            elif flight.running and self._timeout is not None:
                late = now - flight.begun > 2 * CHUNK_SECONDS + self._timeout + 2 * GRACE
                if late and handle in silent:
                    # Its own two alarms have failed. Forced from the start: after a soft cancel Ray ignores the forced one.
                    ray.cancel(handle, force=True)
        host = self._host
        if host is None or host.handle is None or host.others or self._flights[host.handle].running or not host.alone:
            return
        host.free = host.free or now
        if now - host.free > OCCUPIED:
            del self._flights[host.handle]
            ray.cancel(host.handle, force=True)
            host.handle, host.alone = None, False

    def cancel(self) -> None:
        """Stop what is running; the workers that did it are gone."""
        for handle in self._flights:
            if ray.is_initialized():
                ray.cancel(handle, force=True)
        self._flights.clear()
        self._forget()

    def close(self) -> None:
        """Cancel what is running; shut Ray down if this search started it."""
        if self._shut_down and ray.is_initialized():
            with own_signals():
                ray.shutdown()
        self._shut_down = False
        self.cancel()
        self._reference = None
