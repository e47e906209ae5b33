"""`evo status`: how a search stands, once or again and again."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from evo.report.status import status_view
from evo.status import RunStatus, status


def show_status(folder: Path, console: Console, *, every: float | None, as_json: bool) -> None:
    """Print how the search in `folder` stands.

    Args:
        folder: the run's.
        console: where to; a terminal is redrawn in place.
        every: seconds between looks, until the search is not running any more; None for one look.
        as_json: print a JSON document per look, on one line if there may be several.

    Raises:
        RunFolderError: no search has begun there, or the folder is damaged.
    """
    found = status(folder)
    if every is None:
        _print(found, console, as_json=as_json, indent=2)
    elif as_json or not console.is_terminal:
        _print(found, console, as_json=as_json)
        while found.state == "running":
            time.sleep(every)
            found = status(folder)
            _print(found, console, as_json=as_json)
    else:
        with Live(status_view(found), console=console, auto_refresh=False) as live:
            while found.state == "running":
                time.sleep(every)
                found = status(folder)
                live.update(status_view(found), refresh=True)


def _print(found: RunStatus, console: Console, *, as_json: bool, indent: int | None = None) -> None:
    if as_json:
        print(json.dumps(found.to_dict(), indent=indent), flush=True)
    else:
        console.print(status_view(found))
