"""A search seen from another terminal."""

import shlex
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evo.report.progress import bar, best, counts, duration, generations, time_left
from evo.status import NodeStatus, RunStatus

REASONS = 5
"""Reasons of failures that are listed."""


def status_view(status: RunStatus) -> RenderableType:
    """Return how a search stands, for the terminal."""
    parts: list[RenderableType] = [Text(headline(status), style="bold")]
    parts.append(bar(generations(status), share(status)))
    parts += [Text(text) for text in (counts(status), best(status), speed(status)) if text]
    parts += [Text(text, no_wrap=True, overflow="ellipsis") for text in failures(status)]
    if status.nodes:
        parts.append(_nodes(status))
    return Group(*parts)


def headline(status: RunStatus) -> str:
    """Return in one line whether it runs, and if not, how to go on."""
    name = str(status.folder)
    if status.claim is not None and status.state == "running":
        return f"{name}: running for {_ago(datetime.fromtimestamp(status.claim.since, UTC))} ({status.claim})"
    if status.state == "finished":
        return f"{name}: finished{_last(status)}; next: evo front {shlex.quote(name)}"
    resume = f"evo resume {shlex.quote(name)}" if status.from_shell else "run the program again that began it"
    why = ""
    if status.stop is not None:
        why, option = f": {status.stop.reason}", status.stop.option
        if option:
            resume += f" --set {option}" if status.from_shell else f", with another {option.partition('=')[0]}"
    return f"{name}: stopped{_last(status)}{why}; to continue: {resume}"


def share(status: RunStatus) -> float:
    """Return how much of the search is done, in [0, 1]."""
    if status.expected:
        return min(1.0, status.individuals / status.expected)
    return status.generation / max(1, status.generations)


def speed(status: RunStatus) -> str:
    """Return evaluations per minute and the time left; "" if it does not run."""
    if status.per_minute is None or status.state != "running":
        return ""
    return f"{status.per_minute:,.1f} evaluations per minute, {time_left(status.seconds_left)}"


def failures(status: RunStatus) -> list[str]:
    """Return the most frequent reasons of failures, one per line."""
    lines = [f"  {count:,} × {reason}" for reason, count in status.reasons[:REASONS]]
    others = sum(count for _, count in status.reasons[REASONS:])
    lines += [f"  {others:,} for other reasons"] if others else []
    return ["failed:", *lines] if lines else []


def _last(status: RunStatus) -> str:
    return "" if status.last is None else f" {_ago(status.last)} ago"


def _ago(moment: datetime) -> str:
    return duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))


def _nodes(status: RunStatus) -> Table:
    table = Table()
    for index, column in enumerate(("node", "evaluations", "mean time", "peak memory of a worker", "last seen")):
        table.add_column(column, justify="right" if index else "left")
    for node in status.nodes:
        table.add_row(node.name or "unknown", *_measured(node))
    return table


def _measured(node: NodeStatus) -> tuple[str, str, str, str]:
    memory = "" if node.worker_memory is None else f"{node.worker_memory / 2**20:,.0f} MiB"
    mean = f"{1000 * node.seconds:,.0f} ms" if node.seconds < 10 else duration(node.seconds)
    return f"{node.evaluations:,}", mean, memory, f"{_ago(node.last)} ago"
