"""What every fidelity of a cascade took, and how well it ranks what the next one makes of it."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from evo.columns import Column, table
from evo.fitness.base import Objective

FIDELITIES = {
    "fidelity": Column("place in the cascade, from 1; the last one's objectives are those of the search", "int64"),
    "name": Column("of its fitness", "str"),
    "objective": Column("what it ranks by, its first objective", "str"),
    "evaluations": Column(
        "structures that it has judged, failures and what another run had measured included", "int64"
    ),
    "failed": Column("how many of these failed or timed out", "int64"),
    "promoted": Column("how many of them the next fidelity has judged; empty for the last", "Int64"),
    "mean_seconds": Column("wall time of an evaluation by this run", "float64", "s"),
    "total_seconds": Column("of all of them", "float64", "s"),
    "share": Column("of the time that all fidelities took together, in [0, 1]", "float64"),
    "compared": Column("structures that both this fidelity and the next have judged without a failure", "Int64"),
    "spearman": Column(
        "rank correlation of its objective with the next one's over these, each the better the larger; in [−1, 1]",
        "float64",
    ),
    "kendall": Column("likewise, τ-b", "float64"),
}
"""Columns of `Run.fidelities`. Correlations are of promoted structures alone, which makes them smaller than of all."""


def fidelity_table(
    fidelities: Sequence[tuple[str, Objective]], history: pd.DataFrame, screenings: pd.DataFrame
) -> pd.DataFrame:
    """Return the table of `FIDELITIES`, indexed by `fidelity`.

    Args:
        fidelities: name and first objective of each.
        history, screenings: of the run, as `Run` has them.
    """
    judged = [screenings[screenings["fidelity"] == place] for place in range(1, len(fidelities))]
    last = history[history["tries"] > 0]
    judged.append(last.assign(score=last[fidelities[-1][1].name], seconds=last["seconds"].where(last["reused"] == "")))
    times = [frame["seconds"].sum() for frame in judged]
    rows: list[dict[str, Any]] = []
    for place, (frame, (name, first)) in enumerate(zip(judged, fidelities, strict=True)):
        rows.append(
            {
                "fidelity": place + 1,
                "name": name,
                "objective": first.name,
                "evaluations": len(frame),
                "failed": int((frame["status"] != "ok").sum()),
                "promoted": None,
                "mean_seconds": frame["seconds"].mean(),
                "total_seconds": times[place],
                "share": times[place] / sum(times) if sum(times) else math.nan,
                "compared": None,
                "spearman": math.nan,
                "kendall": math.nan,
            }
        )
        if place + 1 < len(judged):
            following = judged[place + 1]
            rows[-1]["promoted"] = int(frame["key"].isin(following["key"]).sum())
            rows[-1] |= _agreement(_scores(frame, first), _scores(following, fidelities[place + 1][1]))
    return table({name: [row[name] for row in rows] for name in FIDELITIES}, FIDELITIES).set_index("fidelity")


def _scores(frame: pd.DataFrame, first: Objective) -> "pd.Series[float]":
    """Return by structure what it was judged by, the better the larger."""
    good = frame[frame["status"] == "ok"]
    return good.set_index("key")["score"] * first.weight


def _agreement(here: "pd.Series[float]", there: "pd.Series[float]") -> dict[str, float]:
    both = pd.concat([here, there], axis=1, join="inner", keys=["here", "there"])
    found: dict[str, float] = {"compared": len(both)}
    if both.nunique().min() > 1:
        for method in ("spearman", "kendall"):
            found[method] = float(both["here"].corr(both["there"], method=method))
    return found
