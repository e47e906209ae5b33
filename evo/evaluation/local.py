"""Evaluation on this machine: in this process, or in worker processes that may hang or die without harm."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Annotated, Any

import cloudpickle
from pydantic import Field

from evo.blueprint import Blueprint
from evo.errors import EvaluatorError
from evo.evaluation.base import Evaluator, Job, Outcome, Session, evaluate, timeout_reason

GRACE = 2.0  # seconds between a worker's own alarm and its being killed


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


class _ByValue:
    """Pickles its content with cloudpickle: what a user's script defines travels along."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return cloudpickle.loads, (cloudpickle.dumps(self.content),)


class _Worker:
    """One process, connected by a pipe; evaluates one blueprint at a time."""

    def __init__(self, job_message: bytes, threads: int) -> None:
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "evo.evaluation.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            # Out of the terminal's process group: Ctrl-C reaches the search, which then stops its workers.
            start_new_session=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
        )
        theirs.close()
        self.blueprint: Blueprint | None = None
        self.started = 0.0
        self.ready = False
        try:
            self.connection.send_bytes(job_message)
        except OSError:
            pass  # it died; reading from it will say so

    def assign(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self.started = time.monotonic()
        try:
            self.connection.send(blueprint)
        except OSError:
            pass  # likewise

    def kill(self) -> int:
        """Kill the process and return its exit status."""
        self.process.kill()
        self.connection.close()
        return self.process.wait()


class ProcessSession(Session):
    """A pool of worker processes.

    Python's own pools lose every pending call when one worker dies, cannot stop a hanging one, and start workers by running
    the user's script again; this one does none of that.
    """

    def __init__(self, job: Job, workers: int, retries: int) -> None:
        self._job = job
        self._count = workers
        self._retries = retries
        # The job is packed once for all workers, also for those that replace dead ones.
        self._message = bytes(pickle.dumps(_ByValue(job)))
        self._workers: list[_Worker] = []
        self._stillborn = 0

    def run(self, blueprints: Sequence[Blueprint]) -> Iterator[Outcome]:
        """Yield the outcomes as they finish."""
        pending = deque(blueprints)
        tries: dict[str, int] = {}
        while pending or any(worker.blueprint for worker in self._workers):
            self._assign(pending)
            for worker in self._wait():
                outcome = self._receive(worker)
                blueprint = worker.blueprint
                if outcome is not None:
                    worker.blueprint = None
                    yield outcome
                    continue
                if worker.process.poll() is None and not self._overdue(worker):
                    continue  # it only said that it is ready
                self._workers.remove(worker)
                late = self._overdue(worker)
                status = worker.kill()
                if blueprint is None:
                    continue
                seconds = time.monotonic() - worker.started
                name = f"process {worker.process.pid}"
                if late:
                    yield Outcome(blueprint.key, "timeout", {}, timeout_reason(self._job.timeout), seconds, name)
                elif not worker.ready:
                    pending.appendleft(blueprint)  # the worker never got to it
                elif tries.setdefault(blueprint.key, 0) < self._retries:
                    tries[blueprint.key] += 1
                    pending.appendleft(blueprint)
                else:
                    reason = f"the worker process died ({_exit_reason(status)}) on each of {self._retries + 1} tries"
                    yield Outcome(blueprint.key, "failed", {}, reason, seconds, name)

    def _assign(self, pending: deque[Blueprint]) -> None:
        idle = [worker for worker in self._workers if worker.blueprint is None]
        while pending:
            if idle:
                worker = idle.pop()
            elif len(self._workers) < self._count:
                worker = _Worker(self._message, self._job.threads)
                self._workers.append(worker)
            else:
                return
            worker.assign(pending.popleft())

    def _overdue(self, worker: _Worker) -> bool:
        timeout = self._job.timeout
        return (
            timeout is not None
            and worker.ready
            and worker.blueprint is not None
            and time.monotonic() - worker.started > timeout + GRACE
        )

    def _wait(self) -> list[_Worker]:
        """Return the workers that have something to say, died, or are overdue; wait until there is one."""
        busy = {worker.connection: worker for worker in self._workers if worker.blueprint is not None}
        while True:
            patience = None if self._job.timeout is None else 0.2
            speaking = [
                busy[connection] for connection in wait(list(busy), patience) if isinstance(connection, Connection)
            ]
            found = speaking or [worker for worker in busy.values() if self._overdue(worker)]
            if found:
                return found

    def _receive(self, worker: _Worker) -> Outcome | None:
        """Return the worker's outcome; None if it died, is overdue or only reports that it is ready."""
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                if isinstance(message, Outcome):
                    return message
                # Starting up (imports, unpacking the job) does not count against the evaluation's time.
                worker.ready, worker.started, self._stillborn = True, time.monotonic(), 0
        except (EOFError, OSError):
            worker.process.wait()
            if not worker.ready:
                self._stillborn += 1
                if self._stillborn > 2 * self._count:
                    raise EvaluatorError(
                        f"worker processes die before they are ready ({_exit_reason(worker.process.returncode)}); "
                        "their messages are above"
                    ) from None
        return None

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()


def _exit_reason(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
