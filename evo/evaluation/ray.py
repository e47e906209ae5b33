"""Evaluation on a Ray cluster: stateless tasks, retried by cause, with deadlines enforced from the outside.

Tasks rather than actors: a task finds a node that has just joined, and a dead worker takes one call along, not a share of
the pool. Ray's own retries are off, since it cannot tell a user's error from a lost node and repeats what ran out of memory
for ever.
"""

import faulthandler
import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlparse

from pydantic import Field

from evo.blueprint import Blueprint
from evo.errors import EvaluatorError
from evo.evaluation.base import Evaluator, Job, Outcome, Session, evaluate, timeout_reason

if TYPE_CHECKING:
    import ray

GRACE = 2.0  # seconds between one layer of the timeout and the next
NODE_LOSSES = 20  # further tries after losing the node, which is never the candidate's fault
REFRESH = 3.0  # seconds between looks at what the cluster has to offer
CHUNK_SECONDS = 0.25  # evaluations shorter than this travel several to a task


class RayEvaluator(Evaluator):
    """A Ray cluster, or a Ray that is started on this machine for the length of the search.

    A Ray that is already running in this process is used and left running.
    """

    address: Annotated[
        str | None,
        Field(
            description='"auto" or host:port of a running cluster; default: the one this process or RAY_ADDRESS already '
            "uses, else a new one on this machine"
        ),
    ] = None
    num_cpus: Annotated[float, Field(gt=0, description="processors that one evaluation takes")] = 1.0
    num_gpus: Annotated[float, Field(ge=0, description="GPUs that one evaluation takes, e.g. 0.25")] = 0.0
    resources: Annotated[
        dict[str, float], Field(default_factory=dict, description="custom Ray resources that one evaluation takes")
    ]

    def open(self, job: Job) -> Session:
        """Connect to the cluster, or start one, and put the job into its object store."""
        import ray

        started = False
        if not ray.is_initialized():
            started = self._connect()
        try:
            return RaySession(self, job, shut_down=started)
        except BaseException:
            if started:
                ray.shutdown()
            raise

    def _connect(self) -> bool:
        """Initialise Ray; return whether this process has to shut it down again."""
        import ray

        address = self.address or os.environ.get("RAY_ADDRESS")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
        try:
            if address is None:
                # Never by accident the cluster that somebody else left running on this machine.
                ray.init(address="local", num_cpus=max(1, len(os.sched_getaffinity(0))), **quiet)
            else:
                _probe(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise EvaluatorError(
                f"RayEvaluator.address: cannot reach a Ray cluster at {address or 'this machine'} ({reason}); "
                "start one with `ray start --head`, or leave the address out"
            ) from error
        return True


def _probe(address: str) -> None:
    """Raise ConnectionError at once if nobody listens at host:port: Ray itself would wait for minutes."""
    parsed = urlparse(address if "//" in address else f"//{address}")
    try:
        host, port = parsed.hostname, parsed.port
    except ValueError as error:
        raise ConnectionError(f"not an address: {error}") from None
    if host and port:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            raise ConnectionError(f"{host}:{port} does not answer: {error}") from None


_jobs: dict[str, Job] = {}  # in a worker: the job it works for, by the hexadecimal name of its object


def _evaluate_chunk(reference: "list[ray.ObjectRef[Job]]", blueprints: list[Blueprint]) -> list[Outcome]:
    """Run in a worker: evaluate some candidates, one after the other."""
    import ray

    name = reference[0].hex()
    if name not in _jobs:
        _jobs.clear()
        _jobs[name] = ray.get(reference[0])
    job = _jobs[name]
    outcomes = []
    for blueprint in blueprints:
        if job.timeout is not None:
            # Reaches code that holds the interpreter's lock, where no Python signal handler ever runs.
            faulthandler.dump_traceback_later(job.timeout + GRACE, exit=True)
        try:
            outcomes.append(evaluate(job, blueprint))
        finally:
            faulthandler.cancel_dump_traceback_later()
    return outcomes


@dataclass
class _Flight:
    """A task under way."""

    blueprints: list[Blueprint]
    submitted: float


class RaySession(Session):
    """Keeps a window of tasks a little larger than the cluster's slots."""

    def __init__(self, settings: RayEvaluator, job: Job, *, shut_down: bool) -> None:
        import ray

        self._settings = settings
        self._job = job
        self._shut_down = shut_down
        self._slots = 0
        self._read = -math.inf
        if self._capacity() == 0:
            wanted = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, **settings.resources}
            raise EvaluatorError(
                f"RayEvaluator: no node of the cluster offers what one evaluation takes "
                f"({', '.join(f'{amount:g} {name}' for name, amount in wanted.items() if amount)})"
            )
        self._reference = ray.put(job)
        self._task = ray.remote(_evaluate_chunk).options(
            max_retries=0,
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            resources=settings.resources or None,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(job.threads)}},
        )
        self._flights: dict[Any, _Flight] = {}
        self._mean_seconds: float | None = None
        self._losses: dict[str, dict[str, int]] = {}

    def _capacity(self) -> int:
        """Return how many evaluations fit the cluster's nodes at once, looked up every few seconds."""
        import ray

        if time.monotonic() - self._read < REFRESH:
            return self._slots
        wanted = {"CPU": self._settings.num_cpus, "GPU": self._settings.num_gpus, **self._settings.resources}
        wanted = {name: amount for name, amount in wanted.items() if amount > 0}
        nodes = [
            node["Resources"]
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        ]
        self._slots = sum(
            min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items()) for node in nodes
        )
        self._read = time.monotonic()
        return self._slots

    def run(self, blueprints: Sequence[Blueprint]) -> Iterator[Outcome]:
        """Yield the outcomes as they finish."""
        import ray

        pending = deque(blueprints)
        self._losses.clear()
        while pending or self._flights:
            self._submit(pending)
            ready, _ = ray.wait(list(self._flights), num_returns=1, timeout=1.0)
            if len(self._flights) > 1 and ready:
                more, _ = ray.wait(list(self._flights), num_returns=len(self._flights), timeout=0)
                ready = more or ready
            for reference in ready:
                yield from self._land(reference, pending)
            self._cancel_overdue()

    def _submit(self, pending: deque[Blueprint]) -> None:
        slots = max(1, self._capacity())
        window = math.ceil(1.25 * slots)
        while pending and len(self._flights) < window:
            chunk = [pending.popleft() for _ in range(min(len(pending), self._chunk(len(pending), slots)))]
            # A candidate that has already taken a worker down travels alone.
            if len(chunk) > 1 and any(blueprint.key in self._losses for blueprint in chunk):
                pending.extendleft(reversed(chunk[1:]))
                chunk = chunk[:1]
            self._flights[self._task.remote([self._reference], chunk)] = _Flight(chunk, time.monotonic())

    def _chunk(self, pending: int, slots: int) -> int:
        if self._mean_seconds is None:
            return 1
        wanted = math.ceil(CHUNK_SECONDS / max(self._mean_seconds, 1e-4))
        return max(1, min(wanted, pending // (4 * slots)))

    def _land(self, reference: Any, pending: deque[Blueprint]) -> Iterator[Outcome]:
        import ray.exceptions

        flight = self._flights.pop(reference)
        try:
            outcomes: list[Outcome] = ray.get(reference)
        except (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError) as error:
            yield from self._retry(flight, pending, "node", NODE_LOSSES, error)
        except ray.exceptions.OutOfMemoryError as error:
            yield from self._retry(flight, pending, "memory", self._settings.retries, error)
        except ray.exceptions.WorkerCrashedError as error:
            if self._job.timeout is not None and time.monotonic() - flight.submitted > self._job.timeout + GRACE / 2:
                yield from self._timed_out(flight, pending)
            else:
                yield from self._retry(flight, pending, "crash", self._settings.retries, error)
        except ray.exceptions.TaskCancelledError:
            yield from self._timed_out(flight, pending)
        except ray.exceptions.RayTaskError as error:
            raise EvaluatorError(
                f"Ray workers cannot run evaluations: {' '.join(str(error.cause).split())}; "
                "the packages and modules of the search must be importable on every node"
            ) from error
        else:
            for outcome in outcomes:
                weight = 0.2 if self._mean_seconds is not None else 1.0
                self._mean_seconds = (1 - weight) * (self._mean_seconds or 0.0) + weight * outcome.seconds
                yield outcome

    def _retry(
        self, flight: _Flight, pending: deque[Blueprint], cause: str, limit: int, error: Exception
    ) -> Iterator[Outcome]:
        """Queue a lost task's candidates again, or give up on one that keeps failing."""
        alone = len(flight.blueprints) == 1
        for blueprint in reversed(flight.blueprints):
            losses = self._losses.setdefault(blueprint.key, {})
            if alone:  # in a chunk, nobody knows whose fault it was
                losses[cause] = losses.get(cause, 0) + 1
            if losses.get(cause, 0) <= limit:
                pending.appendleft(blueprint)
                continue
            what = {"node": "its node was lost", "memory": "it ran out of memory", "crash": "its worker process died"}
            first_line = str(error).strip().splitlines()[0]
            reason = f"{what[cause]} on each of {limit + 1} tries ({type(error).__name__}: {first_line})"
            yield Outcome(blueprint.key, "failed", {}, reason, time.monotonic() - flight.submitted, "ray")

    def _timed_out(self, flight: _Flight, pending: deque[Blueprint]) -> Iterator[Outcome]:
        if len(flight.blueprints) > 1:
            for blueprint in reversed(flight.blueprints):
                self._losses.setdefault(blueprint.key, {})
                pending.appendleft(blueprint)
            return
        seconds = time.monotonic() - flight.submitted
        yield Outcome(flight.blueprints[0].key, "timeout", {}, timeout_reason(self._job.timeout), seconds, "ray")

    def _cancel_overdue(self) -> None:
        """Kill the workers of tasks that outlived both of their own alarms.

        Forced from the start: after a soft cancel Ray ignores the forced one.
        """
        import ray

        if self._job.timeout is None:
            return
        for reference, flight in self._flights.items():
            # Waiting for a slot counts here too, so a task gets twice the time of all that can be before it.
            allowed = 2 * len(flight.blueprints) * (self._job.timeout + 2 * GRACE) + 30
            if time.monotonic() - flight.submitted > allowed:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Cancel what is running; shut Ray down if this search started it."""
        import ray

        if not ray.is_initialized():
            return
        if self._shut_down:
            ray.shutdown()
            return
        for reference in self._flights:
            ray.cancel(reference, force=True)
        self._flights.clear()
        del self._reference
