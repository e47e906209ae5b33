"""A worker process as the search sees it."""

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe
from typing import IO, Any

from evo.errors import EvaluatorError
from evo.evaluation.log import LENGTH, Log
from evo.evaluation.shared import Span

GRACE = 2.0  # seconds between a worker's own alarm and its being killed
READY = "ready"  # what a worker says once it has the job


class Worker:
    """One process of its own, connected by a pipe; calls the job with what it is assigned, one item after the other.

    Items are the work of a `Job`, or those of `Calls`.

    Attributes:
        process: it.
        queue: what it has been assigned and not delivered; it works on the first.
        ready: it has loaded the job.
        started: when it began with the first of the queue, as `time.monotonic` has it.
    """

    def __init__(self, job: IO[bytes], spans: list[Span], threads: int) -> None:
        """Start it.

        Args:
            job: a file that `pack` wrote.
            spans: what it returned with that.
            threads: of its libraries.

        Raises:
            EvaluatorError: the system has no more processes, files or memory.
        """
        try:
            self._start(job, threads)
        except OSError as error:
            raise EvaluatorError(f"LocalEvaluator.workers: cannot start another worker process ({error})") from None
        self.queue: deque[Any] = deque()
        self.started = 0.0
        self.ready = False
        self._send(spans)

    def _start(self, job: IO[bytes], threads: int) -> None:
        self.connection, theirs = Pipe()
        files = [theirs.fileno(), job.fileno()]
        # What it prints would tear a live display; its last words are worth reading if it dies.
        self._words = tempfile.TemporaryFile(prefix="evo-")  # noqa: SIM115, closed with the worker
        fcntl.fcntl(self._words, fcntl.F_SETFL, fcntl.fcntl(self._words, fcntl.F_GETFL) | os.O_APPEND)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "evo.evaluation.process", *map(str, (os.getpid(), *files))],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=self._words,
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

    def _send(self, message: Any) -> int:
        content = pickle.dumps(message, protocol=5)
        with suppress(OSError):  # it died; listening to it will show that
            self.connection.send_bytes(content)
        return len(content)

    def assign(self, items: Sequence[Any]) -> int:
        """Append to its queue; return how many bytes that put into the pipe."""
        if not self.queue:
            self.started = time.monotonic()
        self.queue.extend(items)
        return self._send(list(items))

    def trim(self) -> None:
        """Let it give memory back that it keeps for what comes next."""
        self._send([])

    def listen(self) -> tuple[Any, Any] | None:
        """Wait for its next message; return the first of the queue and what it came to, or None if it says that it is ready.

        Raises:
            EOFError: the process is dead and has said everything.
            EvaluatorError: it cannot load the job.
        """
        try:
            message = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)  # its exit status tells more than that of being killed
            raise EOFError from None
        # Starting up (imports, loading the job) does not count against the evaluation's time.
        self.started = time.monotonic()
        if self.ready:
            return self.queue.popleft(), message
        if message != READY:
            raise EvaluatorError(f"worker processes cannot load what they are to evaluate ({message})")
        self.ready = True
        return None

    def speaks(self) -> bool:
        """Tell whether `listen` would return, or raise, at once."""
        try:
            return self.connection.poll()
        except OSError:
            return False

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        return self.process.poll() is None

    def late(self, timeout: float | None) -> bool:
        """Tell whether its own alarm should have stopped the evaluation long ago."""
        working = bool(self.queue) and self.ready and timeout is not None
        return working and time.monotonic() - self.started > (timeout or 0.0) + GRACE

    def kill(self) -> None:
        """Kill the process, and those that a fitness started in it."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()

    def bury(self) -> tuple[int, str]:
        """Wait for the end of the killed process; return its exit status and what its last evaluation had printed."""
        status = self.process.wait()
        log = Log()
        with self._words:
            size = os.fstat(self._words.fileno()).st_size
            words = os.pread(self._words.fileno(), 4 * LENGTH, max(0, size - 4 * LENGTH)).decode(errors="replace")
        # The list of all compiled modules, with which Python ends its report of a fatal error, would displace the report.
        log.add(words.partition("\nExtension modules:")[0])
        return status, log.text()


def farewell(status: int, words: str) -> str:
    """Return how a process ended and, unless a signal ended it, the last line that it printed: most likely an error."""
    last = words.strip().rpartition("\n")[2] if status >= 0 else ""
    return f"{exit_reason(status)}{last and f'; the last words: {last}'}"


def exit_reason(status: int) -> str:
    """Return how a process ended, given its exit status."""
    if status == -signal.SIGSEGV:
        return "signal SIGSEGV; writing into the task's data or weights does that, copy them first"
    if status >= 0:
        return f"exit status {status}"
    named = {number.value: number.name for number in signal.Signals}
    return f"signal {named.get(-status, -status)}"
