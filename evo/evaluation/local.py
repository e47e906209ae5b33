"""Evaluation on this machine: in this process, or in worker processes that may hang or die without harm."""

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from typing import IO, Annotated, Any

import cloudpickle
from pydantic import Field

from evo.blueprint import Blueprint
from evo.errors import EvaluatorError
from evo.evaluation.base import Evaluator, Job, Outcome, Session, evaluate, every_time, timeout_reason

GRACE = 2.0  # seconds between a worker's own alarm and its being killed
READY = "ready"  # what a worker says once it has the job; anything else it says is why it cannot have it

Span = tuple[int, int]


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
        workers = self.workers if self.workers is not None else len(os.sched_getaffinity(0))
        return ProcessSession(job, workers, self.retries) if workers else InProcessSession(job)


class InProcessSession(Session):
    """Evaluates one candidate after the other in the calling process."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def run(self, blueprints: Sequence[Blueprint]) -> Iterator[Outcome]:
        """Yield the outcomes in order."""
        for blueprint in blueprints:
            yield evaluate(self._job, blueprint)

    def close(self) -> None:
        """Nothing to release."""


def pack(content: Any) -> tuple[IO[bytes], list[Span]]:
    """Write `content` to a nameless file and return it with what `unpack` needs.

    Arrays are written apart from the rest, for all workers to share. What a user's script defines travels by value.
    """
    arrays: list[pickle.PickleBuffer] = []
    body = cloudpickle.dumps(content, protocol=5, buffer_callback=arrays.append)
    file = tempfile.TemporaryFile(prefix="evo-")  # noqa: SIM115, closed with the session
    spans = []
    for part in (body, *(array.raw() for array in arrays)):
        file.write(bytes(-file.tell() % 64))  # arrays want to be aligned
        start = file.tell()
        file.write(part)
        spans.append((start, file.tell()))
    file.flush()
    return file, spans


def unpack(file: int, spans: Sequence[Span]) -> Any:
    """Return what `pack` wrote to the file with this descriptor; its arrays are read-only views of the file."""
    mapped = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
    body, *arrays = (mapped[start:stop] for start, stop in spans)
    return pickle.loads(body, buffers=arrays)


class _Worker:
    """One process, connected by a pipe; evaluates one blueprint at a time."""

    def __init__(self, job: IO[bytes], spans: list[Span], threads: int) -> None:
        self.connection, theirs = Pipe()
        files = [theirs.fileno(), job.fileno()]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "evo.evaluation.process", *map(str, (os.getpid(), *files))],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            # Out of the terminal's process group: Ctrl-C reaches the search, which then stops its workers.
            start_new_session=True,
            # -P and PYTHONPATH: workers import what this process would, not what happens to lie in the current folder.
            env={
                # Memory that a candidate gives back stays with the worker for the next, which spares the system clearing
                # pages: 3 to 8 % of the time of a small network (LeNet).
                "MALLOC_MMAP_MAX_": "0",
                "MALLOC_TRIM_THRESHOLD_": str(2**40),
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            },
        )
        theirs.close()
        self.blueprint: Blueprint | None = None
        self.started = 0.0
        self.ready = False
        self._send(spans)

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # it died; listening to it will show that
            self.connection.send(message)

    def assign(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self.started = time.monotonic()
        self._send(blueprint)

    def listen(self) -> Outcome | None:
        """Return an outcome if one has arrived.

        Raises:
            EOFError: the process is dead.
            EvaluatorError: it cannot load the job.
        """
        dead = not self.alive()
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, Outcome):
                    return message
                if message != READY:
                    raise EvaluatorError(f"worker processes cannot load what they are to evaluate ({message})")
                # Starting up (imports, loading the job) does not count against the evaluation's time.
                self.ready, self.started = True, time.monotonic()
        except OSError:
            raise EOFError from None
        if dead:
            raise EOFError
        return None

    def alive(self) -> bool:
        return self.process.poll() is None

    def late(self, timeout: float | None) -> bool:
        return timeout is not None and self.ready and time.monotonic() - self.started > timeout + GRACE

    def kill(self) -> int:
        """Kill the process, and those that a fitness started in it, and return its exit status."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        return self.process.wait()


