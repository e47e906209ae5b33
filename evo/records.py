"""What a history holds: its rows and what came of them, and the columns of its tables."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from evo.columns import Column

SCREENED = "screened"
"""Status of what no fidelity of a cascade refuses, but one has not promoted: no failure, and no result."""

STATUS = pd.CategoricalDtype(["ok", "failed", "timeout", SCREENED])

COLUMNS = {
    "id": Column("row number, from 0, in the order the algorithm proposed", "int64"),
    "generation": Column("round of the algorithm, from 0", "int64"),
    "operator": Column("what made it: initial, crossover, mutation, random, …", "str"),
    "parents": Column("ids of its parents, as a JSON list", "str"),
    "key": Column("identity of the structure; equal structures are measured once", "str"),
    "status": Column(
        "ok, failed, timeout or, by a cascade, screened: not promoted; objectives are there only if ok", STATUS
    ),
    "cached": Column("true if an earlier row had measured the same structure", "bool"),
    "reason": Column("why it is not ok", "str"),
    "turn": Column(
        "asynchronous search: place, from 0, in the order in which the algorithm learned of results; else empty",
        "Int64",
    ),
    "asked": Column("asynchronous search: individuals proposed by then; else empty", "Int64"),
    "tries": Column(
        "how many tries the evaluation took; 0 if cached, or decided by an earlier fidelity of a cascade", "int64"
    ),
    "seconds": Column("wall time of the last try in its worker; empty if tries is 0", "float64", "s"),
    "node": Column("machine that evaluated it, on Ray with the beginning of the node's id; empty if tries is 0", "str"),
    "worker": Column("process that evaluated it; empty if tries is 0", "Int64"),
    "worker_memory": Column(
        "peak resident memory of that process meanwhile, shared memory included; empty if tries is 0", "Int64", "bytes"
    ),
    "log": Column(
        "the end of what the evaluation printed, with the traceback or last words of a failure; empty if cached", "str"
    ),
    "reused": Column("name of the run that measured it; empty if this one did, or if cached", "str"),
    "finished": Column("when it was recorded", "datetime", "UTC"),
}
"""The columns of a history; after them come every cost and every objective."""

GENERATIONS = {
    "generation": Column("round of the algorithm, from 0", "int64"),
    "asked": Column("individuals that the algorithm asked for", "Int64"),
    "evaluated": Column("evaluations, failures included", "Int64"),
    "failed": Column("evaluations that failed or ran out of time", "Int64"),
    "cached": Column("individuals whose structure had been measured before", "Int64"),
    "screened": Column("of a cascade: structures that it has not promoted", "Int64"),
    "drawn": Column("with a budget: genomes drawn for those asked for", "Int64"),
    "rejected": Column("with a budget: genomes drawn that exceed it", "Int64"),
    "duplicates": Column("of FGA and NSGA2: draws that repeat an earlier genome", "Int64"),
    "mean": Column("mean of the first objective; empty if nothing succeeded, as the next three", "float64"),
    "std": Column("standard deviation of the first objective, that of a population", "float64"),
    "min": Column("smallest value of the first objective", "float64"),
    "max": Column("largest value of the first objective", "float64"),
}
"""The columns of a run's table of generations, those between `cached` and `mean` only if the search counts them; what an
algorithm of one's own counts comes after them.
"""

MEASUREMENTS = ("tries", "seconds", "node", "worker", "worker_memory", "log", "reused", "finished")
"""Columns that differ between two runs of the same search; all others are equal bit for bit."""

SCREENINGS = {
    "key": Column("identity of the structure", "str"),
    "fidelity": Column("place in the cascade of what judged it, from 1", "int64"),
    "status": Column("ok, failed or timeout", STATUS),
    "reason": Column("why it is not ok", "str"),
    "score": Column("first objective of that fidelity; empty unless ok", "float64"),
    "objectives": Column("all of its objectives, as JSON", "str"),
    **{name: COLUMNS[name] for name in ("tries", "seconds", "node", "worker", "worker_memory", "log", "finished")},
}
"""Columns of the evaluations by the fidelities before the last of a cascade: one row per structure and fidelity."""


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
    cached: bool = False
    status: str = ""
    reason: str = ""
    objectives: dict[str, float] = field(default_factory=dict)
    turn: int | None = None
    asked: int | None = None
    tries: int = 0
    seconds: float | None = None
    node: str = ""
    worker: int | None = None
    worker_memory: int | None = None
    log: str = ""
    reused: str = ""
    finished: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the columns of `COLUMNS`, the costs, and the objectives if there are any."""
        return {name: getattr(self, name) for name in COLUMNS} | self.costs | self.objectives

    def settle(self, result: "Result") -> None:
        """Take in what came of it; a cached row leaves out what belongs to the evaluation."""
        self.status, self.reason, self.objectives = result.status, result.reason, result.objectives
        if not self.cached:
            self.tries, self.seconds, self.log = result.tries, result.seconds, result.log
            self.node, self.worker, self.worker_memory = result.node, result.worker, result.worker_memory
            self.reused = result.reused


@dataclass(frozen=True)
class Result:
    """What came of evaluating a structure, as the columns of `COLUMNS` say it; `objectives` hold those that are no costs."""

    key: str
    status: str
    reason: str
    objectives: dict[str, float]
    tries: int
    seconds: float | None
    node: str
    worker: int | None
    worker_memory: int | None
    log: str
    reused: str = ""
