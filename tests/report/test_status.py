import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from evo.folder import Claim
from evo.report.status import REASONS, failures, headline, share, speed, status_view
from evo.status import NodeStatus, RunStatus
from evo.stopping import Stop


@pytest.fixture
def running() -> RunStatus:
    now = datetime.now(UTC)
    return RunStatus(
        folder=Path("runs/my search"),
        state="running",
        claim=Claim(4711, "head", (now - timedelta(minutes=3)).timestamp()),
        stop=None,
        from_shell=True,
        generation=5,
        generations=20,
        individuals=1_250,
        expected=5_000,
        evaluated=1_234,
        failed=3,
        reused=12,
        cached=16,
        screened=0,
        per_minute=411.3,
        seconds_left=547,
        drawn=0,
        rejected=0,
        objective="score",
        best={"id": 12.0, "score": 0.9321, "error": 0.012, "params": 100.0},
        original={"params": 3_700},
        reasons=(("took longer than its timeout of 60 s", 2), ("ValueError: no", 1)),
        nodes=(
            NodeStatus("head-1a2b3c4d", 1_000, 0.25, 512 * 2**20, now - timedelta(seconds=2)),
            NodeStatus("", 222, 75, None, now - timedelta(hours=2, minutes=7)),
        ),
        last=now - timedelta(seconds=2),
    )


def shown(status: RunStatus) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(status_view(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_running_search(running: RunStatus) -> None:
    text = shown(running)
    for part in (
        "runs/my search: running for 3 min 00 s (process 4711 on head)",
        "5 of 20 generations",
        "25%",
        "1,234 evaluated, 3 failed, 16 looked up, 12 measured by other runs",
        "best score 0.9321 (id 12), error 1.20%, 100 params (37.0× smaller)",
        "411.3 evaluations per minute, about 9 min 07 s left",
        "  2 × took longer than its timeout of 60 s",
        "head-1a2b3c4d",
        "250 ms",
        "512 MiB",
        "1 min 15 s",
        "2 h 07 min ago",
        "unknown",
    ):
        assert part in text


def test_how_to_go_on(running: RunStatus) -> None:
    stopped = replace(running, state="stopped", claim=None, per_minute=None, seconds_left=None)
    assert headline(stopped) == "runs/my search: stopped 2 s ago; to continue: evo resume 'runs/my search'"
    python = replace(stopped, from_shell=False, last=None)
    assert headline(python) == "runs/my search: stopped; to continue: run the program again that began it"
    assert headline(replace(stopped, state="finished")).endswith("finished 2 s ago; next: evo front 'runs/my search'")
    assert speed(stopped) == ""
    limited = replace(stopped, stop=Stop("max_evaluations", "all of max_evaluations = 1250 are done"))
    assert headline(limited) == (
        "runs/my search: stopped 2 s ago: all of max_evaluations = 1250 are done; to continue: "
        "evo resume 'runs/my search' --set max_evaluations=…"
    )
    limited = replace(limited, from_shell=False)
    assert headline(limited).endswith("run the program again that began it, with another max_evaluations")
    late = replace(stopped, stop=Stop("max_seconds", "the time is up, max_seconds = 60"))
    assert headline(late) == (
        "runs/my search: stopped 2 s ago: the time is up, max_seconds = 60; to continue: evo resume 'runs/my search'"
    )


def test_a_search_without_a_result(running: RunStatus) -> None:
    fresh = replace(
        running,
        generation=0,
        individuals=0,
        expected=None,
        best=None,
        nodes=(),
        reasons=(),
        seconds_left=None,
        per_minute=0,
    )
    assert share(fresh) == 0
    assert share(replace(fresh, generation=5)) == 0.25
    text = shown(fresh)
    assert "no result yet" in text
    assert "0.0 evaluations per minute, time left unknown" in text
    assert "node" not in text
    assert "failed:" not in text


def test_rare_reasons_are_counted_together(running: RunStatus) -> None:
    reasons = tuple((f"reason {number}", 20 - number) for number in range(REASONS + 3))
    lines = failures(replace(running, reasons=reasons))
    assert len(lines) == REASONS + 2
    assert lines[-1] == f"  {sum(count for _, count in reasons[REASONS:])} for other reasons"
    long = shown(replace(running, reasons=(("x" * 500, 1),)))
    assert max(map(len, long.splitlines())) <= 160
