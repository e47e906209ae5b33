"""How a search stands, read from its folder by another process: aggregates of one short transaction, executing nothing."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from evo.errors import RunFolderError
from evo.export import training_file
from evo.fitness.base import Objective
from evo.folder import Claim, claim_on
from evo.glance import glance
from evo.history import FORMAT, quoted
from evo.network import COSTS, CostModel
from evo.records import SCREENED
from evo.run import HISTORY, SETTINGS, read_settings
from evo.stopping import Stop

RECENT = timedelta(minutes=5)
"""What the speed of a search is taken over, if `ENOUGH` individuals were settled meanwhile; else all of its time."""
ENOUGH = 10

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class NodeStatus:
    """What one machine has done in this run.

    Attributes:
        name: as the history's column `node` has it.
        evaluations: how many it finished, failures and those of a cascade's earlier fidelities included.
        seconds: their mean wall time.
        worker_memory: the largest peak of a worker's resident memory, in bytes; None if none is known.
        last: when it last finished one.
    """

    name: str
    evaluations: int
    seconds: float
    worker_memory: int | None
    last: datetime


@dataclass(frozen=True)
class RunStatus:
    """How a search stands.

    Attributes:
        folder: the run's.
        state: running, finished, or stopped before its end.
        claim: the process that runs it; None unless running.
        stop: what stopped it, if it is stopped and by a rule; else None.
        from_shell: whether `evo resume` continues it; otherwise the program that began it does.
        generation: finished generations.
        generations: how many there will be.
        individuals: rows of the history.
        expected: how many there will be, an estimate; None before the first generation is done.
        evaluated: evaluations, failures and those of other runs included.
        failed, reused: how many of them failed or timed out, and were measured by another run.
        cached: individuals that were looked up instead.
        screened: structures that a cascade has not promoted.
        per_minute: evaluations per minute lately; None unless running.
        seconds_left: an estimate; None if there is no telling.
        drawn, rejected: genomes drawn within a budget in finished generations, and those of them that exceeded it.
        objective: name of the first objective.
        best: the row with the best value of it: `id`, costs and objectives; None before the first success.
        original: the costs of the unpruned network.
        reasons: why evaluations failed, with their numbers, the most frequent first.
        nodes: the machines, the busiest first.
        last: when the last row was written; None before the first.
    """

    folder: Path
    state: State
    claim: Claim | None
    stop: Stop | None
    from_shell: bool
    generation: int
    generations: int
    individuals: int
    expected: int | None
    evaluated: int
    failed: int
    reused: int
    cached: int
    screened: int
    per_minute: float | None
    seconds_left: float | None
    drawn: int
    rejected: int
    objective: str
    best: Mapping[str, float] | None
    original: Mapping[str, int]
    reasons: tuple[tuple[str, int], ...]
    nodes: tuple[NodeStatus, ...]
    last: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON; times are ISO 8601, UTC."""
        plain = asdict(self) | {"folder": str(self.folder), "last": self.last and self.last.isoformat()}
        plain["nodes"] = [asdict(node) | {"last": node.last.isoformat()} for node in self.nodes]
        plain["reasons"] = [{"reason": reason, "count": count} for reason, count in self.reasons]
        return plain


