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
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlparse

from pydantic import Field

from evo.blueprint import Blueprint
from evo.errors import EvaluatorError
from evo.evaluation.base import Evaluator, Job, Outcome, Session, evaluate, every_time, timeout_reason
from evo.importing import own_path

if TYPE_CHECKING:
    import ray

GRACE = 2.0  # seconds between one layer of the timeout and the next
NODE_LOSSES = 20  # further tries after losing the node, which is never the candidate's fault
REFRESH = 3.0  # seconds between looks at what the cluster has to offer
PATIENCE = 5.0  # seconds that a cluster may take to answer at all
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
    resources: Annotated[dict[str, float], Field(description="custom Ray resources that one evaluation takes")] = Field(
        default_factory=dict
    )

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
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", "auto")
        try:
            if address is None:
                # Never by accident the cluster that somebody else left running on this machine.
                processors = max(1, len(os.sched_getaffinity(0)))
                ray.init(address="local", num_cpus=processors, include_dashboard=False, **_QUIET)
            else:
                _probe(address)
                ray.init(address=address, **_QUIET)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise EvaluatorError(
                f"RayEvaluator.address: cannot reach a Ray cluster at {address or 'this machine'} ({reason}); "
                "start one with `ray start --head`, or leave the address out"
            ) from error
        # Ray prints a paragraph for every worker that dies, and has no public switch for it; the history says it as well.
        sys.modules["ray._private.worker"].__dict__["_worker_logs_enabled"] = False
        return True


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def _probe(address: str) -> None:
    """Raise ConnectionError in seconds if no Ray answers at host:port: Ray itself would wait for minutes."""
    parsed = urlparse(address if "//" in address else f"//{address}")
    try:
        host, port = parsed.hostname, parsed.port
    except ValueError as error:
        raise ConnectionError(f"not an address: {error}") from None
    if not host or not port:
        return
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            connection.sendall(_HELLO)
            while len(answer) < 4 and (received := connection.recv(64)):
                answer += received
    except OSError as error:
        raise ConnectionError(f"{host}:{port} does not answer: {error}") from None
    # An HTTP/2 server opens with a settings frame, type 4. With TLS it says nothing before it is greeted properly.
    if answer[3:4] != b"\x04" and os.environ.get("RAY_USE_TLS", "0") == "0":
        raise ConnectionError(
            f"what answers at {host}:{port} is not the port of a Ray cluster, which is 6379 by default"
        )


_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # how a client of Ray (gRPC) begins


_jobs: dict[str, Job] = {}  # in a worker: the job it works for, by the hexadecimal name of its object

STARTED = "started"


def _evaluate_chunk(reference: "list[ray.ObjectRef[Job]]", blueprints: list[Blueprint]) -> Iterator[Outcome | str]:
    """Run in a worker: report the start, then evaluate some candidates, one after the other."""
    import ray

    name = reference[0].hex()
    if name not in _jobs:
        _jobs.clear()
        _jobs[name] = ray.get(reference[0])
    job = _jobs[name]
    yield STARTED
    for blueprint in blueprints:
        if job.timeout is not None:
            # Reaches code that holds the interpreter's lock, where no Python signal handler ever runs.
            faulthandler.dump_traceback_later(job.timeout + GRACE, exit=True)
        try:
            outcome = evaluate(job, blueprint)
        finally:
            faulthandler.cancel_dump_traceback_later()
        yield outcome


@dataclass
class _Flight:
    """A task under way.

    Attributes:
        blueprints: those without an outcome yet; the first is being evaluated.
        heard: when the task last reported; None while it waits for a slot or its worker starts.
    """

    blueprints: deque[Blueprint]
    heard: float | None = None


