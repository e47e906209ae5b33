"""Searches of one network side by side: tables of what each took and found, measured by the same reference."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evo.columns import Column, described, table
from evo.convergence import CONVERGENCE, convergence, evaluated
from evo.errors import RunFolderError, SettingsError
from evo.front import Criteria, non_dominated
from evo.run import Run

if TYPE_CHECKING:
    from evo.report.accessor import ComparisonPlots

RUN = Column("name of the run", "category")

SUMMARY = {
    "run": Column("name of the run", "str"),
    "folder": Column("where it is", "str"),
    "algorithm": Column("name of the algorithm", "str"),
    "encoding": Column("name of the encoding", "str"),
    "fitness": Column("name of the fitness", "str"),
    "seed": Column("of everything random", "int64"),
    "evaluations": Column("evaluations, failures included, look-ups not", "int64"),
    "failures": Column("evaluations that failed or ran out of time", "int64"),
    "cached": Column("individuals whose structure had been measured before", "int64"),
    "reused": Column("evaluations that another run had measured", "int64"),
    "seconds": Column("sum of the evaluations' times in their workers", "float64", "s"),
    "elapsed": Column("from the first recorded row to the last, interruptions included", "float64", "s"),
    "front": Column("points of its own Pareto front", "int64"),
    "hypervolume": Column(
        "share of the space of objectives, the same for all runs, that its front dominates; more is better", "float64"
    ),
    "share": Column(
        "share of the joint front's points that it found, from 0 to 1; one that several found counts for each",
        "float64",
    ),
}
"""The columns of `Comparison.summary`; the best value of every objective, `best_…`, comes before `front`."""

FRONTS = {
    "run": RUN,
    "id": Column("row of the run's history", "int64"),
    "joint": Column("no point of any run beats it", "bool"),
}
"""The columns of `Comparison.fronts` that come before those of the history."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; every table says in `attrs["columns"]` what its columns mean.

    Attributes:
        maximized: the compared objectives and costs by name, and whether more is better.
        reference, ideal: by their names, the worst and the best value: between them all hypervolumes are taken.
        original: the costs of the original network.
        summary: one row per run, indexed by its name; columns as in `SUMMARY`.
        convergence: one row per run and evaluation: `run` and the columns of `evo.convergence.CONVERGENCE`.
        fronts: the Pareto front of every run: `FRONTS` and the columns of a history.
    """

    maximized: Mapping[str, bool]
    reference: Mapping[str, float]
    ideal: Mapping[str, float]
    original: Mapping[str, int]
    summary: pd.DataFrame
    convergence: pd.DataFrame
    fronts: pd.DataFrame

    @property
    def front(self) -> pd.DataFrame:
        """The joint front: what no point of any run beats, sorted by the first objective; a point may be of several runs."""
        names = list(self.maximized)
        joint = self.fronts[self.fronts["joint"]].drop(columns="joint")
        ascending = [not self.maximized[name] for name in names]
        return joint.sort_values(names, ascending=ascending, ignore_index=True, kind="stable")

    @cached_property
    def plot(self) -> "ComparisonPlots":
        """Pictures, `comparison.plot.convergence()` and others; matplotlib is imported when this is first used."""
        return cast("ComparisonPlots", import_module("evo.report.accessor").ComparisonPlots(self))


def compare(
    runs: Sequence[Run | str | Path] | Mapping[str, Run | str | Path],
    *,
    objectives: str | Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    ideal: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare searches of the same network on the same validation images.

    What they call by the same name has to mean the same: errors after more epochs are other errors.

    Args:
        runs: runs or their folders, called by the names of the folders, or as the keys say.
        objectives: names of objectives or costs of all of them; default what they weigh, `Run.trade_off`.
        reference, ideal: see `Run.hypervolume`; default of all runs together.

    Raises:
        SettingsError: no runs, one twice, runs of different networks, images or objectives, or a wrong reference.
        RunFolderError: a folder is no run's, or nothing has succeeded in any of them.
    """
    with _opened(runs) as opened:
        criteria = _common(opened, objectives)
        histories = {name: run.history for name, run in opened.items()}
        fronts = _fronts(histories, criteria)
        if fronts.empty:
            where = ", ".join(str(run.folder) for run in opened.values())
            raise RunFolderError(f"{where}: no evaluation has succeeded yet")
        model = next(iter(opened.values())).costs
        original = {name: int(value) for name, value in model.costs(model.sizes).items()}
        box = criteria.box(_values(pd.concat(map(_measured, histories.values())), criteria), original, reference, ideal)
        curves = {name: convergence(history, criteria, box) for name, history in histories.items()}
        return Comparison(
            maximized=criteria.maximized,
            reference=dict(zip(criteria.names, criteria.minimised(box.reference).tolist(), strict=True)),
            ideal=dict(zip(criteria.names, criteria.minimised(box.ideal).tolist(), strict=True)),
            original=original,
            summary=_summary(opened, histories, curves, fronts, criteria.maximized),
            convergence=_stacked(curves, {"run": RUN, **CONVERGENCE}),
            fronts=fronts,
        )


