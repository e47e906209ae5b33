"""What a worker process of LocalEvaluator runs: `python -m evo.evaluation.process FILE_DESCRIPTOR`."""

import os
import sys
import threading
import time
from multiprocessing.connection import Connection

from evo.blueprint import Blueprint
from evo.evaluation.base import Job, evaluate


def _die_with_parent() -> None:
    """Leave when the search is gone, even in the middle of an evaluation that never ends."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve(connection: Connection) -> None:
    """Receive the job, say so, then evaluate blueprints until the other end closes."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        job: Job = connection.recv()
        connection.send("ready")
        while True:
            blueprint: Blueprint = connection.recv()
            connection.send(evaluate(job, blueprint))
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
