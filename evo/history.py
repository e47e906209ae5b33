"""The history of a run: one row per individual in an SQLite file, written as results come in."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from evo.columns import Column, table
from evo.errors import RunFolderError
from evo.glance import connect
from evo.network.costs import COSTS, UNITS
from evo.records import COLUMNS, GENERATIONS, SCREENED, SCREENINGS, Result, Row

FORMAT = 6

_SPECIAL = ("screened", "drawn", "rejected", "duplicates")
"""Those that only some searches count."""

_TYPES = {
    "id": "INTEGER PRIMARY KEY",
    **dict.fromkeys(("generation", "cached", "turn", "asked", "tries", "worker", "worker_memory"), "INTEGER"),
    **{"fidelity": "INTEGER", "seconds": "REAL", "score": "REAL"},
}

_MOST_VARIABLES = 500
"""Keys per query: SQLite takes a limited number of parameters."""

_PATIENCE = 1000
"""Milliseconds that closing waits for a reader to end its look."""


_RESULT = ("key", "status", "reason", "tries", "seconds", "node", "worker", "worker_memory", "log", "reused")


class History:
    """The SQLite file of one run.

    What has finished is written in one transaction, before the search moves on; a reader never blocks the search, nor the
    search a reader (WAL). What SQLite cannot do is a RunFolderError, of reading too: the disk is full or fails, another
    program holds the file, it is damaged. What was written stays.
    """

    def __init__(self, path: Path, *, create: Sequence[str] | None = None, readonly: bool = False) -> None:
        """Open `path`.

        Args:
            path: the file.
            create: names of objectives, to make the file first.
            readonly: nothing can be written, and a large file is not searched for damage; see `evo.glance.connect`.

        Raises:
            RunFolderError: the file is missing, damaged, or not a history of this version.
        """
        self.path = path
        if create is None and not path.is_file():
            raise RunFolderError(f"{path}: there is no history here; a run folder holds run.toml and history.sqlite")
        self._database = _opened(path, "ro" if readonly else "rw" if create is None else "rwc")
        try:
            with _told(path):
                if not readonly:
                    self._database.execute("PRAGMA synchronous=FULL")
                if create is not None:
                    self._create(create)
                self._check(thoroughly=not readonly)
                names = [row[1] for row in self._database.execute("PRAGMA table_info(evaluations)")]
        except BaseException:
            self._database.close()
            raise
        fixed = {*COLUMNS, *COSTS, "genome", "structure"}
        self._objectives = [name for name in names if name not in fixed]
        self._names = names

    def _create(self, objectives: Sequence[str]) -> None:
        columns = [f"{name} {_TYPES.get(name, 'TEXT')}" for name in COLUMNS] + ["genome BLOB", "structure BLOB"]
        columns += [f"{name} INTEGER" for name in COSTS]
        columns += [f"{quoted(name)} REAL" for name in objectives if name not in COSTS]
        self._database.execute("PRAGMA journal_mode=WAL")
        with self._transaction():
            self._database.execute(f"CREATE TABLE IF NOT EXISTS evaluations ({', '.join(columns)})")
            self._database.execute("CREATE INDEX IF NOT EXISTS by_key ON evaluations (key) WHERE NOT cached")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS generations (generation INTEGER PRIMARY KEY, statistics TEXT)"
            )
            screenings = ", ".join(f"{name} {_TYPES.get(name, 'TEXT')}" for name in SCREENINGS)
            self._database.execute(f"CREATE TABLE IF NOT EXISTS screenings ({screenings}, PRIMARY KEY (key, fidelity))")
            self._database.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT)")
        if self.meta("format") is None:
            self.set_meta("format", FORMAT)

    def _check(self, *, thoroughly: bool) -> None:
        found = self.meta("format")
        if found != FORMAT:
            raise RunFolderError(f"{self.path}: history format {found}, this version of evo reads {FORMAT}")
        if thoroughly:
            damage = str(self._database.execute("PRAGMA quick_check(1)").fetchone()[0])
            if damage != "ok":
                raise sqlite3.DatabaseError(" ".join(damage.split()))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _told(self.path):
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors have rolled it back already
                    self._database.execute("ROLLBACK")
                raise

    def _query(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows that a query finds."""
        with _told(self.path):
            yield from self._database.execute(query, values)

    def _first(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row that a query finds, None if there is none."""
        return next(self._query(query, values), None)

    @staticmethod
    def begun(path: Path) -> bool:
        """Return whether `path` holds rows; not so what a search leaves that is killed while it sets up its folder.

        Raises:
            RunFolderError: it is something else, or cannot be opened.
        """
        if not path.exists():
            return False
        with closing(_opened(path, "rw")) as database, _told(path):
            tables = {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return bool(tables) and bool(database.execute("SELECT count(*) FROM evaluations").fetchone()[0])

    def meta(self, name: str) -> Any:
        """Return a stored value, None if there is none."""
        row = self._first("SELECT value FROM meta WHERE name = ?", (name,))
        return None if row is None else json.loads(row[0])

    def set_meta(self, name: str, value: Any) -> None:
        """Store a JSON value."""
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def add(self, rows: Iterable[Row]) -> None:
        """Note when `rows` have `finished`, now, and write them in one transaction; they are on disk when this returns."""
        now, records = _now(), []
        for row in rows:
            row.finished = now
            records.append(self._record(row))
        if not records:
            return
        names = ", ".join(map(quoted, self._names))
        marks = ", ".join("?" * len(self._names))
        with self._transaction():
            self._database.executemany(f"INSERT INTO evaluations ({names}) VALUES ({marks})", records)

    def screen(self, fidelity: int, results: Iterable["Result"]) -> None:
        """Write what a fidelity before the last, of this place from 1, has come to, in one transaction; as `add` does."""
        records = []
        for result in results:
            score = next(iter(result.objectives.values()), None)
            values = {**vars(result), "fidelity": fidelity, "score": score, "finished": _now()}
            values["objectives"] = json.dumps(result.objectives)
            records.append([values[name] for name in SCREENINGS])
        marks = ", ".join("?" * len(SCREENINGS))
        with self._transaction():
            self._database.executemany(f"INSERT INTO screenings ({', '.join(SCREENINGS)}) VALUES ({marks})", records)

    def screened(self, fidelity: int, keys: Iterable[str]) -> dict[str, "Result"]:
        """Return, by structure, what `screen` has written of those of `keys` for a fidelity."""
        found: dict[str, Result] = {}
        columns = [name for name in _RESULT if name != "reused"]
        for some, marks in _parts(keys):
            query = f"SELECT {', '.join(columns)}, objectives FROM screenings WHERE fidelity = ? AND key IN ({marks})"
            for *fields, objectives in self._query(query, (fidelity, *some)):
                result = Result(**dict(zip(columns, fields, strict=True)), objectives=json.loads(objectives))
                found[result.key] = result
        return found

    def screenings(self) -> pd.DataFrame:
        """Return all that `screen` has written as a table, with the columns of `SCREENINGS`, in the order of finishing."""
        rows = self._query(f"SELECT {', '.join(SCREENINGS)} FROM screenings ORDER BY rowid")
        return _tabulated(list(rows), SCREENINGS)

    def _record(self, row: Row) -> list[Any]:
        values = vars(row) | row.costs | row.objectives
        values["parents"] = json.dumps(row.parents)
        if row.structure == row.genome:  # as for filter bits: large genomes are not written twice
            values["structure"] = None
        return [values.get(name) for name in self._names]

    def finish_generation(self, generation: int, statistics: dict[str, float], state: dict[str, Any]) -> None:
        """Record a generation's statistics and the algorithm's state after it, in one transaction."""
        with self._transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO generations VALUES (?, ?)", (generation, json.dumps(statistics))
            )
            self._database.execute("INSERT OR REPLACE INTO meta VALUES ('state', ?)", (json.dumps(state),))

    def results(self, keys: Iterable[str], *, before: int) -> dict[str, Result]:
        """Return, by structure, what came of those of `keys` that rows with an id less than `before` have measured."""
        found: dict[str, Result] = {}
        for some, marks in _parts(keys):
            measured = f"key IN ({marks}) AND NOT cached AND status <> '{SCREENED}' AND id < ?"
            found |= {result.key: result for _, _, _, result in self._read(measured, (*some, before))}
        return found

    def since(self, column: str, first: int) -> Iterator[tuple[int, int | None, int | None, Result]]:
        """Yield id, turn, asked and result of the rows whose `column`, id or turn, is at least `first`, in its order."""
        return self._read(f"{column} >= ? ORDER BY {column}", (first,))

    def _read(self, where: str, values: Sequence[Any]) -> Iterator[tuple[int, int | None, int | None, Result]]:
        columns = ", ".join(["id", "turn", "asked", *_RESULT, *map(quoted, self._objectives)])
        query = f"SELECT {columns} FROM evaluations WHERE {where}"
        for number, turn, asked, *rest in self._query(query, values):
            fields, measured = rest[: len(_RESULT)], rest[len(_RESULT) :]
            result = dict(zip(_RESULT, fields, strict=True))
            objectives = dict(zip(self._objectives, measured, strict=True)) if result["status"] == "ok" else {}
            yield number, turn, asked, Result(**result, objectives=objectives)

    def counts(self, column: str, before: int) -> dict[str, int]:
        """Return the counts that `evo.ledger.Ledger` keeps, of the rows with a `column`, id or turn, less than this."""
        kinds = {
            "evaluated": f"status <> '{SCREENED}' AND NOT cached",
            "failed": f"status NOT IN ('ok', '{SCREENED}') AND NOT cached",
            "cached": "cached",
            "reused": "reused <> ''",
            "screened": f"status = '{SCREENED}' AND NOT cached",
            "spent": "tries > 0",
        }
        sums = ", ".join(f"coalesce(sum({condition}), 0)" for condition in kinds.values())
        (found,) = self._query(f"SELECT {sums} FROM evaluations WHERE {column} < ?", (before,))
        return dict(zip(kinds, found, strict=True))

    def reason(self) -> str:
        """Return why the first evaluation failed that did; "" if none has."""
        query = f"SELECT reason FROM evaluations WHERE status NOT IN ('ok', '{SCREENED}') ORDER BY id LIMIT 1"
        found = self._first(query)
        return "" if found is None else str(found[0])

    def best(self, objective: str, maximize: bool, column: str, before: int) -> dict[str, float] | None:
        """Return id, costs and objectives of the first of those rows with the best `objective`; None if there is none."""
        names = [*COSTS, *self._objectives]
        query = (
            f"SELECT id, {', '.join(map(quoted, names))} FROM evaluations WHERE {column} < ? AND status = 'ok' "
            f"ORDER BY {quoted(objective)} {'DESC' if maximize else 'ASC'}, {column} LIMIT 1"
        )
        found = self._first(query, (before,))
        return None if found is None else dict(zip(["id", *names], map(float, found), strict=True))

    def blob(self, row: int, name: str) -> bytes:
        """Return the packed `genome` or `structure` of a row.

        Raises:
            RunFolderError: there is no such row.
        """
        column = "genome" if name == "genome" else "coalesce(structure, genome)"
        query = f"SELECT {column} FROM evaluations WHERE id = ?"
        found = self._first(query, (row,))
        if found is None:
            ((last,),) = self._query("SELECT max(id) FROM evaluations")
            raise RunFolderError(f"{self.path.parent}: there is no row {row}; ids go from 0 to {last}")
        return bytes(found[0])

    def structures(self) -> Iterator[list[bytes]]:
        """Yield the packed structures of all rows in the order of their ids, a thousand at a time."""
        with _told(self.path):
            found = self._database.execute("SELECT coalesce(structure, genome) FROM evaluations ORDER BY id")
            while block := found.fetchmany(1000):
                yield [bytes(structure) for (structure,) in block]

    def frame(self) -> pd.DataFrame:
        """Return all rows as a table, indexed by id."""
        columns = {
            **COLUMNS,
            **{name: Column(meaning, "int64", UNITS[name]) for name, meaning in COSTS.items()},
            **{name: Column("objective; empty unless ok", "float64") for name in self._objectives},
        }
        rows = self._query(f"SELECT {', '.join(map(quoted, columns))} FROM evaluations ORDER BY id")
        return _tabulated(list(rows), columns).set_index("id")

    def generations(self) -> pd.DataFrame:
        """Return the statistics of every finished generation."""
        rows = self._query("SELECT generation, statistics FROM generations ORDER BY generation")
        records = [{"generation": number, **json.loads(text)} for number, text in rows]
        counted = dict.fromkeys(name for record in records for name in record)
        own = {name: Column("counted by the algorithm", "float64") for name in counted if name not in GENERATIONS}
        columns = {**GENERATIONS, **own}
        listed = [name for name in columns if name in counted or name not in _SPECIAL]
        return table({name: [record.get(name) for record in records] for name in listed}, columns)

    def integrity(self) -> str:
        """Return "ok" or what SQLite finds wrong with the file."""
        return str(self._database.execute("PRAGMA integrity_check").fetchone()[0])

    def close(self) -> None:
        """Close the file; if something was written, all of it is in the file itself, even while a reader has it open."""
        with suppress(sqlite3.Error):  # closed before; or it stays in the log, which is part of the history
            if self._database.total_changes:
                self._database.execute(f"PRAGMA busy_timeout={_PATIENCE}")
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._database.close()


def _now() -> str:
    """Return this moment as it is written, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _tabulated(rows: Sequence[tuple[Any, ...]], columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return what a query found as a table of these columns."""
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    return table(dict(zip(columns, values, strict=True)), columns)


def _parts(keys: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """Yield as many keys at a time as a query takes, with the marks that stand for them there."""
    wanted = list(keys)
    for start in range(0, len(wanted), _MOST_VARIABLES):
        some = wanted[start : start + _MOST_VARIABLES]
        yield some, ", ".join("?" * len(some))


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file in a mode of SQLite's: ro, rw or rwc."""
    address = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        return connect(path) if mode == "ro" else sqlite3.connect(address, isolation_level=None, timeout=30, uri=True)
    except sqlite3.Error as error:
        raise RunFolderError(f"{path}: cannot be opened ({error})") from error


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in a RunFolderError what SQLite cannot do with the file; mistakes in how it is used stay what they are."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: sqlite3.DatabaseError) -> RunFolderError:
    """Return what to raise: SQLite cannot write the file, somebody holds it, or it is no history."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RunFolderError(
            f"{path}: another program holds it ({error}); close that, then `evo resume`, or search again"
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return RunFolderError(
            f"{path}: cannot be written ({error}); what it holds is whole: free some space, and the same search, or "
            "`evo resume`, goes on from it"
        )
    return RunFolderError(f"{path}: damaged, or not a history of evo ({error})")


def quoted(name: str) -> str:
    """Return a column's name as SQL writes it: objectives are called what their author likes."""
    return '"' + name.replace('"', '""') + '"'