def _measured(history: pd.DataFrame) -> pd.DataFrame:
    return history[(history["status"] == "ok") & ~history["cached"]]


def _values(frame: pd.DataFrame, criteria: Criteria) -> NDArray[np.float64]:
    """Return the objectives of all rows, shape (N, M), minimised."""
    return criteria.minimised(frame[criteria.names].to_numpy(dtype=float))


@contextmanager
def _opened(
    runs: Sequence[Run | str | Path] | Mapping[str, Run | str | Path],
) -> Iterator[dict[str, Run]]:
    """Open those that are folders, and close them in the end; by name."""
    if isinstance(runs, Run | str | Path) or not isinstance(runs, Sequence | Mapping):
        raise SettingsError(f"runs: expected a list of runs or folders, got a {type(runs).__name__}")
    if not runs:
        raise SettingsError("runs: expected at least one run or folder, got none")
    given = list(runs.values() if isinstance(runs, Mapping) else runs)
    for entry in given:
        if not isinstance(entry, Run | str | Path):
            raise SettingsError(f"runs: expected runs or folders, got {entry!r}")
    own: list[Run] = []
    try:
        found = []
        for entry in given:
            found.append(entry if isinstance(entry, Run) else Run(entry))
            own += [] if isinstance(entry, Run) else found[-1:]
        names = list(runs) if isinstance(runs, Mapping) else names_of([run.folder for run in found])
        yield dict(zip(names, found, strict=True))
    finally:
        for run in own:
            run.close()


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return as much of the ends of the folders' paths as tells them apart.

    Raises:
        SettingsError: one is there twice.
    """
    paths = [folder.resolve() for folder in folders]
    twice = next((path for path, count in Counter(paths).items() if count > 1), None)
    if twice is not None:
        raise SettingsError(f"runs: {folders[paths.index(twice)]} is there twice")
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return [str(Path(*path.parts[-length:])) for path in paths]


def _common(runs: Mapping[str, Run], objectives: str | Sequence[str] | None) -> Criteria:
    """Return the objectives that all runs are compared by.

    Raises:
        SettingsError: they have others, or are of different networks or images.
    """
    (first, *others) = runs
    for name in others:
        for part, what in (("network", "another network"), ("val", "other validation images")):
            if runs[name].settings["task"].get(part) != runs[first].settings["task"].get(part):
                raise SettingsError(f"runs: {name} is a search with {what} than {first}; such searches do not compare")
    for name, run in runs.items():
        for objective in run.objectives:
            if objective.name in FRONTS:
                raise SettingsError(
                    f"runs: {name} has an objective called {objective.name!r}, as a column of comparisons is"
                )
    found = {name: Criteria.choose(run.objectives, objectives or run.trade_off) for name, run in runs.items()}
    for name in others:
        if found[name] != found[first]:
            raise SettingsError(
                f"runs: {first} weighs {_weighed(found[first])}, {name} {_weighed(found[name])}; name objectives or "
                "costs that they have in common: compare(…, objectives=[…])"
            )
    return found[first]


def _weighed(criteria: Criteria) -> str:
    return ", ".join(f"{entry.name} ({'max' if entry.maximize else 'min'})" for entry in criteria.chosen)


def _fronts(histories: Mapping[str, pd.DataFrame], criteria: Criteria) -> pd.DataFrame:
    """Return the front of every run, sorted by the first objective."""
    fronts = {}
    for name, history in histories.items():
        measured = _measured(history)
        front = measured[non_dominated(_values(measured, criteria))]
        ascending = [not entry.maximize for entry in criteria.chosen]
        fronts[name] = front.sort_values(criteria.names, ascending=ascending).reset_index(names="id")
    frame = _stacked(fronts, {"run": RUN, "id": FRONTS["id"]})
    frame.insert(2, "joint", non_dominated(_values(frame, criteria)))
    return described(frame, FRONTS)


def _stacked(frames: Mapping[str, pd.DataFrame], columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return tables of the same columns one below the other, with a column `run` before all others."""
    text: dict[str, str] = {}
    for frame in frames.values():
        text |= frame.attrs.get("columns", {})
    stacked = pd.concat(list(frames.values()), keys=list(frames), names=["run", None]).reset_index("run")
    stacked["run"] = pd.Categorical(stacked["run"], categories=list(frames))
    stacked = stacked.reset_index(drop=True)
    stacked.attrs["columns"] = text
    return described(stacked, columns)


