"""What every fidelity of a cascade took, and how well it ranks what the next one makes of it."""

import math
from collections.abc import Sequence

import pandas as pd

from evo.fitness.base import Objective

COLUMNS = {
    "fidelity": "place in the cascade, from 1; the last one's objectives are those of the search",
    "name": "of its fitness",
    "objective": "what it ranks by, its first objective",
    "evaluations": "structures that it has judged, failures and what another run had measured included",
    "failed": "how many of these failed or timed out",
    "promoted": "how many of them the next fidelity has judged; empty for the last",
    "mean_seconds": "wall time of an evaluation by this run",
    "total_seconds": "of all of them",
    "share": "of the time that all fidelities took together, in [0, 1]",
    "compared": "structures that both this fidelity and the next have judged without a failure",
    "spearman": "rank correlation of its objective with the next one's over these, each the better the larger; in [−1, 1]",
    "kendall": "likewise, τ-b",
}
"""Columns of `Run.fidelities`. Correlations are of promoted structures alone, which makes them smaller than of all."""


def fidelity_table(
    fidelities: Sequence[tuple[str, Objective]], history: pd.DataFrame, screenings: pd.DataFrame
) -> pd.DataFrame:
    """Return the table of `COLUMNS`, indexed by `fidelity`.

    Args:
        fidelities: name and first objective of each.
        history, screenings: of the run, as `Run` has them.
    """
    judged = [screenings[screenings["fidelity"] == place] for place in range(1, len(fidelities))]
    last = history[history["tries"] > 0]
    judged.append(last.assign(score=last[fidelities[-1][1].name], seconds=last["seconds"].where(last["reused"] == "")))
    times = [frame["seconds"].sum() for frame in judged]
    rows = []
    for place, (frame, (name, first)) in enumerate(zip(judged, fidelities, strict=True)):
        rows.append(
            {
                "fidelity": place + 1,
                "name": name,
                "objective": first.name,
                "evaluations": len(frame),
                "failed": int((frame["status"] != "ok").sum()),
                "promoted": pd.NA,
                "mean_seconds": frame["seconds"].mean(),
                "total_seconds": times[place],
                "share": times[place] / sum(times) if sum(times) else math.nan,
                "compared": pd.NA,
                "spearman": math.nan,
                "kendall": math.nan,
            }
        )
        if place + 1 < len(judged):
            following = judged[place + 1]
            rows[-1]["promoted"] = int(frame["key"].isin(following["key"]).sum())
            rows[-1] |= _agreement(_scores(frame, first), _scores(following, fidelities[place + 1][1]))
    return (
        pd.DataFrame(rows, columns=list(COLUMNS))
        .astype({"promoted": "Int64", "compared": "Int64"})
        .set_index("fidelity")
    )


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