def status(folder: str | Path) -> RunStatus:
    """Return how the search in `folder` stands.

    Raises:
        RunFolderError: no search has begun there, or the folder is damaged.
    """
    folder = Path(folder)
    read = partial(_read, folder=folder, settings=_settings(folder), claim=claim_on(folder))
    return glance(folder / HISTORY, read)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the content of run.toml, or say what is going on if there is none yet."""
    if not (folder / SETTINGS).exists():
        if training_file(folder).exists():
            raise RunFolderError(f"{folder}: the search has not begun; the network is, or was, being trained for it")
        if (claim := claim_on(folder)) is not None:
            raise RunFolderError(f"{folder}: the search begins at this moment ({claim})")
    return read_settings(folder)


def _read(database: sqlite3.Connection, *, folder: Path, settings: Mapping[str, Any], claim: Claim | None) -> RunStatus:
    """Read all there is to say, in one transaction."""
    query = "SELECT name, value FROM meta WHERE name IN ('format', 'run', 'stop')"  # the state is large
    meta = {name: json.loads(value) for name, value in database.execute(query)}
    if meta.get("format") != FORMAT:
        found = meta.get("format")
        raise RunFolderError(f"{folder / HISTORY}: history format {found}, this version of evo reads {FORMAT}")
    try:
        rounds = int(settings["rounds"])
        objectives = [Objective(name, maximize) for name, maximize in meta["run"]["objectives"]]
        costs = CostModel.from_dict(meta["run"]["costs"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder}: damaged, it lacks what a search writes down first ({error!r})") from None
    done = [json.loads(text) for (text,) in database.execute("SELECT statistics FROM generations ORDER BY generation")]
    asked = [int(statistics["asked"]) for statistics in done]
    finished = len(asked) >= rounds
    if finished:  # it is about to leave
        claim = None
    now = datetime.now(UTC)
    groups = _groups(database, now, claim)
    individuals = sum(group.count for group in groups)
    expected = _expected(asked, rounds, individuals)
    settled, speed = _speed(groups, now, claim)
    screened = sum(group.count for group in groups if group.screened)
    cached = sum(group.count for group in groups if group.cached)
    return RunStatus(
        folder=folder,
        state="finished" if finished else "running" if claim else "stopped",
        claim=claim,
        stop=Stop(**meta["stop"]) if meta.get("stop") and not (finished or claim) else None,
        from_shell="source" in settings,
        generation=len(asked),
        generations=rounds,
        individuals=individuals,
        expected=expected,
        evaluated=individuals - cached - screened,
        failed=sum(group.count for group in groups if group.failed),
        reused=sum(group.count for group in groups if group.reused),
        cached=cached,
        screened=screened,
        per_minute=60 * speed if claim else None,
        seconds_left=(expected - individuals) / settled if expected is not None and settled > 0 else None,
        drawn=sum(int(statistics.get("drawn", 0)) for statistics in done),
        rejected=sum(int(statistics.get("rejected", 0)) for statistics in done),
        objective=objectives[0].name,
        best=_best(database, objectives),
        original={name: int(value) for name, value in costs.costs(costs.sizes).items()},
        reasons=_reasons(groups),
        nodes=_nodes([*groups, *_screenings(database)]),
        last=max((group.last for group in groups), default=None),
    )


@dataclass(frozen=True)
class _Group:
    """Rows that agree in node, cached, failed, reused, screened and reason.

    Attributes:
        last: when the last of them was written.
        spent: evaluations by the fitness, of a cascade by its last fidelity.
        seconds: sum of their times.
        late, lately: how many of them are not older than this search, or its resumption, and than `RECENT` besides.
    """

    last: datetime
    node: str
    cached: bool
    failed: bool
    reused: bool
    screened: bool
    reason: str
    count: int
    spent: int
    seconds: float
    worker_memory: int | None
    late: int
    lately: int


def _groups(database: sqlite3.Connection, now: datetime, claim: Claim | None) -> list[_Group]:
    began = now if claim is None else _moment(claim.since)
    screened = f"status = '{SCREENED}' AND NOT cached"
    reason = f"CASE WHEN {screened} THEN '' ELSE reason END"  # each has another rank
    query = (
        f"SELECT max(finished), node, cached, status NOT IN ('ok', '{SCREENED}') AND NOT cached, reused <> '', {screened}, "
        f"{reason}, count(*), sum(tries > 0), total(seconds), max(worker_memory), sum(finished >= ?), sum(finished >= ?) "
        "FROM evaluations GROUP BY 2, 3, 4, 5, 6, 7"
    )
    rows = database.execute(query, (_text(began), _text(max(began, now - RECENT))))
    return [_Group(datetime.fromisoformat(last), *fields) for last, *fields in rows]


def _screenings(database: sqlite3.Connection) -> list[_Group]:
    """Return what the machines have done for the earlier fidelities of a cascade."""
    query = "SELECT max(finished), node, count(*), total(seconds), max(worker_memory) FROM screenings GROUP BY 2"
    return [
        _Group(datetime.fromisoformat(last), node, False, False, False, False, "", count, count, seconds, memory, 0, 0)
        for last, node, count, seconds, memory in database.execute(query)
    ]


def _expected(asked: list[int], rounds: int, individuals: int) -> int | None:
    """Return how many individuals there will be if generations to come are like those that are done, but for the first."""
    if not asked:
        return None
    usual = asked[1:] or asked
    done = sum(asked)
    return max(individuals, done + round((rounds - len(asked)) * sum(usual) / len(usual)))


def _speed(groups: list[_Group], now: datetime, claim: Claim | None) -> tuple[float, float]:
    """Return individuals settled and evaluations done per second; 0 of a search that does not run."""
    if claim is None:
        return 0.0, 0.0
    span = now - _moment(claim.since)
    recent = span > RECENT and sum(group.lately for group in groups) >= ENOUGH
    seconds = max(1.0, (RECENT if recent else span).total_seconds())
    counts = [(group, group.lately if recent else group.late) for group in groups]
    measured = sum(count for group, count in counts if group.spent and not group.reused)
    return sum(count for _, count in counts) / seconds, measured / seconds


def _best(database: sqlite3.Connection, objectives: list[Objective]) -> dict[str, float] | None:
    """Return id, costs and objectives of the first row with the best first objective."""
    names = list(dict.fromkeys([*COSTS, *(objective.name for objective in objectives)]))
    first, columns = quoted(objectives[0].name), ", ".join(map(quoted, names))
    query = (
        f"SELECT id, {columns} FROM evaluations WHERE status = 'ok' "
        f"ORDER BY {first} {'DESC' if objectives[0].maximize else 'ASC'}, coalesce(turn, id) LIMIT 1"
    )
    found = database.execute(query).fetchone()
    return None if found is None else dict(zip(["id", *names], map(float, found), strict=True))


def _reasons(groups: list[_Group]) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for group in groups:
        if group.failed:
            counts[group.reason] += group.count
    return tuple(counts.most_common())


def _nodes(groups: list[_Group]) -> tuple[NodeStatus, ...]:
    """Return what every machine has done; of evaluations that were lost with their machine, it may be without a name."""
    mine: dict[str, list[_Group]] = {}
    for group in groups:
        if group.spent and not group.reused:
            mine.setdefault(group.node, []).append(group)
    nodes = [
        NodeStatus(
            name=name,
            evaluations=(count := sum(part.spent for part in parts)),
            seconds=sum(part.seconds for part in parts) / count,
            worker_memory=max((part.worker_memory for part in parts if part.worker_memory is not None), default=None),
            last=max(part.last for part in parts),
        )
        for name, parts in mine.items()
    ]
    return tuple(sorted(nodes, key=lambda node: (-node.evaluations, node.name)))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _text(moment: datetime) -> str:
    """Return a time as the column `finished` has it, to be compared as text."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