class RaySession(Session):
    """Keeps a window of tasks a little larger than the cluster's slots.

    A task streams its outcomes: what it has delivered is safe when its worker dies, the one at fault is known, and the clock
    of an evaluation starts with the evaluation, however long the task had to wait for a slot.
    """

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
        self._reference: Any = ray.put(job)
        self._task = ray.remote(_evaluate_chunk).options(
            num_returns="streaming",
            max_retries=0,
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            resources=settings.resources or None,
            # Modules of the user's own are found where this process found them, if the node has them there.
            runtime_env={
                "env_vars": {
                    "OMP_NUM_THREADS": str(job.threads),
                    "PYTHONPATH": os.pathsep.join([*own_path(), "${PYTHONPATH}"]),
                }
            },
        )
        self._flights: dict[Any, _Flight] = {}
        self._mean_seconds: float | None = None
        self._losses: Counter[tuple[str, str]] = Counter()

    def _capacity(self) -> int:
        """Return how many evaluations fit the cluster's nodes at once, looked up every few seconds."""
        import ray

        if time.monotonic() - self._read < REFRESH:
            return self._slots
        wanted = {"CPU": self._settings.num_cpus, "GPU": self._settings.num_gpus, **self._settings.resources}
        wanted = {name: amount for name, amount in wanted.items() if amount > 0}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
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
        try:
            while pending or self._flights:
                self._submit(pending)
                streams = list(self._flights)
                if ray.wait(streams, num_returns=1, timeout=1.0)[0]:
                    for stream in ray.wait(streams, num_returns=len(streams), timeout=0)[0]:
                        yield from self._receive(stream, pending)
                self._cancel_overdue()
        finally:
            self._cancel(list(self._flights))  # of a caller that stopped listening

    def _submit(self, pending: deque[Blueprint]) -> None:
        slots = max(1, self._capacity())
        window = math.ceil(1.25 * slots)
        while pending and len(self._flights) < window:
            chunk = [pending.popleft() for _ in range(self._chunk(len(pending), slots))]
            self._flights[self._task.remote([self._reference], chunk)] = _Flight(deque(chunk))

    def _chunk(self, pending: int, slots: int) -> int:
        if self._mean_seconds is None:
            return 1
        wanted = math.ceil(CHUNK_SECONDS / max(self._mean_seconds, 1e-4))
        return max(1, min(wanted, pending // (4 * slots)))

    def _receive(self, stream: Any, pending: deque[Blueprint]) -> Iterator[Outcome]:
        """Take the next report of a task; queue again what a lost one has not delivered."""
        import ray.exceptions

        flight = self._flights[stream]
        try:
            report = ray.get(next(stream))
        except StopIteration:
            del self._flights[stream]
            return
        except ray.exceptions.RayError as error:
            del self._flights[stream]
            outcome = self._judge(flight, error)
            pending.extendleft(reversed(flight.blueprints))
            if outcome is not None:
                yield outcome
            return
        flight.heard = time.monotonic()
        if isinstance(report, Outcome):
            flight.blueprints.popleft()
            weight = 0.2 if self._mean_seconds is not None else 1.0
            self._mean_seconds = (1 - weight) * (self._mean_seconds or 0.0) + weight * report.seconds
            yield report

    def _judge(self, flight: _Flight, error: Exception) -> Outcome | None:
        """Find out why a task was lost; return the outcome of its candidate if that is not to be tried again.

        Raises:
            EvaluatorError: no candidate can be evaluated.
        """
        from ray import exceptions

        # Some errors have two kinds, that of the cause included: a job lost on its way to the worker is a lost object.
        if isinstance(error, exceptions.NodeDiedError | exceptions.ObjectLostError | exceptions.LocalRayletDiedError):
            return self._give_up(flight, "its node was lost", NODE_LOSSES)
        if isinstance(error, exceptions.OutOfMemoryError):
            return self._give_up(flight, "it ran out of memory", self._settings.retries)
        if isinstance(error, exceptions.WorkerCrashedError | exceptions.TaskCancelledError):
            if flight.heard is None:
                return self._give_up(flight, "its worker process died while starting", NODE_LOSSES)
            silence = time.monotonic() - flight.heard
            if self._job.timeout is not None and silence > self._job.timeout + GRACE / 2:
                key = flight.blueprints.popleft().key
                return Outcome(key, "timeout", {}, timeout_reason(self._job.timeout), silence, "ray")
            return self._give_up(flight, "its worker process died", self._settings.retries)
        cause = getattr(error, "cause", error)
        raise EvaluatorError(
            f"Ray workers cannot run evaluations ({type(cause).__name__}: {' '.join(str(cause).split())}); "
            "the packages and modules of the search must be importable on every node"
        ) from error

    def _give_up(self, flight: _Flight, what: str, limit: int) -> Outcome | None:
        """Count a loss against the candidate that was being evaluated; return its outcome when it is one too many."""
        key = flight.blueprints[0].key
        self._losses[key, what] += 1
        if self._losses[key, what] <= limit:
            return None
        flight.blueprints.popleft()
        seconds = 0.0 if flight.heard is None else time.monotonic() - flight.heard
        return Outcome(key, "failed", {}, what + every_time(limit), seconds, "ray")

    def _cancel_overdue(self) -> None:
        """Kill the workers of evaluations that outlived both of their own alarms."""
        import ray

        if self._job.timeout is None:
            return
        latest = time.monotonic() - self._job.timeout - 2 * GRACE
        silent = [stream for stream, flight in self._flights.items() if flight.heard and flight.heard < latest]
        for stream in silent:
            if not ray.wait([stream], timeout=0)[0]:
                # Forced from the start: after a soft cancel Ray ignores the forced one.
                ray.cancel(stream, force=True)

    def _cancel(self, streams: list[Any]) -> None:
        import ray

        for stream in streams:
            del self._flights[stream]
            if ray.is_initialized():
                ray.cancel(stream, force=True)

    def close(self) -> None:
        """Cancel what is running; shut Ray down if this search started it."""
        import ray

        self._cancel(list(self._flights))
        self._reference = None
        if self._shut_down and ray.is_initialized():
            ray.shutdown()
        self._shut_down = False
