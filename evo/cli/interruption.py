"""Ctrl-C and SIGTERM: the program ends in one line that says what is left and how to go on."""

import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from evo.export import training_file
from evo.run import SETTINGS


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: workers are released on its way up."""


@contextmanager
def interruptible(left: Callable[[], str]) -> Iterator[None]:
    """End the program in one line on Ctrl-C or SIGTERM: what is `left` then, and how to go on."""

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, terminate) if main_thread else None
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {left()}", file=sys.stderr)
        status = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
        raise typer.Exit(128 + status) from None
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, previous)


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
