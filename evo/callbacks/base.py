"""What a search tells those who follow it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evo.errors import CallbackError, SettingsError
from evo.importing import describe
from evo.plugins import described
from evo.run import Run


@dataclass(frozen=True)
class Progress:
    """How far a search is, for a display.

    Attributes:
        generation: finished generations.
        generations: how many there will be.
        asked: individuals of the current generation.
        pending: those of them still to be evaluated.
        evaluated: evaluations of the whole run so far, failures included.
        failed: how many of these failed or timed out.
        cached: individuals that were looked up instead.
        reused: how many of those evaluated another run had measured.
        best: the row with the best first objective: all its objectives and costs, and its `id`; None before the first.
        objective: name of that first objective.
        original: the costs of the unpruned network.
        seconds: since this search (or its resumption) started.
        seconds_left: an estimate; None before the first generation is done.
        drawn: genomes drawn so far, if there is a budget.
        rejected: how many of these exceeded it.
        screened: structures that a cascade has not promoted so far.
        screening: which of a cascade's fidelities before the last is at work, and how far; "" if none is.
    """

    generation: int
    generations: int
    asked: int
    pending: int
    evaluated: int
    failed: int
    cached: int
    reused: int
    best: Mapping[str, float] | None
    objective: str
    original: Mapping[str, int]
    seconds: float
    seconds_left: float | None
    drawn: int = 0
    rejected: int = 0
    screened: int = 0
    screening: str = ""


class Callback:
    """Follows a search: override what you want to hear of; every method does nothing by itself.

    All are called in the process that searches, one after the other; the search waits. Evaluations and generations are told
    in the order in which they are recorded, once they are on disk, and once each: a search that goes on with what an earlier
    process has begun tells only what is new, and `on_start` finds the rest in the run. What raises ends the search, which
    can be continued like any that was interrupted.
    """

    def on_start(self, run: Run) -> None:
        """Hear that a search begins, or goes on.

        Args:
            run: its settings, objectives and folder; and, if an earlier process has begun it, its history so far.
        """

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        """Hear of an individual's result, a cached or failed one too.

        Args:
            row: as in `Run.history`: `evo.history.COLUMNS`, the costs, and the objectives if the status is ok.
        """

    def on_progress(self, progress: Progress) -> None:
        """Hear how far the search is: at its beginning, and after every batch of results and every generation."""

    def on_generation(self, statistics: Mapping[str, float], progress: Progress) -> None:
        """Hear of a finished generation.

        Args:
            statistics: as in `Run.generations`: its number, `generation`, counts, and statistics of the first objective.
            progress: how far the search is.
        """

    def on_end(self, run: Run) -> None:
        """Hear that the search has come to its end, or to that of `max_evaluations`."""

    def on_exception(self, error: BaseException) -> None:
        """Hear that something else ends the search, such as Ctrl-C or another callback; in place of `on_end`.

        It may come before `on_start`, if that of an earlier callback raised.
        """


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raise SettingsError for what is no sequence of callbacks."""
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise SettingsError(f"callbacks: expected a list of callbacks, got {described(callbacks)}")
    for callback in callbacks:
        if isinstance(callback, type) and issubclass(callback, Callback):
            raise SettingsError(
                f"callbacks: got {described(callback)}, expected an object of it: {callback.__name__}(…)"
            )
        if not isinstance(callback, Callback):
            raise SettingsError(
                f"callbacks: expected objects of subclasses of evo.callbacks.Callback, got {described(callback)}"
            )


def tell(callbacks: Sequence[Callback], event: Callable[[Callback], None]) -> None:
    """Let each of `callbacks` hear of an event, in order.

    Raises:
        CallbackError: one raised, and the others have not heard; the sentence names it.
    """
    for callback in callbacks:
        try:
            event(callback)
        except Exception as error:  # a user's callback may raise anything
            raise CallbackError(
                f"callback {type(callback).__name__} raised {describe(error)}; what the search had found by then is on disk, "
                "and the same search goes on from it"
            ) from error


@contextmanager
def followed(run: Run, callbacks: Sequence[Callback]) -> Iterator[None]:
    """Tell callbacks that a search begins, and that it has ended or what has ended it."""
    try:
        tell(callbacks, lambda callback: callback.on_start(run))
        yield
        tell(callbacks, lambda callback: callback.on_end(run))
    except BaseException as error:
        cause = error.__cause__ if isinstance(error, CallbackError) and error.__cause__ is not None else error
        for callback in callbacks:
            try:
                callback.on_exception(cause)
            except Exception as another:  # the others have to hear all the same, and of what came first
                error.add_note(f"{type(callback).__name__}.on_exception raised {describe(another)}")
        run.close()
        raise
