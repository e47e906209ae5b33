import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from evo.errors import RunFolderError
from evo.glance import has_log
from evo.history import FORMAT, History
from evo.network import COSTS
from evo.records import COLUMNS, MEASUREMENTS, SCREENINGS, Result, Row

ODD = 'my "odd" objective; DROP TABLE evaluations'


def row(number: int, **changes: object) -> Row:
    values: dict[str, object] = {
        "id": number,
        "generation": 0,
        "operator": "initial",
        "parents": (),
        "genome": bytes([number, 255]),
        "structure": b"\x0f",
        "key": f"key{number}",
        "costs": dict.fromkeys(COSTS, 10 + number),
        "status": "ok",
        "objectives": {"score": 0.1 * number, "params": 10.0 + number, ODD: 1.0},
        "tries": 1,
        "seconds": 0.5,
        "node": "host",
        "worker": 17,
        "worker_memory": 2**31,
        "log": "printed",
    }
    return Row(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "history.sqlite", create=["score", "params", ODD])
    yield history
    history.close()


def test_rows_come_back_as_they_were_written(history: History) -> None:
    history.add([row(0), row(1, parents=(0, 0), operator="crossover", cached=True, seconds=None, worker=None)])
    history.add([row(2, status="failed", reason="ValueError: no\u2026", objectives={}, generation=1)])
    frame = history.frame()
    assert frame.index.tolist() == [0, 1, 2]
    assert frame.index.name == "id"
    assert set(frame.columns) == {*COLUMNS, *COSTS, "score", ODD} - {"id"}
    assert frame["operator"].tolist() == ["initial", "crossover", "initial"]
    assert frame["parents"].tolist() == ["[]", "[0, 0]", "[]"]
    assert frame["cached"].tolist() == [False, True, False]
    assert frame["params"].tolist() == [10, 11, 12]
    assert frame["score"].tolist()[:2] == [0.0, 0.1]
    assert frame.loc[2, ["score", ODD]].isna().all()
    assert (frame.loc[2, "status"], frame.loc[2, "reason"]) == ("failed", "ValueError: no\u2026")
    assert frame["seconds"].isna().tolist() == [False, True, False]
    assert frame["worker"].tolist() == [17, pd.NA, 17]
    assert frame["worker_memory"].tolist() == [2**31] * 3
    assert frame["turn"].isna().all()
    assert "UTC" in str(frame.dtypes["finished"])
    assert history.blob(1, "genome") == bytes([1, 255])
    assert history.blob(1, "structure") == b"\x0f"
    history.add([row(3, structure=bytes([3, 255]))])
    assert history.blob(3, "structure") == history.blob(3, "genome") == bytes([3, 255])


def test_results_leave_costs_out(history: History) -> None:
    history.add([row(1, turn=0, asked=2), row(0, turn=1, asked=2, status="timeout", reason="late", objectives={})])
    late = Result("key0", "timeout", "late", {}, 1, 0.5, "host", 17, 2**31, "printed")
    good = Result("key1", "ok", "", {"score": 0.1, ODD: 1.0}, 1, 0.5, "host", 17, 2**31, "printed")
    assert list(history.since("id", 0)) == [(0, 1, 2, late), (1, 0, 2, good)]
    assert list(history.since("turn", 0)) == [(1, 0, 2, good), (0, 1, 2, late)]
    assert list(history.since("turn", 1)) == [(0, 1, 2, late)]


def test_results_are_those_of_the_rows_that_measured_them(history: History) -> None:
    history.add([row(0), row(1, key="key0", cached=True, seconds=None), row(2), row(3, status="failed", reason="no")])
    assert {*history.results([f"key{number}" for number in range(2000)], before=3)} == {"key0", "key2"}
    assert history.results(["key0"], before=3)["key0"].seconds == 0.5
    assert history.results(["key3"], before=4)["key3"].status == "failed"
    assert history.results([], before=4) == {}


def test_what_was_screened_out_is_not_measured(history: History) -> None:
    history.add([row(0, status="screened", reason="rank 2 of 2", tries=0, objectives={}), row(1, key="key0")])
    assert history.results(["key0"], before=1) == {}
    assert history.results(["key0"], before=2)["key0"].status == "ok"
    assert history.reason() == ""


