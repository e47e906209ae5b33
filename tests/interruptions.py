"""Ending a search between two of its reports."""

import itertools
from collections.abc import Callable

from evo.search import Progress


class Stopped(Exception):
    """What ends it."""


def stopping_after(calls: int, error: type[BaseException] = Stopped) -> Callable[[Progress], None]:
    """Return a `progress` that raises `error` at every call after so many."""
    count = itertools.count(1)

    def progress(_: Progress) -> None:
        if next(count) > calls:
            raise error

    return progress
