"""What a worker process of LocalEvaluator runs: `python -m evo.evaluation.process PARENT PIPE JOB`."""

import ctypes
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from evo.blueprint import Blueprint
from evo.evaluation.base import Job, evaluate
from evo.evaluation.local import READY, unpack

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


def serve(connection: Connection, file: int) -> None:
    """Load the job, say so, then evaluate blueprints until the other end closes."""
    try:
        try:
            job: Job = unpack(file, connection.recv())
        except (EOFError, OSError):
            raise
        except Exception as error:  # a module of the user's that is not there, most likely
            connection.send(f"{type(error).__name__}: {error}")
            return
        connection.send(READY)
        while True:
            blueprint: Blueprint = connection.recv()
            connection.send(evaluate(job, blueprint))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    _die_with(int(sys.argv[1]))
    serve(Connection(int(sys.argv[2])), int(sys.argv[3]))
