"""`evo plot`: a picture of a run, written to a file."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evo.errors import SettingsError, unknown_name
from evo.run import Run

KINDS = (
    "front",
    "parallel",
    "convergence",
    "hypervolume",
    "evolution",
    "scores",
    "distribution",
    "widths",
    "ribbon",
    "fingerprint",
    "layers",
    "filters",
)
"""The pictures there are: the methods of `Run.plot`, known here without matplotlib."""

FLAGS = {"row": "id", "chosen": "id", "columns": "objectives"}
"""What an argument of a picture is called in the shell, if not by its name."""


def plot(folder: Path, kind: str, out: Path | None, options: Mapping[str, Any]) -> Path:
    """Draw a picture of the run in `folder` and return the file that it is in.

    Args:
        folder: the run's.
        kind: one of `KINDS`.
        out: the file; default the kind as PNG in the working directory.
        options: what the user has set, by flag; others have the picture's defaults.

    Raises:
        SettingsError: there is no such picture, it does not take an option, or the file cannot be one.
        RunFolderError: the folder is no run's, or holds nothing that can be drawn.
    """
    if kind not in KINDS:
        raise SettingsError(unknown_name("picture", kind, KINDS))
    from evo.report.accessor import RunPlots
    from evo.report.plots import check_picture, save_figure

    arguments = _arguments(kind, inspect.signature(getattr(RunPlots, kind)).parameters, options)
    path = out or Path(f"{kind}.png")
    check_picture(path)
    run = _with_task(folder) if kind == "filters" else Run(folder)
    return save_figure(getattr(run.plot, kind)(**arguments), path)


def _with_task(folder: Path) -> Run:
    """Open a run with its task, for what is drawn of weights."""
    from evo.cli.config import resume_config
    from evo.export import same_task

    task = resume_config(folder).make_task()
    run = Run(folder, task)
    same_task(run, task)
    return run


def _arguments(kind: str, known: Mapping[str, object], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a picture that the flags mean.

    Raises:
        SettingsError: it takes no such flag, or only one individual.
    """
    names = {FLAGS.get(name, name): name for name in known if name != "self"}
    arguments = {}
    for flag, value in options.items():
        if flag not in names:
            takes = ", ".join(f"--{name}" for name in names if name not in ("tuned", "reference")) or "no options"
            raise SettingsError(f"--{flag}: {kind} does not take it; it takes {takes}")
        if names[flag] == "row" and len(value) != 1:
            raise SettingsError(f"--id: {kind} draws one individual, got {len(value)}")
        arguments[names[flag]] = value[0] if names[flag] == "row" else value
    return arguments


def listed(flag: str, text: str | None, kind: type = str) -> Sequence[Any] | None:
    """Return what a text with commas lists.

    Raises:
        SettingsError: a part is not of this kind.
    """
    if text is None:
        return None
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"--{flag}: expected whole numbers with commas between, got {text!r}") from None
