"""What a worker process of a Ray cluster runs, and how it keeps a job."""

import ctypes
import faulthandler
import os
import pickle
import socket
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import ray

from evo.evaluation.base import Job, Outcome, Work, evaluate, unsendable
from evo.evaluation.calls import Answer, Calls

GRACE = 2.0  # seconds between one layer of the timeout and the next
STARTED = "started"  # what a task says that is about to evaluate
PAGE = 2**16  # bytes of a page of memory, on any machine or more
PROT_READ, PROT_WRITE = 1, 2

Margin = np.ndarray[Any, np.dtype[np.uint8]]


def stored(job: Job | Calls) -> Any:
    """Put what workers need into the object store, for them to lock; return the reference.

    The arrays lie in one piece of memory, between two that nobody needs.

    Raises:
        EvaluatorError: it cannot be sent.
    """
    try:
        return ray.put((np.zeros(PAGE, np.uint8), job, np.zeros(PAGE, np.uint8)))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise unsendable(error.__cause__ if isinstance(error.__cause__, Exception) else error) from error


class _Held:
    """A job whose weights and data are memory that all workers of the node share, locked against writing.

    torch ignores that NumPy's arrays are read-only: a careless fitness would alter the weights of everybody's candidates.
    Here it ends its own process instead.
    """

    def __init__(self, reference: "ray.ObjectRef[tuple[Margin, Any, Margin]]") -> None:
        first, self.job, last = ray.get(reference)
        page = os.sysconf("SC_PAGESIZE")
        self._start = -(-first.ctypes.data // page) * page
        self._size = (last.ctypes.data + last.nbytes) // page * page - self._start
        if self._size < 0:
            raise SystemError("the object store has not kept the order of a job's arrays")
        self._protect(PROT_READ)

    def _protect(self, allowed: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(self._start), ctypes.c_size_t(self._size), allowed):
            number = ctypes.get_errno()
            raise OSError(number, f"cannot lock the job's memory: {os.strerror(number)}")

    def release(self) -> None:
        """Unlock the memory: the object store will use it for something else."""
        self._protect(PROT_READ | PROT_WRITE)


_held: dict[str, _Held] = {}  # the job that this process works for, by the hexadecimal name of its object


def _job(reference: "ray.ObjectRef[tuple[Margin, Any, Margin]]") -> Any:
    """Return the job, built once and kept until there is another."""
    name = reference.hex()
    if name not in _held:
        for other in _held.values():
            other.release()
        _held.clear()
        _held[name] = _Held(reference)
    return _held[name].job


@cache
def _node() -> str:
    """Return what to call this machine: several nodes of a cluster may have one host name."""
    return f"{socket.gethostname()}-{ray.get_runtime_context().get_node_id()[:8]}"


def evaluate_chunk(reference: Sequence[Any], items: Sequence[Work], patience: float) -> list[Outcome]:
    """Return the outcomes of candidates, evaluated one after the other.

    Args:
        reference: the stored job's reference alone in a list, so that Ray hands it over unresolved.
        items: the candidates; at least one.
        patience: seconds after which no other is begun: the outcomes are then those of the first few.
    """
    job: Job = _job(reference[0])
    outcomes: list[Outcome] = []
    end = time.monotonic() + patience
    while len(outcomes) < len(items) and not (outcomes and time.monotonic() > end):
        if job.timeout is not None:
            # Reaches code that holds the interpreter's lock, where no Python signal handler ever runs.
            faulthandler.dump_traceback_later(job.timeout + GRACE, exit=True)
        try:
            outcomes.append(evaluate(job, items[len(outcomes)], _node()))
        finally:
            faulthandler.cancel_dump_traceback_later()
    return outcomes


def announce_chunk(reference: Sequence[Any], items: Sequence[Work], patience: float) -> Iterator[str | list[Outcome]]:
    """Yield STARTED as soon as the evaluation begins, then what `evaluate_chunk` returns."""
    _job(reference[0])
    yield STARTED
    yield evaluate_chunk(reference, items, patience)


def call(reference: Sequence[Any], number: int) -> Answer:
    """Return the answer for an item of a map; `reference` is that of the stored calls, as in `evaluate_chunk`."""
    calls: Calls = _job(reference[0])
    return calls(number)
