"""A cluster of three nodes on which everything fails that can, and the same search where nothing does."""

import collections
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("search_among_faults.py")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}  # everybody's places stay as they are

Start = Callable[..., "Any"]
Rows = Callable[[Path], list[dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.parametrize(("generations", "seed"), [(3, 1), (12, 2), (12, 3)])
def test_whatever_happens_the_history_is_the_same(
    generations: int, seed: int, tmp_path: Path, start: Start, rows: Rows
) -> None:
    """Nodes are lost and join, workers are killed, candidates raise, hang, crash and hoard memory, once or always."""
    quiet, disturbed = tmp_path / "quiet" / "run", tmp_path / "disturbed" / "run"
    processes = [
        start(quiet, generations, script=SCRIPT),
        start(disturbed, generations, seed, script=SCRIPT, **TOKEN),
    ]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert rows(disturbed) == rows(quiet)

    joined = outputs[1].rpartition("joined:")[2].split()
    measured = measurements(disturbed)
    assert joined
    assert {node.rpartition("-")[2] for node, _ in measured} & set(joined), "a node that joined was not used"
    assert len({node for node, _ in measured if node}) > 3
    assert max(tries for _, tries in measured) > 1
    reasons = collections.Counter(re.split(r" \(|, (?!e)", row["reason"])[0] for row in rows(quiet))
    assert {
        "ArithmeticError: as it should",
        "it ran out of memory",
        "its worker process died",
        "objective 'score' is nan, expected a finite number",
        "took longer than its timeout of 4 s",
    } <= reasons.keys()


def measurements(folder: Path) -> list[tuple[str, int]]:
    """Return node and tries of every evaluation that took place."""
    with closing(sqlite3.connect(folder / "history.sqlite")) as database:
        return list(database.execute("SELECT node, tries FROM evaluations WHERE tries > 0"))
