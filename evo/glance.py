"""Looking into a history that another process may be writing: nothing is written, locked for long, or left behind."""

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

    While its log (`-wal`) is there, some process may be writing, and SQLite's locks are taken. Without one, nobody has the
    file open: it is read as it is, because SQLite would make a log and leave it behind, or fail where it cannot.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    alone = not path.with_name(path.name + "-wal").exists()
    address = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    return sqlite3.connect(address, isolation_level=None, timeout=5, uri=True)


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