def _summary(
    runs: Mapping[str, Run],
    histories: Mapping[str, pd.DataFrame],
    curves: Mapping[str, pd.DataFrame],
    fronts: pd.DataFrame,
    maximized: Mapping[str, bool],
) -> pd.DataFrame:
    """Return one row per run."""
    points = fronts.loc[fronts["joint"], list(maximized)].drop_duplicates()
    columns = dict(SUMMARY)
    last = {name: columns.pop(name) for name in ("front", "hypervolume", "share")}
    for name, most in maximized.items():
        columns[f"best_{name}"] = Column(
            f"{'largest' if most else 'smallest'} {name}; empty if none succeeded", "float64"
        )
    columns |= last
    records = []
    for name, run in runs.items():
        history, mine = histories[name], fronts[fronts["run"] == name]
        found = mine.loc[mine["joint"], list(maximized)].drop_duplicates()
        records.append(
            {
                "run": name,
                "folder": str(run.folder),
                **{part: run.settings[part]["name"] for part in ("algorithm", "encoding", "fitness")},
                "seed": run.settings["seed"],
                **_counted(history),
                **_reached(curves[name], maximized),
                "front": len(mine),
                "share": len(found) / len(points),
            }
        )
    values = {name: [record[name] for record in records] for name in columns}
    return table(values, columns).set_index("run")


def _counted(history: pd.DataFrame) -> dict[str, Any]:
    """Return what a search took."""
    rows = evaluated(history)
    span = history["finished"].max() - history["finished"].min()
    return {
        "evaluations": len(rows),
        "failures": int((rows["status"] != "ok").sum()),
        "cached": int(history["cached"].sum()),
        "reused": int((rows["reused"] != "").sum()),
        "seconds": float(rows.loc[rows["reused"] == "", "seconds"].sum()),
        "elapsed": span.total_seconds() if len(history) else 0.0,
    }


def _reached(curve: pd.DataFrame, maximized: Mapping[str, bool]) -> dict[str, float | None]:
    """Return how far a search has come by its last evaluation."""
    if curve.empty:
        return {**dict.fromkeys((f"best_{name}" for name in maximized), None), "hypervolume": 0.0}
    last = curve.iloc[-1]
    return {name: float(last[name]) for name in (*(f"best_{name}" for name in maximized), "hypervolume")}