def test_screenings_come_back_as_they_were_written(history: History) -> None:
    good = Result("a", "ok", "", {"score": 0.1 + 0.2, "params": 3.0}, 2, 0.5, "host", 17, 2**31, "said")
    bad = Result("b", "timeout", "late", {}, 1, 9.0, "host", 18, None, "")
    history.screen(1, [good, bad])
    history.screen(2, [good])
    assert history.screened(1, ["a", "b", "c", *map(str, range(2000))]) == {"a": good, "b": bad}
    assert history.screened(2, ["b"]) == {}
    frame = history.screenings()
    assert list(frame.columns) == list(SCREENINGS)
    assert frame[["key", "fidelity", "status"]].to_numpy().tolist() == [
        ["a", 1, "ok"],
        ["b", 1, "timeout"],
        ["a", 2, "ok"],
    ]
    assert frame["score"].tolist()[0] == 0.1 + 0.2
    assert frame["score"].isna().tolist() == [False, True, False]
    with pytest.raises(sqlite3.IntegrityError):
        history.screen(1, [good])
    assert len(history.screenings()) == 3


def test_what_is_there_is_counted(history: History) -> None:
    assert set(history.counts("id", 9).values()) == {0}
    assert history.best("score", True, "id", 9) is None
    assert history.reason() == ""
    failed = row(3, status="failed", reason="no", objectives={})
    again = row(2, key="key1", cached=True, tries=0, seconds=None)
    history.add([row(0), row(1), again, failed, row(4, reused="other")])
    history.add([row(5, status="screened", tries=0, objectives={}), row(6, status="failed", tries=0, objectives={})])
    names = ("evaluated", "failed", "cached", "reused", "screened", "spent")
    assert history.counts("id", 7) == dict(zip(names, (5, 2, 1, 1, 1, 4), strict=True))
    assert history.counts("id", 5) == dict(zip(names, (4, 1, 1, 1, 0, 4), strict=True))
    assert history.counts("id", 3) == dict(zip(names, (2, 0, 1, 0, 0, 2), strict=True))
    best = history.best("score", True, "id", 3)
    assert best is not None
    assert (best["id"], best["score"], best["params"]) == (2.0, 0.2, 12.0)
    least = history.best("params", False, "id", 5)
    assert least is not None
    assert least["id"] == 0.0
    assert history.reason() == "no"


def test_a_reader_writes_nothing(history: History) -> None:
    history.add([row(0)])
    reader = History(history.path, readonly=True)
    with pytest.raises(RunFolderError, match="cannot be written"):
        reader.add([row(1)])
    history.add([row(1)])
    assert {*reader.results(["key0", "key1"], before=2)} == {"key0", "key1"}
    reader.close()


def test_what_a_search_wrote_is_in_the_file_although_a_reader_has_it_open(history: History) -> None:
    history.add([row(0)])
    reader = History(history.path, readonly=True)
    assert len(reader.frame()) == 1
    history.close()
    history.close()
    log = history.path.with_name("history.sqlite-wal")
    assert log.stat().st_size == 0
    assert not has_log(history.path)
    copy = history.path.with_name("copy.sqlite")
    copy.write_bytes(history.path.read_bytes())
    for path in (history.path, copy):
        other = History(path, readonly=True)
        assert len(other.frame()) == 1
        other.close()
    reader.close()


def test_a_file_that_another_program_holds_is_not_called_damaged(history: History) -> None:
    history.add([row(0), row(1)])
    rows = history.since("id", 0)
    next(rows)  # what is read and what would be written are of two moments
    with closing(sqlite3.connect(history.path)) as other, other:
        other.execute("UPDATE evaluations SET log = 'mine'")
    with pytest.raises(
        RunFolderError, match=r"another program holds it \(database is locked\); close that, then `evo re"
    ):
        history.add([row(2)])
    rows.close()  # type: ignore[attr-defined]
    history.add([row(2)])
    assert history.frame().index.tolist() == [0, 1, 2]


