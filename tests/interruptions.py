"""Following a search, and ending it between two of its reports."""

from collections.abc import Callable

from evo.callbacks import Callback, Progress


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
