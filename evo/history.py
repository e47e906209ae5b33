"""The history of a run: one row per individual in an SQLite file, written as results come in."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from evo.errors import RunFolderError
from evo.network import COSTS

FORMAT = 2

COLUMNS = {
    "id": "row number, from 0, in the order the algorithm proposed",
    "generation": "round of the algorithm, from 0",
    "operator": "what made it: initial, crossover, mutation, random, …",
    "parents": "ids of its parents, as a JSON list",
    "key": "identity of the structure; equal structures are measured once",
    "status": "ok, failed or timeout; objectives are there only if ok",
    "cached": "true if an earlier row had measured the same structure",
    "reason": "why it is not ok",
    "seconds": "wall time of the evaluation in its worker; empty if cached",
    "worker": "host and process of the worker; empty if cached",
    "finished": "when it was recorded, UTC",
}
MEASUREMENTS = ("seconds", "worker", "finished")
"""Columns that differ between two runs of the same search; all others are equal bit for bit."""

_TYPES = {"id": "INTEGER PRIMARY KEY", "generation": "INTEGER", "cached": "INTEGER", "seconds": "REAL"}


@dataclass
class Row:
    """One individual of a run; the fields are the columns of `COLUMNS`, the genome and structure, costs and objectives."""

    id: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    genome: bytes
    structure: bytes
    key: str
    costs: dict[str, int]
    status: str = ""
    cached: bool = False
    reason: str = ""
    objectives: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    worker: str = ""


class History:
    """The SQLite file of one run.

    One transaction per finished evaluation; a reader never blocks the search, nor the search a reader (WAL).
    """

    def __init__(self, path: Path, *, create: Sequence[str] | None = None) -> None:
        """Open `path`; with `create`, a list of objective names, make it first.

        Raises:
            RunFolderError: the file is missing, damaged, or not a history of this version.
        """
        self.path = path
        if create is None and not path.is_file():
            raise RunFolderError(f"{path}: there is no history here; a run folder holds run.toml and history.sqlite")
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30)
        try:
            self._database.execute("PRAGMA synchronous=FULL")
            if create is not None:
                self._create(create)
            self._check()
        except (sqlite3.DatabaseError, RunFolderError) as error:
            self._database.close()
            if isinstance(error, RunFolderError):
                raise
            raise RunFolderError(f"{path}: damaged, or not a history of evo ({error})") from error
        names = [row[1] for row in self._database.execute("PRAGMA table_info(evaluations)")]
        fixed = {*COLUMNS, *COSTS, "genome", "structure"}
        self._objectives = [name for name in names if name not in fixed]
        self._names = names

    def _create(self, objectives: Sequence[str]) -> None:
        columns = [f"{name} {_TYPES.get(name, 'TEXT')}" for name in COLUMNS] + ["genome BLOB", "structure BLOB"]
        columns += [f"{name} INTEGER" for name in COSTS]
        columns += [f"{_quoted(name)} REAL" for name in objectives if name not in COSTS]
        self._database.execute("PRAGMA journal_mode=WAL")
        with self._transaction():
            self._database.execute(f"CREATE TABLE IF NOT EXISTS evaluations ({', '.join(columns)})")
            self._database.execute("CREATE INDEX IF NOT EXISTS by_key ON evaluations (key)")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS generations (generation INTEGER PRIMARY KEY, statistics TEXT)"
            )
            self._database.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT)")
        if self.meta("format") is None:
            self.set_meta("format", FORMAT)

    def _check(self) -> None:
        found = self.meta("format")
        if found != FORMAT:
            raise RunFolderError(f"{self.path}: history format {found}, this version of evo reads {FORMAT}")
        damage = str(self._database.execute("PRAGMA quick_check(1)").fetchone()[0])
        if damage != "ok":
            raise sqlite3.DatabaseError(" ".join(damage.split()))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @staticmethod
    def begun(path: Path) -> bool:
        """Return whether `path` holds rows; not so what a search leaves that is killed while it sets up its folder.

        Raises:
            RunFolderError: it is something else.
        """
        if not path.exists():
            return False
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
        try:
            tables = {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return bool(tables) and bool(database.execute("SELECT count(*) FROM evaluations").fetchone()[0])
        except sqlite3.DatabaseError as error:
            raise RunFolderError(f"{path}: damaged, or not a history of evo ({error})") from error
        finally:
            database.close()

    def meta(self, name: str) -> Any:
        """Return a stored value, None if there is none."""
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_meta(self, name: str, value: Any) -> None:
        """Store a JSON value."""
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def add(self, rows: Iterable[Row]) -> None:
        """Write `rows` in one transaction; they are on disk when this returns."""
        records = [self._record(row) for row in rows]
        quoted = ", ".join(map(_quoted, self._names))
        marks = ", ".join(
            "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')" if name == "finished" else "?" for name in self._names
        )
        with self._transaction():
            self._database.executemany(f"INSERT INTO evaluations ({quoted}) VALUES ({marks})", records)

    def _record(self, row: Row) -> list[Any]:
        values: dict[str, Any] = {
            **row.objectives,
            **row.costs,
            **{name: getattr(row, name) for name in COLUMNS if name not in ("parents", "finished")},
            "parents": json.dumps(row.parents),
            "genome": row.genome,
            "structure": row.structure,
        }
        return [values.get(name) for name in self._names if name != "finished"]

    def finish_generation(self, generation: int, statistics: dict[str, float], state: dict[str, Any]) -> None:
        """Record a generation's statistics and the algorithm's state after it, in one transaction."""
        with self._transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO generations VALUES (?, ?)", (generation, json.dumps(statistics))
            )
            self._database.execute("INSERT OR REPLACE INTO meta VALUES ('state', ?)", (json.dumps(state),))

    def outcomes(self) -> Iterator[tuple[int, str, str, str, dict[str, float]]]:
        """Yield (id, key, status, reason, objectives besides costs) of every row, by id."""
        columns = ", ".join(["id", "key", "status", "reason", *map(_quoted, self._objectives)])
        query = f"SELECT {columns} FROM evaluations ORDER BY id"
        for number, key, status, reason, *values in self._database.execute(query):
            objectives = dict(zip(self._objectives, values, strict=True)) if status == "ok" else {}
            yield number, key, status, reason, objectives

    def blob(self, row: int, name: str) -> bytes:
        """Return the packed `genome` or `structure` of a row.

        Raises:
            RunFolderError: there is no such row.
        """
        query = f"SELECT {'genome' if name == 'genome' else 'structure'} FROM evaluations WHERE id = ?"
        found = self._database.execute(query, (row,)).fetchone()
        if found is None:
            last = self._database.execute("SELECT max(id) FROM evaluations").fetchone()[0]
            raise RunFolderError(f"{self.path.parent}: there is no row {row}; ids go from 0 to {last}")
        return bytes(found[0])

    def frame(self) -> pd.DataFrame:
        """Return all rows as a table, indexed by id."""
        listed = [*COLUMNS, *COSTS, *self._objectives]
        columns = ", ".join(map(_quoted, listed))
        frame = pd.read_sql_query(f"SELECT {columns} FROM evaluations ORDER BY id", self._database)
        frame["cached"] = frame["cached"].astype(bool)
        frame["seconds"] = frame["seconds"].astype(float)
        frame["finished"] = pd.to_datetime(frame["finished"], utc=True)
        for name in self._objectives:
            frame[name] = frame[name].astype(float)
        return frame.set_index("id")

    def generations(self) -> pd.DataFrame:
        """Return the statistics of every finished generation."""
        rows = self._database.execute("SELECT generation, statistics FROM generations ORDER BY generation").fetchall()
        return pd.DataFrame([{"generation": number, **json.loads(text)} for number, text in rows])

    def integrity(self) -> str:
        """Return "ok" or what SQLite finds wrong with the file."""
        return str(self._database.execute("PRAGMA integrity_check").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _quoted(name: str) -> str:
    """Return a column's name as SQL writes it: objectives are called what their author likes."""
    return '"' + name.replace('"', '""') + '"'
