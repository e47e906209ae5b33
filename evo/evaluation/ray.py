"""Evaluation on a Ray cluster: the settings, and the way to it."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlparse

from pydantic import Field, field_validator

from evo.errors import EvaluatorError
from evo.evaluation.base import GIB, Evaluator, Item, Job, Result, Session, Shared
from evo.evaluation.calls import Calls

PATIENCE = 5.0  # seconds that a cluster may take to answer at all


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

    @field_validator("num_gpus")
    @classmethod
    def _whole_gpus(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("an evaluation takes a share of one GPU, or whole ones")
        return value

    @field_validator("num_cpus", "num_gpus")
    @classmethod
    def _countable(cls, value: float) -> float:
        if round(value, 4) != value:
            raise ValueError("Ray counts in steps of 0.0001")
        return value

    @field_validator("resources")
    @classmethod
    def _custom_resources(cls, value: dict[str, float]) -> dict[str, float]:
        if {"CPU", "GPU", "memory", "object_store_memory"} & value.keys():
            raise ValueError("these are custom resources; for others there are num_cpus, num_gpus and memory")
        if any(amount < 0 for amount in value.values()):
            raise ValueError("an amount cannot be negative")
        return value

    def open(self, job: Job) -> Session:
        """Connect to the cluster, or start one, and put the job into its object store."""
        import ray

        from evo.evaluation.ray_session import RaySession

        started = self._ready()
        try:
            return RaySession(job, self._request(), self.retries, shut_down=started)
        except BaseException:
            if started:
                ray.shutdown()
            raise

    def map(self, function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], /) -> list[Result]:
        """Connect to the cluster, or start one for this, and call the function by its tasks."""
        import ray

        from evo.evaluation.ray_map import map_by_tasks

        started = self._ready()
        try:
            return map_by_tasks(Calls(function, shared, items, self.threads), self._request(), self.retries)
        finally:
            if started and ray.is_initialized():
                with own_signals():
                    ray.shutdown()

    def _ready(self) -> bool:
        """See to it that this process has a Ray; return whether it is to be shut down afterwards."""
        import ray

        if ray.is_initialized():
            return False
        self._connect()
        return True

    def _request(self) -> dict[str, float]:
        """Return what one evaluation takes of a node, by Ray's names."""
        memory = int((self.memory or 0) * GIB)
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": memory, **self.resources}
        return {name: amount for name, amount in wanted.items() if amount}

    def _connect(self) -> None:
        """Initialise Ray in this process."""
        import ray

        address = self.address or os.environ.get("RAY_ADDRESS")
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", "auto")
        try:
            with own_signals():
                if address is None:
                    # Never by accident the cluster that somebody else left running on this machine.
                    processors = max(1, len(os.sched_getaffinity(0)))
                    with own_ray():
                        ray.init(address="local", num_cpus=processors, include_dashboard=False, **_QUIET)
                else:
                    _probe(address)
                    ray.init(address=address, **_QUIET)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise EvaluatorError(
                f"RayEvaluator.address: cannot reach a Ray cluster at {address or 'this machine'} ({reason}); "
                "start one with `ray start --head`, or leave the address out; one that wants a token needs "
                "RAY_AUTH_MODE=token, and the same token, here as well"
            ) from error
        # Ray prints a paragraph for every worker that dies, and has no public switch for it; the history says it as well.
        sys.modules["ray._private.worker"].__dict__["_worker_logs_enabled"] = False


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


_OWN = {
    # Counting what only a dashboard would show is about a tenth of what Ray takes of a processor.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    # Ray's default is 15: beside any other busy process, workers would get a thirtieth of a processor.
    "RAY_worker_niceness": "0",
}


@contextmanager
def own_ray() -> Iterator[None]:
    """Let a Ray that starts here be one for a search, in what the environment leaves open."""
    added = [name for name in _OWN if name not in os.environ]
    os.environ.update({name: _OWN[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep this program's way to end on SIGTERM, in whose place Ray puts one of its own, and in the end the system's.

    Meanwhile it is Ray's or the system's: a SIGTERM while Ray shuts down, as a second one may be, ends the program at once.
    """
    own = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if own is not signal.SIG_DFL and own is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)


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
