"""How a search got on: the best so far, and the hypervolume, after every evaluation."""

import numpy as np
import pandas as pd

from evo.columns import Column, described
from evo.front import Box, Criteria
from evo.records import SCREENED

CONVERGENCE = {
    "evaluations": Column(
        "evaluations so far, failures included, look-ups and what a cascade has screened not", "int64"
    ),
    "id": Column("row of the history that was evaluated", "int64"),
    "generation": Column("round of the algorithm, from 0", "int64"),
    "hypervolume": Column(
        "share of the space of objectives, between a worst and a best point, that the front dominates; more is better",
        "float64",
    ),
    "front": Column("individuals on the front", "int64"),
}
"""The columns of `convergence`; the best so far of every objective, `best_…`, comes before the hypervolume."""


def evaluated(history: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a history that count as evaluations: no look-ups, nor what a cascade has not promoted."""
    return history[~history["cached"] & (history["status"] != SCREENED)]


def convergence(history: pd.DataFrame, criteria: Criteria, box: Box) -> pd.DataFrame:
    """Return a row per evaluation, in the order in which the algorithm learned of them: what it had found by then.

    The best values are empty, and the hypervolume is 0, until something has succeeded.

    Args:
        history: of a run.
        criteria: objectives and costs.
        box: that the hypervolume is taken in, see `Run.hypervolume`.
    """
    # By id, if not asynchronous: then no row has a turn.
    rows = evaluated(history).sort_values("turn", kind="stable")
    frame = pd.DataFrame(
        {"evaluations": np.arange(1, len(rows) + 1), "id": rows.index, "generation": rows["generation"]}
    )
    succeeded = rows["status"] == "ok"
    columns = dict(CONVERGENCE)
    for name, most in criteria.maximized.items():
        values = rows[name].astype(float).where(succeeded)
        frame[f"best_{name}"] = (values.cummax() if most else values.cummin()).ffill()
        columns[f"best_{name}"] = Column(f"{'largest' if most else 'smallest'} {name} so far", "float64")
    archive, grown = box.archive(), []
    points = box.scaled(criteria.minimised(rows[criteria.names].to_numpy(dtype=float)))
    for point, fine in zip(points, succeeded, strict=True):
        if fine:
            archive.add(point)
        grown.append((archive.hypervolume, len(archive.values)))
    frame[["hypervolume", "front"]] = pd.DataFrame(grown, columns=["hypervolume", "front"], index=frame.index)
    return described(frame.reset_index(drop=True), columns)
