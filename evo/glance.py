"""Looking into a history that another process may be writing: nothing is written, or locked for long.

All that a look may leave behind is an empty log (`-wal`, and `-shm`), if the search ends meanwhile.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from evo.errors import RunFolderError

T = TypeVar("T")

TRIES = 5


def connect(path: Path) -> sqlite3.Connection:
    """Open an SQLite file for reading alone, in a folder that may be read-only.

    While there is something in its log (`-wal`), some process may be writing, and SQLite's locks are taken. Without that,
    everything is in the file: it is read as it is, because SQLite would make a log and leave it behind, or fail where it
    cannot. What is written from then on is seen by a new connection only.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    address = f"{path.absolute().as_uri()}?mode=ro{'' if has_log(path) else '&immutable=1'}"
    return sqlite3.connect(address, isolation_level=None, timeout=5, uri=True)


def has_log(path: Path) -> bool:
    """Return whether a part of the SQLite file may be in its log alone."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except OSError:
        return False


def glance(path: Path, look: Callable[[sqlite3.Connection], T]) -> T:
    """Return what `look` finds; all its queries see the same moment.

    Raises:
        RunFolderError: the file is missing, damaged, or no SQLite file.
    """
    if not path.is_file():
        raise RunFolderError(f"{path}: there is no history here; a run folder holds run.toml and history.sqlite")
    for attempt in range(TRIES):
        try:
            with closing(connect(path)) as database:
                database.execute("BEGIN")
                return look(database)
        except sqlite3.Error as error:
            if attempt == TRIES - 1:
                raise RunFolderError(f"{path}: damaged, or not a history of evo ({error})") from error
            time.sleep(0.02)  # a search has begun or ended between two steps of ours
    raise AssertionError