class ProcessSession(Session):
    """A pool of worker processes.

    Python's own pools lose every pending call when one worker dies, cannot stop a hanging one, and start workers by running
    the user's script again; this one does none of that.
    """

    def __init__(self, job: Job, workers: int, retries: int) -> None:
        self._timeout = job.timeout
        self._threads = job.threads
        self._count = workers
        self._retries = retries
        self._job, self._spans = pack(job)
        self._workers: list[_Worker] = []
        self._stillborn = 0

    def run(self, blueprints: Sequence[Blueprint]) -> Iterator[Outcome]:
        """Yield the outcomes as they finish."""
        pending = deque(blueprints)
        tries: dict[str, int] = {}
        try:
            while pending or self._busy():
                self._assign(pending)
                for worker in self._wait():
                    outcome = self._attend(worker, pending, tries)
                    if outcome is not None:
                        self._assign(pending)  # first: the caller takes its time with the outcome
                        yield outcome
        finally:
            for worker in self._busy():  # of a caller that stopped listening
                self._remove(worker)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.blueprint]

    def _assign(self, pending: deque[Blueprint]) -> None:
        """Give every idle worker something to do, and start more if there is more to do."""
        idle = [worker for worker in self._workers if worker.blueprint is None]
        while pending:
            if idle:
                worker = idle.pop()
                if not worker.alive():
                    self._remove(worker)
                    continue
            elif len(self._workers) < self._count:
                worker = _Worker(self._job, self._spans, self._threads)
                self._workers.append(worker)
            else:
                return
            worker.assign(pending.popleft())

    def _wait(self) -> list[_Worker]:
        """Return the workers that have something to say, died or are late; wait until there is one."""
        busy = self._busy()
        while True:
            # A process that a fitness left behind may hold the pipe of a dead worker open: look at the workers themselves.
            speaking = wait([worker.connection for worker in busy], timeout=0.5)
            found = [
                worker
                for worker in busy
                if worker.connection in speaking or not worker.alive() or worker.late(self._timeout)
            ]
            if found:
                return found

    def _attend(self, worker: _Worker, pending: deque[Blueprint], tries: dict[str, int]) -> Outcome | None:
        """Take a worker's outcome, or make one if it is late or has died once too often; else queue its candidate again."""
        blueprint = worker.blueprint
        if blueprint is None:
            return None
        try:
            outcome = worker.listen()
        except EOFError:
            late = False
        else:
            if outcome is not None:
                worker.blueprint = None
                self._stillborn = 0
                return outcome
            late = worker.late(self._timeout)
            if not late:
                return None
        status = self._remove(worker)
        seconds = time.monotonic() - worker.started
        name = f"process {worker.process.pid}"
        if late:
            return Outcome(blueprint.key, "timeout", {}, timeout_reason(self._timeout), seconds, name)
        if not worker.ready:
            self._note_stillborn(status)
        else:
            tries[blueprint.key] = tries.get(blueprint.key, 0) + 1
        if tries.get(blueprint.key, 0) > self._retries:
            reason = f"its worker process died ({_exit_reason(status)}){every_time(self._retries)}"
            return Outcome(blueprint.key, "failed", {}, reason, seconds, name)
        pending.appendleft(blueprint)
        return None

    def _note_stillborn(self, status: int) -> None:
        self._stillborn += 1
        if self._stillborn > 2 * self._count:
            raise EvaluatorError(
                f"worker processes die before they are ready ({_exit_reason(status)}); their messages are above"
            )

    def _remove(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        return worker.kill()

    def close(self) -> None:
        """Kill the workers."""
        for worker in list(self._workers):
            self._remove(worker)
        self._job.close()


def _exit_reason(status: int) -> str:
    if status == -signal.SIGSEGV:
        return "signal SIGSEGV; writing into the task's data or weights does that, copy them first"
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
