"""How a search got on: the best so far, and the hypervolume, after every evaluation."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evo.columns import Column, described
from evo.errors import RunFolderError, SettingsError, unknown_name
from evo.run import Run

FloatArray = NDArray[np.float64]

CONVERGENCE = {
    "evaluations": Column("evaluations so far, failures included, look-ups not", "int64"),
    "id": Column("row of the history that was evaluated", "int64"),
    "generation": Column("round of the algorithm, from 0", "int64"),
    "hypervolume": Column(
        "volume between the reference and what has been found so far, in the units of the objectives", "float64"
    ),
}
"""The columns of `convergence`; the best so far of every objective, `best_…`, comes before the hypervolume."""


def convergence(
    run: Run, objectives: str | Sequence[str] | None = None, reference: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Return a row per evaluation, in the order in which the algorithm learned of them: what it had found by then.

    The best values are empty, and the hypervolume is 0, until something has succeeded.

    Args:
        run: a search, also one that is still going on.
        objectives: names of objectives or costs; default `run.trade_off`.
        reference: by their names, what the hypervolume is measured from; default the run's own `worst` values.

    Raises:
        SettingsError: an unknown name, or a reference that lacks one or has one too many.
        RunFolderError: nothing has succeeded, and no reference is given.
    """
    maximized = run.maximized(run.trade_off if objectives is None else objectives)
    history = run.history
    return curve(history, maximized, worst([history], maximized, str(run.folder)) if reference is None else reference)


def curve(history: pd.DataFrame, maximized: Mapping[str, bool], reference: Mapping[str, float]) -> pd.DataFrame:
    """Return what `convergence` does, of a history that has been read already.

    Args:
        history: of a run.
        maximized: the objectives by name, and whether more is better.
        reference: likewise, what the hypervolume is measured from.

    Raises:
        SettingsError: the reference lacks an objective, or has one too many.
    """
    check_reference(reference, maximized)
    rows = history[~history["cached"]]
    rows = rows.sort_values("turn") if rows["turn"].notna().any() else rows
    frame = pd.DataFrame(
        {"evaluations": np.arange(1, len(rows) + 1), "id": rows.index, "generation": rows["generation"]}
    )
    succeeded = rows["status"] == "ok"
    columns = dict(CONVERGENCE)
    for name, most in maximized.items():
        values = rows[name].astype(float).where(succeeded)
        frame[f"best_{name}"] = (values.cummax() if most else values.cummin()).ffill()
        columns[f"best_{name}"] = Column(f"{'largest' if most else 'smallest'} {name} so far", "float64")
    signs = np.array([-1.0 if most else 1.0 for most in maximized.values()])
    points = rows[list(maximized)].astype(float).where(succeeded).to_numpy() * signs
    frame["hypervolume"] = _hypervolumes(points, np.array([reference[name] for name in maximized]) * signs)
    return described(frame.reset_index(drop=True), columns)


def worst(histories: Iterable[pd.DataFrame], maximized: Mapping[str, bool], where: str) -> dict[str, float]:
    """Return the worst value of every objective that has been measured in any of the histories.

    Args:
        histories: of runs.
        maximized: the objectives by name, and whether more is better.
        where: what to say in the error.

    Raises:
        RunFolderError: nothing has succeeded.
    """
    names = list(maximized)
    values = pd.concat([history.loc[history["status"] == "ok", names] for history in histories]).astype(float)
    if values.empty:
        raise RunFolderError(f"{where}: no evaluation has succeeded yet")
    return {name: float(values[name].min() if maximized[name] else values[name].max()) for name in names}


def check_reference(reference: Mapping[str, float], objectives: Iterable[str]) -> None:
    """Raise SettingsError unless `reference` has a finite number for each of the objectives and nothing else."""
    expected = list(objectives)
    for name in reference:
        if name not in expected:
            raise SettingsError(f"reference: {unknown_name('objective', name, expected)}")
    for name in expected:
        if name not in reference or not np.isfinite(reference[name]):
            raise SettingsError(f"reference: expected a number for {name!r}, got {reference.get(name)!r}")


def _hypervolumes(values: FloatArray, reference: FloatArray) -> FloatArray:
    """Return the hypervolume of the first 1, 2, … N rows of `values`, shape (N, M), minimised; NaN are failures.

    A point adds its box, less what the front before it has of that box (While, Bradstreet and Barone 2012, "exclhv"): far
    less work than measuring every front anew.
    """
    total, front = 0.0, np.empty((0, values.shape[1]))
    found = np.empty(len(values))
    for index, point in enumerate(values):
        if (point < reference).all() and not (front <= point).all(1).any():
            added = float(np.prod(reference - point)) - _hypervolume(np.maximum(front, point), reference)
            total += max(0.0, added)
            front = np.vstack([front[~(front >= point).all(1)], point])
        found[index] = total
    return found


def _hypervolume(values: FloatArray, reference: FloatArray) -> float:
    """Return the hypervolume of `values`, shape (N, M), all minimised; dominated rows change nothing."""
    from moocore import hypervolume

    return float(hypervolume(values, ref=reference)) if len(values) else 0.0
