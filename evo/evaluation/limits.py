"""Stopping an evaluation that takes too long or too much memory, from within."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from evo.evaluation.memory import own_memory

LOOK = 0.1  # seconds between two looks at the memory
AGAIN = 1.0  # seconds after which code that swallowed the first alarm hears the next


class TimeUp(BaseException):
    """Time is up; not an Exception, so that a fitness cannot swallow it by accident."""


class TooMuchMemory(BaseException):
    """The evaluation takes more memory than it may; not an Exception either."""


@contextmanager
def limits(seconds: float | None, memory: float | None, guarded: Callable[..., object]) -> Iterator[None]:
    """Stop a call of `guarded` that takes too long or too much; only the main thread can be stopped, elsewhere nothing happens.

    Args:
        seconds: until `TimeUp` is raised; None for no limit.
        memory: bytes that the process's own memory may grow from here on until `TooMuchMemory` is raised; None for no limit.
            Ten looks a second see it. What lies in files or shared memory, on a GPU or in other processes does not count.
        guarded: exceptions are raised only where a call of this function is running, never in what surrounds it.
    """
    if (seconds is None and memory is None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    begun = time.monotonic()
    end = None if seconds is None else begun + seconds
    most = None if memory is None else (own_memory() or 0) + memory
    code = guarded.__code__

    def ring(_signal: int, frame: FrameType | None) -> None:
        # Later rings of the timer reach what swallows the first: a bare `except:`, or a destructor.
        if end is not None and time.monotonic() >= end and _runs(code, frame):
            raise TimeUp
        if most is not None and (own_memory() or 0) > most and _runs(code, frame):
            raise TooMuchMemory

    if memory is None:
        first, later = seconds or 0.0, AGAIN
    else:
        first, later = min(LOOK, seconds or LOOK), LOOK
    previous = signal.signal(signal.SIGALRM, ring)
    delay, interval = signal.setitimer(signal.ITIMER_REAL, first, later)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if delay:  # somebody else's, such as that of an evaluation of which this one is a part
            signal.setitimer(signal.ITIMER_REAL, max(0.001, delay - (time.monotonic() - begun)), interval)


def _runs(code: CodeType, frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
