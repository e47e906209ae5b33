"""A search as it goes: a live display in a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evo.search import Progress

PLAIN_SECONDS = 60.0
"""Longest silence of the plain lines, if evaluations finish meanwhile."""


class ProgressDisplay:
    """Shows how far a search is: `with ProgressDisplay() as show: evo.search(..., progress=show)`.

    In a terminal it redraws itself in place; elsewhere (a pipe, a log file) it prints one line per generation.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`, default standard output."""
        self.console = console or Console()
        self._last: Progress | None = None
        self._received = 0.0
        self._printed = (-1, -PLAIN_SECONDS)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def __call__(self, progress: Progress) -> None:
        """Take in the latest state."""
        self._last, self._received = progress, time.monotonic()
        if self._live is None:
            self._print_line(progress)

    def _print_line(self, progress: Progress) -> None:
        generation, seconds = self._printed
        silent = progress.seconds - seconds
        if progress.generation != generation or silent >= PLAIN_SECONDS:
            self._printed = (progress.generation, progress.seconds)
            self.console.print(line(progress), highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        """Return what the terminal shows at this moment."""
        progress = self._last
        if progress is None:
            return Text("starting workers …")
        since = time.monotonic() - self._received
        left = None if progress.seconds_left is None else max(0.0, progress.seconds_left - since)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(_generation(progress), style="bold"),
            ProgressBar(total=1.0, completed=share(progress), width=30),
            f"{share(progress):.0%}",
        )
        times = f"{duration(progress.seconds + since)} so far, {_left(left)}"
        return Group(head, *(Text(text) for text in (_counts(progress), _best(progress), times)))


def line(progress: Progress) -> str:
    """Return the whole state in one line."""
    parts = (_generation(progress), _counts(progress), _best(progress), _left(progress.seconds_left))
    return "; ".join(parts)


def share(progress: Progress) -> float:
    """Return how much of the search is done, in [0, 1]."""
    current = 1 - progress.pending / progress.asked if progress.pending and progress.asked else 0.0
    return min(1.0, (progress.generation + current) / max(1, progress.generations))


def duration(seconds: float) -> str:
    """Return a time as "42 s", "3 min 05 s" or "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def number(value: float) -> str:
    """Return a count with thousands separators, anything else with four digits after the point."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4f}"


def _generation(progress: Progress) -> str:
    return f"{progress.generation} of {progress.generations} generations"


def _counts(progress: Progress) -> str:
    return f"{progress.evaluated:,} evaluated, {progress.failed:,} failed, {progress.cached:,} looked up"


def _best(progress: Progress) -> str:
    best = progress.best
    if best is None:
        return "no result yet"
    text = f"best {progress.objective} {number(best[progress.objective])} (id {int(best['id'])})"
    if "error" in best and progress.objective != "error":
        text += f", error {best['error']:.2%}"
    smaller = progress.original["params"] / best["params"]
    return f"{text}, {int(best['params']):,} params ({smaller:.1f}× smaller)"


def _left(seconds: float | None) -> str:
    return "time left unknown" if seconds is None else f"about {duration(seconds)} left"
