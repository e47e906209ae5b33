"""A search or a training as it goes: a live display in a terminal, plain lines anywhere else."""

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evo.callbacks.base import Callback, Progress
from evo.status import RunStatus
from evo.training import EpochReport

PLAIN_SECONDS = 60.0
"""Longest silence of the plain lines, if evaluations finish meanwhile."""


class _Display(ABC):
    """Redraws itself in place while it is entered, if its console is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`, default standard output."""
        self.console = console or Console()
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

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @abstractmethod
    def _render(self) -> RenderableType:
        """Return what the terminal shows at this moment."""


class ProgressDisplay(_Display, Callback):
    """Shows how far a search is: `with ProgressDisplay() as show: evo.search(..., callbacks=[show])`.

    In a terminal it redraws itself in place; elsewhere (a pipe, a log file) it prints one line per generation.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`, default standard output."""
        super().__init__(console)
        self._last: Progress | None = None
        self._received = 0.0
        self._printed = (-1, -PLAIN_SECONDS)

    def on_progress(self, progress: Progress) -> None:
        """Take in the latest state."""
        self._last, self._received = progress, time.monotonic()
        if self._live is None:
            self._print_line(progress)

    def _print_line(self, progress: Progress) -> None:
        generation, seconds = self._printed
        silent = progress.seconds - seconds
        if progress.generation != generation or silent >= PLAIN_SECONDS:
            self._printed = (progress.generation, progress.seconds)
            self._say(line(progress))

    def _render(self) -> RenderableType:
        progress = self._last
        if progress is None:
            return Text("starting workers …")
        since = time.monotonic() - self._received
        left = None if progress.seconds_left is None else max(0.0, progress.seconds_left - since)
        head = bar(generations(progress), share(progress))
        times = f"{duration(progress.seconds + since)} so far, {time_left(left)}"
        texts = (counts(progress), progress.screening, best(progress), times)
        return Group(head, *(Text(text) for text in texts if text))


class TrainingDisplay(_Display):
    """Shows how far a training is: `with TrainingDisplay("fine-tuning") as show: evo.finetune(…, on_epoch=show)`.

    In a terminal it redraws itself in place; elsewhere (a pipe, a log file) it prints one line per epoch.
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        """Call the training `name`, and show on `console`, default standard output."""
        super().__init__(console)
        self.name = name
        self._last: EpochReport | None = None
        self._received = time.monotonic()

    def __call__(self, report: EpochReport) -> None:
        """Take in what the latest epoch came to."""
        self._last, self._received = report, time.monotonic()
        if self._live is None:
            self._say(f"{self.name}: {training_line(report)}")

    def _render(self) -> RenderableType:
        report, since = self._last, time.monotonic() - self._received
        if report is None:
            return Text(f"{self.name}: first epoch, {duration(since)} so far")
        if report.last:
            return Text(f"{self.name}: {training_line(report)}")
        head = bar(f"{self.name}: {_epoch(report)}", report.epoch / report.epochs)
        times = f"{duration(report.seconds + since)} so far, {time_left(max(0.0, report.seconds_left - since))}"
        return Group(head, Text(_results(report)), Text(times))


def training_line(report: EpochReport) -> str:
    """Return how a training stands in one line."""
    if not report.last:
        end = time_left(report.seconds_left)
    elif report.epoch < report.epochs:
        end = f"stopped early after {duration(report.seconds)}: the weights of epoch {report.best_epoch} are kept"
    else:
        end = f"done in {duration(report.seconds)}"
    return f"{_epoch(report)}, {_results(report)}; {end}"


def line(progress: Progress) -> str:
    """Return the whole state in one line."""
    parts = (generations(progress), counts(progress), progress.screening, best(progress))
    return "; ".join([*filter(None, parts), time_left(progress.seconds_left)])


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


def bar(title: str, done: float) -> Table:
    """Return a title, a bar and a percentage on one line."""
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(title, style="bold"), ProgressBar(total=1.0, completed=done, width=30), f"{done:.0%}")
    return row


def _epoch(report: EpochReport) -> str:
    return f"epoch {report.epoch} of {report.epochs}"


def _results(report: EpochReport) -> str:
    text = f"loss {report.loss:.4f}, learning rate {report.lr:.3g}"
    if report.error is None or report.best_error is None:
        return text
    text += f", validation error {report.error:.2%}"
    return (
        text
        if report.best_epoch == report.epoch
        else f"{text} (lowest {report.best_error:.2%}, epoch {report.best_epoch})"
    )


def generations(progress: Progress | RunStatus) -> str:
    """Return how many generations are done."""
    return f"{progress.generation} of {progress.generations} generations"


def counts(progress: Progress | RunStatus) -> str:
    """Return how many candidates were evaluated, failed, looked up and rejected."""
    text = f"{progress.evaluated:,} evaluated, {progress.failed:,} failed, {progress.cached:,} looked up"
    if progress.screened:
        text += f", {progress.screened:,} screened out"
    if progress.reused:
        text += f", {progress.reused:,} measured by other runs"
    if progress.drawn:
        text += f", {progress.rejected / progress.drawn:.0%} of {progress.drawn:,} drawn rejected by the budget"
    return text


def best(progress: Progress | RunStatus) -> str:
    """Return what the best candidate so far is like."""
    found = progress.best
    if found is None:
        return "no result yet"
    text = f"best {progress.objective} {number(found[progress.objective])} (id {int(found['id'])})"
    if "error" in found and progress.objective != "error":
        text += f", error {found['error']:.2%}"
    smaller = progress.original["params"] / found["params"]
    return f"{text}, {int(found['params']):,} params ({smaller:.1f}× smaller)"


def time_left(seconds: float | None) -> str:
    """Return the estimate of the time that is left."""
    return "time left unknown" if seconds is None else f"about {duration(seconds)} left"
