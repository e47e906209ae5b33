import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from evo.errors import RunFolderError
from evo.history import COLUMNS, FORMAT, MEASUREMENTS, History, Row
from evo.network import COSTS

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
        "seconds": 0.5,
        "worker": "host:1",
    }
    return Row(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "history.sqlite", create=["score", "params", ODD])
    yield history
    history.close()


def test_rows_come_back_as_they_were_written(history: History) -> None:
    history.add([row(0), row(1, parents=(0, 0), operator="crossover", cached=True, seconds=None, worker="")])
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
    assert "UTC" in str(frame.dtypes["finished"])
    assert history.blob(1, "genome") == bytes([1, 255])
    assert history.blob(1, "structure") == b"\x0f"


def test_outcomes_leave_costs_out(history: History) -> None:
    history.add([row(1), row(0, status="timeout", reason="late", objectives={})])
    assert list(history.outcomes()) == [
        (0, "key0", "timeout", "late", {}),
        (1, "key1", "ok", "", {"score": 0.1, ODD: 1.0}),
    ]


def test_floats_survive_bit_for_bit(history: History) -> None:
    value = 0.1 + 0.2 + 1e-17
    history.add([row(0, objectives={"score": value, ODD: 5e-324})])
    assert history.frame()[["score", ODD]].to_numpy().tolist() == [[value, 5e-324]]
    assert next(iter(history.outcomes()))[4] == {"score": value, ODD: 5e-324}


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
