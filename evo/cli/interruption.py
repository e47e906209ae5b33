"""Ctrl-C and SIGTERM: the program ends within seconds, in one line that says what is left and how to go on."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from evo.export import training_file
from evo.run import SETTINGS

PATIENCE = 3.0
"""Seconds that the release of workers may take; they die with this program in any case."""


@contextmanager
def interruptible(left: Callable[[], str]) -> Iterator[None]:
    """End the program in one line on Ctrl-C or SIGTERM: what is `left` then, and how to go on.

    The first of them raises KeyboardInterrupt; the others are ignored until the program has ended, because a second one
    would tear at the release of the workers. Should that hang, the program ends all the same.
    """
    received: list[int] = []
    said = threading.Event()

    def say() -> None:
        if not said.is_set():
            said.set()
            print(f"interrupted: {left()}", file=sys.stderr, flush=True)

    def end_now() -> None:
        say()
        os._exit(128 + received[0])

    def stop(number: int, _frame: FrameType | None) -> None:
        if received:
            return
        received.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # a handler would not outlive the interpreter's last moments
        watchdog = threading.Timer(PATIENCE, end_now)
        watchdog.daemon = True
        watchdog.start()
        raise KeyboardInterrupt

    with _handling(stop, received):
        try:
            yield
        except BaseException as error:
            # What is interrupted may raise something else on its way up.
            if not received and not isinstance(error, KeyboardInterrupt):
                raise
            say()
            raise typer.Exit(128 + (received or [signal.SIGINT])[0]) from None


@contextmanager
def _handling(stop: Callable[[int, FrameType | None], None], received: Sequence[int]) -> Iterator[None]:
    """Have `stop` handle SIGINT and SIGTERM, for good if one of them was `received` in the end.

    Only the main thread can; a signal that is ignored (`nohup`, `&`) stays so.
    """
    taken: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                taken[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        if not received:
            for number, handler in taken.items():
                signal.signal(number, handler)


def left_by_search(folder: Path) -> str:
    """Say what a search in `folder`, or the training of its network, left and how to go on."""
    if (folder / SETTINGS).exists():
        return f"finished evaluations are in {folder}; to continue: evo resume {shlex.quote(str(folder))}"
    return left_by_training(training_file(folder), "the search had not begun, nothing was written")


def left_by_compression(folder: Path) -> str:
    """Say what `evo compress` left in `folder` and how to go on."""
    if (folder / SETTINGS).exists():
        return f"finished evaluations and epochs are in {folder}; the same command continues"
    return left_by_search(folder)


def left_by_training(file: Path, otherwise: str) -> str:
    """Say how to go on with the training that keeps its state in `file`; `otherwise` if there is none."""
    return f"finished epochs are in {file}; the same command continues" if file.exists() else otherwise
