"""`evo report`: one HTML file about a run, or several, that needs nothing else: no network, no server."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from evo.errors import SettingsError
from evo.report import drawn, facts, figures
from evo.report.comparison import comparison
from evo.report.look import Look
from evo.report.members import members
from evo.run import SETTINGS, Run
from evo.status import RunStatus, status

TEMPLATES = "templates"


def write_report(run: Run, path: str | Path = "report.html", *, objectives: Sequence[str] | None = None) -> Path:
    """Write a page about `run` to one file, which replaces what is there at once, and return its path.

    Args:
        run: finished, interrupted or running; opened with its task, the original network's error is measured as well.
        path: the file; folders that are missing are made.
        objectives: names of objectives or costs that the front and the hypervolume are about; default the run's objectives if
            there are two or three, else error (or the first objective) and parameters.

    Raises:
        SettingsError: an unknown name, or the file cannot be written.
    """
    path = checked(path)
    return _write(path, _report(run, status(run.folder), objectives, None))


def write_comparison(
    runs: Sequence[Run], path: str | Path = "compare.html", *, objectives: Sequence[str] | None = None
) -> Path:
    """Write a page about several runs with the same objectives, see `write_report`.

    Raises:
        SettingsError: fewer than two runs, runs with different objectives, an unknown name, or the file cannot be written.
    """
    path = checked(path)
    return _write(path, _page("compare.html", comparison(runs, objectives)))


def watch_report(
    folder: str | Path,
    path: str | Path,
    every: float,
    *,
    objectives: Sequence[str] | None = None,
    written: Callable[[RunStatus], None] | None = None,
) -> Path:
    """Write a page about the search in `folder` again and again, until it is not running any more; return its path.

    The page loads itself again as often. The last one does not, also where this is interrupted (Ctrl-C).

    Args:
        folder: the run's.
        path: the file.
        every: seconds between looks.
        objectives: see `write_report`.
        written: told after every look how the search stood.

    Raises:
        RunFolderError: no search has begun there, or the folder is damaged.
        SettingsError: an unknown name, or the file cannot be written.
    """
    path = checked(path)
    try:
        while True:
            # How it stands first: what a search writes last, before it leaves, is on the last page.
            found = status(folder)
            running = found.state == "running"
            _look(folder, path, found, objectives, every if running else None)
            if written is not None:
                written(found)
            if not running:
                return path
            time.sleep(every)
    except KeyboardInterrupt:
        _look(folder, path, status(folder), objectives, None)
        raise


def checked(path: str | Path) -> Path:
    """Return where a page goes.

    Raises:
        SettingsError: it cannot be written there, as far as that shows before any work.
    """
    path = Path(path)
    if path.is_dir():
        raise SettingsError(f"{path}: is a folder, expected a file name such as {path / 'report.html'}")
    above = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if not above.is_dir():
        raise SettingsError(f"{path}: cannot be written ({above} is not a folder)")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SettingsError(f"{path}: cannot be written (no permission to write in {above})")
    return path


def embedded(value: Any) -> Markup:
    """Return plain values as JSON that can stand in a page's <script>: nothing in it ends that, or begins a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: no line separators either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _look(
    folder: str | Path, path: Path, found: RunStatus, objectives: Sequence[str] | None, refresh: float | None
) -> None:
    run = Run(folder)
    try:
        _write(path, _report(run, found, objectives, refresh))
    finally:
        run.close()


def _report(run: Run, found: RunStatus, objectives: Sequence[str] | None, refresh: float | None) -> str:
    """Return the page about a run that stands as `found`; one that reloads itself after `refresh` seconds."""
    look = Look.at(run, objectives)
    failed, others = facts.failures(look)
    pictures = _pictures(look)
    context = {
        "name": run.folder.resolve().name,
        "status": found,
        "standing": facts.standing(found),
        "refresh": refresh,
        "summary": facts.summary(look, found),
        "numbers": facts.numbers(look, found),
        "commands": facts.next_commands(look, found),
        "look": look,
        "cloud": figures.CLOUD,
        "pictures": pictures,
        "failures": failed,
        "other_failures": others,
        "nodes": facts.nodes(look, found),
        "settings": facts.settings_rows(run.settings),
        "settings_text": (run.folder / SETTINGS).read_text(),
        "again": facts.again(run),
        "data": _data(look, [failure.example for failure in failed], pictures),
    }
    return _page("report.html", context)


def _data(look: Look, failed: Sequence[int], pictures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page's script works on: figures, and individuals, those with the ids `failed` among them."""
    data: dict[str, Any] = {"figures": _plain(pictures)}
    if look.frame.empty:
        return data
    x, y = _axes(look)
    data["figures"]["front"] = json.loads(figures.front_figure(look, x, y).to_json())
    data["run"] = members(look, np.flatnonzero(look.frame.index.isin(failed)), x, y)
    data["best"] = None if look.best is None else int(str(look.best.name))
    return data | {"folder": str(look.run.folder), "shell": "source" in look.run.settings}


def _axes(look: Look) -> tuple[str, str]:
    """Return what the front is drawn over at first: the second objective, or a cost, to the right, the first upwards."""
    names = [axis.name for axis in (*look.objectives, *look.axes)]
    y = names[0]
    return next(name for name in names if name != y), y


def _pictures(look: Look) -> dict[str, Any]:
    """Return all figures but the front by their place on the page; of every objective, how it converged."""
    found: dict[str, Any] = {}
    if len(look.measured):
        shown = dict.fromkeys([*look.run.objectives[:1], *look.objectives, *look.run.objectives])
        found["convergence"] = {axis.name: drawn.convergence(look, axis) for axis in shown}
        found["hypervolume"] = drawn.hypervolume(look)
    if len(look.frame):
        found["widths"] = drawn.widths(look)
        found["seconds"] = drawn.seconds(look)
    return {name: picture for name, picture in found.items() if picture is not None}


def _plain(pictures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(entry) if isinstance(entry, Mapping) else entry.to_json() for name, entry in pictures.items()}


def _page(template: str, context: dict[str, Any]) -> str:
    """Return a page with all that it needs in it; the browser is told to run nothing but our two scripts."""
    scripts = {"plotly": get_plotlyjs(), "script": _text("page.js")}
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts.values())
    inlined = {name: Markup(script) for name, script in scripts.items()}
    inlined |= {"style": Markup(_text("page.css")), "digests": Markup(digests)}
    context.setdefault("data", {"figures": _plain(context.get("figures", {}))})
    return _environment().get_template(template).render(context | inlined, written=datetime.now(UTC))


@cache
def _environment() -> Environment:
    loader = PackageLoader("evo.report", TEMPLATES)
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters["embedded"] = embedded
    return found


def _text(name: str) -> str:
    return (files("evo.report") / TEMPLATES / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _write(path: Path, page: str) -> Path:
    """Put a page in its place at once: whoever opens it meanwhile sees the one before."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(page.encode("utf-8", "replace"))  # names of files may be no text
        part.replace(path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path
