"""A run as numbers by name, for programs that keep such records: what every evaluation and generation came to."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from evo.importing import describe
from evo.network import COSTS
from evo.records import COLUMNS
from evo.run import Run
from evo.settings import NestedError

PARTS = ("seed", "threads", "task", "encoding", "fitness", "algorithm", "budget")
"""What of a run's settings decides its results."""

FAILED = "evaluation/failed"
"""1 for an evaluation that failed, else 0: every evaluation has it, and has it last."""

ASKED = "generation/asked"
"""Individuals of a generation: every generation has it."""


def evaluation(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what a row of the history came to; nothing if it is cached, since nothing was evaluated.

    Args:
        row: as `Callback.on_evaluation` takes it, or of `Run.history`.
    """
    if row["cached"]:
        return {}
    values = {f"costs/{name}": float(row[name]) for name in COSTS}
    if row["status"] == "ok":
        own = [name for name in row if name not in COLUMNS and name not in COSTS]
        values |= {f"objectives/{name}": float(row[name]) for name in own}
    if row["seconds"] is not None and not pd.isna(row["seconds"]):
        values["evaluation/seconds"] = float(row["seconds"])
    values[FAILED] = float(row["status"] != "ok")
    return values


def generation(statistics: Mapping[str, float]) -> dict[str, float]:
    """Return the statistics of a generation, as `Callback.on_generation` takes them; none that are missing."""
    return {
        f"generation/{name}": float(value)
        for name, value in statistics.items()
        if name != "generation" and not pd.isna(value)
    }


def seconds_of(row: Mapping[str, Any]) -> float:
    """Return when a row was recorded, in seconds since 1970."""
    return float(pd.Timestamp(row["finished"]).timestamp())


def recorded_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the rows of a run so far."""
    yield from run.history.reset_index().to_dict("records")  # type: ignore[misc]


def recorded_generations(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the statistics of a run's generations so far."""
    yield from run.generations.to_dict("records")  # type: ignore[misc]


def parameters(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the settings that decide a run's results, with dotted names; what is a list as JSON."""
    return dict(_flat({name: settings[name] for name in PARTS if name in settings}, ""))


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, bool | int | float | str]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, bool | int | float | str) else json.dumps(value)


def missing_package(callback: str, extra: str, error: ImportError) -> NestedError:
    """Return what to raise if what a callback writes with cannot be imported."""
    return NestedError(
        f"{callback} needs a package that is not there ({describe(error)}); install with: pip install 'evo-arch[{extra}]'",
        callback,
    )
