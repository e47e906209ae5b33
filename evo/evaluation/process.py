"""What a worker process of LocalEvaluator runs: `python -m evo.evaluation.process PARENT PIPE JOB`."""

import ctypes
import faulthandler
import io
import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from evo.evaluation.base import Job
from evo.evaluation.calls import Calls
from evo.evaluation.memory import be_killed_first, give_back
from evo.evaluation.shared import unpack
from evo.evaluation.worker import READY

PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    """Leave when the search is gone, even in the middle of an evaluation that never ends."""
    if sys.platform == "linux":
        # Also ends code that holds the interpreter's lock, under which no thread of ours would run.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve(connection: Connection, file: int, words: int) -> None:
    """Load the job, say so, then call it with items until the other end closes.

    Args:
        connection: to the search.
        file: descriptor of the packed job.
        words: descriptor of the file that this process prints to; it holds one evaluation at a time.
    """
    try:
        try:
            job: Job | Calls = unpack(file, pickle.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            raise
        except (Exception, SystemExit) as error:  # a module of the user's that is not there, most likely
            _send(connection, f"{type(error).__name__}: {error}")
            return
        _send(connection, READY)
        while True:
            items: list[Any] = pickle.loads(connection.recv_bytes())
            for item in items:
                if os.fstat(words).st_size:
                    os.ftruncate(words, 0)
                _send(connection, job(item))
            if not items:
                give_back()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _send(connection: Connection, message: object) -> None:
    connection.send_bytes(pickle.dumps(message, protocol=5))


if __name__ == "__main__":
    _die_with(int(sys.argv[1]))
    be_killed_first()
    faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in step with standard error, and on disk should it die
    serve(Connection(int(sys.argv[2])), int(sys.argv[3]), os.dup(sys.stderr.fileno()))