def test_damage_that_only_reading_meets_is_said(history: History) -> None:
    history.add([row(0)])
    with closing(sqlite3.connect(history.path)) as other, other:
        other.execute("DROP TABLE evaluations")
        other.execute("DROP TABLE meta")
    reads: list[Callable[[], object]] = [
        lambda: history.results(["key0"], before=1),
        lambda: list(history.since("id", 0)),
        lambda: history.counts("id", 1),
        lambda: history.best("score", True, "id", 1),
        lambda: history.reason(),
        lambda: history.meta("state"),
        lambda: history.add([row(1)]),
    ]
    for read in reads:
        with pytest.raises(RunFolderError, match=r"history\.sqlite: damaged, or not a history of evo \(no such table"):
            read()


def test_a_malformed_file_is_said_by_what_writes_too(history: History) -> None:
    with closing(sqlite3.connect(history.path)) as other, other:
        other.execute("PRAGMA writable_schema=ON")
        other.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE' WHERE name = 'evaluations'")
        other.execute("PRAGMA schema_version=1000")
    with pytest.raises(RunFolderError, match=r"history\.sqlite: damaged, or not a history of evo \(malformed"):
        history.add([row(0)])


def test_floats_survive_bit_for_bit(history: History) -> None:
    value = 0.1 + 0.2 + 1e-17
    history.add([row(0, objectives={"score": value, ODD: 5e-324})])
    assert history.frame()[["score", ODD]].to_numpy().tolist() == [[value, 5e-324]]
    assert next(iter(history.since("id", 0)))[3].objectives == {"score": value, ODD: 5e-324}


def test_rows_that_belong_together_are_written_together_or_not_at_all(history: History) -> None:
    history.add([row(0)])
    with pytest.raises(sqlite3.IntegrityError):
        history.add([row(1), row(0)])
    assert history.frame().index.tolist() == [0]
    history.add([row(1)])
    assert history.frame().index.tolist() == [0, 1]


def test_a_reader_sees_what_is_written_while_the_search_goes_on(history: History) -> None:
    reader = History(history.path)
    history.add([row(0)])
    assert len(reader.frame()) == 1
    history.add([row(1)])
    assert len(reader.frame()) == 2
    reader.close()


def test_generations_and_state_are_stored_together(history: History) -> None:
    assert history.meta("state") is None
    history.finish_generation(0, {"mean": 0.5, "asked": 3}, {"rng": 2**127})
    history.finish_generation(1, {"asked": 0}, {"rng": 1})
    history.finish_generation(1, {"asked": 4}, {"rng": 2**126})
    assert history.meta("state") == {"rng": 2**126}
    frame = history.generations()
    assert frame["generation"].tolist() == [0, 1]
    assert frame["asked"].tolist() == [3, 4]
    assert frame["mean"].isna().tolist() == [False, True]


def test_everything_is_there_after_opening_again(history: History) -> None:
    history.add([row(0)])
    history.set_meta("run", {"a": [1]})
    frame = history.frame()
    history.close()
    again = History(history.path)
    assert again.frame().equals(frame)
    assert again.meta("run") == {"a": [1]}
    assert again.integrity() == "ok"
    again.close()


def test_an_empty_history_is_an_empty_table(history: History) -> None:
    frame = history.frame()
    assert len(frame) == 0
    assert set(MEASUREMENTS) < set(frame.columns)
    assert len(history.generations()) == 0


def test_an_unknown_row_is_refused_with_those_there_are(history: History) -> None:
    history.add([row(0), row(1)])
    with pytest.raises(RunFolderError, match="there is no row 7; ids go from 0 to 1"):
        history.blob(7, "structure")


def test_what_is_no_history_is_refused(tmp_path: Path, history: History) -> None:
    with pytest.raises(RunFolderError, match="there is no history here"):
        History(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("hello " * 100)
    with pytest.raises(RunFolderError, match="damaged, or not a history of evo"):
        History(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE cats (name TEXT)")
    other.close()
    with pytest.raises(RunFolderError, match="damaged, or not a history of evo"):
        History(tmp_path / "other.sqlite")
    history.set_meta("format", FORMAT + 1)
    history.close()
    with pytest.raises(RunFolderError, match=f"history format {FORMAT + 1}, this version of evo reads {FORMAT}"):
        History(history.path)
