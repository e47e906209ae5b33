"""Following a search, ending it between two of its reports, and comparing what came of it with an undisturbed one."""

from collections.abc import Callable

import pandas as pd

import evo
from evo.callbacks import Callback, Progress
from evo.records import MEASUREMENTS


class Stopped(BaseException):
    """What ends it, like Ctrl-C."""


class Watch(Callback):
    """Passes on how far the search is."""

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self.function = function

    def on_progress(self, progress: Progress) -> None:
        self.function(progress)


class stopping_after(Callback):
    """Raises `error` at every report after so many."""

    def __init__(self, calls: int, error: type[BaseException] = Stopped) -> None:
        self.left = calls
        self.error = error

    def on_progress(self, progress: Progress) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error


def lasting(run: evo.Run) -> pd.DataFrame:
    """Return everything in the history but measurements, such as times; genomes and structures included."""
    frame = run.history.drop(columns=list(MEASUREMENTS))
    frame["genome"] = [run._history.blob(row, "genome") for row in frame.index]
    frame["structure"] = [run._history.blob(row, "structure") for row in frame.index]
    return frame


def assert_same(run: evo.Run, expected: evo.Run) -> None:
    """Both searches have recorded the same, bit for bit, and would go on alike."""
    pd.testing.assert_frame_equal(lasting(run), lasting(expected), check_exact=True)
    pd.testing.assert_frame_equal(run.generations, expected.generations, check_exact=True)
    assert run._history.meta("state") == expected._history.meta("state")
    assert run._history.integrity() == "ok"
    assert run.stopped == expected.stopped
