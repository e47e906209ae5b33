"""What `evo` raises when a user can mend the cause: every message is one sentence saying what, where and what is right."""

import difflib
from collections.abc import Iterable


class EvoError(Exception):
    """Base of every error that the shell prints as one line, without a traceback."""


class SettingsError(EvoError, ValueError):
    """A setting, name or argument is wrong."""


class NetworkError(EvoError):
    """A network cannot be analysed, built, saved or loaded."""


class DataError(EvoError, ValueError):
    """A data set is not what the task needs."""


class RunFolderError(EvoError):
    """A run folder is damaged, foreign or holds something else."""


class EvaluatorError(EvoError):
    """Candidates cannot be evaluated at all: no cluster, no worker, or every evaluation fails."""


class CallbackError(EvoError):
    """A callback of a search raised something; `__cause__` is what."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses `name` and offers the closest of `known`, or lists them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"
