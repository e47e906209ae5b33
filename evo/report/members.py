"""What a page holds of single individuals, compactly: their columns, where they come from, their layers."""

import base64
import json
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evo.blueprint import FULL_BITS
from evo.network import COSTS
from evo.report import figures
from evo.report.look import Look, thinned

PAIR = 150
"""Individuals of the front over any other two columns, at most."""
EXCERPT = 2_000
"""Characters of a log that are shown, from its end."""


def members(look: Look, others: NDArray[np.int64], x: str, y: str) -> dict[str, Any]:
    """Return, as plain values for JSON, individuals with their layers, and which of them are the front over what.

    Args:
        look: of the run.
        others: places in the look's frame of further individuals.
        x, y: columns that the front is drawn over at first.

    Returns:
        `axes`: name, whether it is maximised, whether a cost; `cloud`: columns of measured individuals, thinned to
        `figures.CLOUD`; `people`: columns of individuals with layers; `fronts`: indices into those by "i,j", two indices of
        axes, and "all", the look's objectives; `sizes`: how many each front has, before it was thinned; `layers`: of the
        whole network.
    """
    pairs = combinations(range(len(look.axes)), 2)
    whole = {f"{i},{j}": look.front((look.axes[i], look.axes[j])) for i, j in pairs}
    whole["all"] = look.front(look.objectives)
    main = {"all", ",".join(map(str, sorted(look.axes.index(axis) for axis in look.objectives)))}
    fronts = {name: thinned(places, figures.FRONT if name in main else PAIR) for name, places in whole.items()}
    chosen = np.unique(np.concatenate([*fronts.values(), others]))
    costs = look.run.costs
    return {
        "axes": [{"name": axis.name, "up": axis.maximize, "cost": axis.name in COSTS} for axis in look.axes],
        "all": [axis.name for axis in look.objectives],
        "start": {"x": x, "y": y},
        "original": look.original,
        "cloud": _columns(look, thinned(look.measured, figures.CLOUD)),
        "people": _people(look, chosen),
        "fronts": {name: np.searchsorted(chosen, places).tolist() for name, places in fronts.items()},
        "sizes": {name: len(places) for name, places in whole.items()},
        "layers": {
            "names": [layer.name for layer in costs.layers],
            "filters": costs.filters(costs.sizes).tolist(),
            "weights": costs.weights(costs.sizes).tolist(),
        },
    }


def _columns(look: Look, places: NDArray[np.int64]) -> dict[str, Any]:
    rows = look.frame.iloc[places]
    columns = {axis.name: packed(rows[axis.name].to_numpy(dtype=float)) for axis in look.axes}
    return {"id": rows.index.tolist(), "columns": columns}


def _people(look: Look, places: NDArray[np.int64]) -> dict[str, Any]:
    """Return columns of individuals, their layers in matrices with a row each."""
    rows, counts, bits = look.frame.iloc[places], look.counts[places], look.bits[places]
    failed = rows["status"] != "ok"
    quantised = bool((bits < FULL_BITS).any())
    return _columns(look, places) | {
        "generation": rows["generation"].tolist(),
        "operator": rows["operator"].tolist(),
        "parents": [", ".join(map(str, json.loads(text))) for text in rows["parents"]],
        "seconds": [None if pd.isna(value) else round(value, 3) for value in rows["seconds"]],
        "node": rows["node"].fillna("").tolist(),
        "reused": rows["reused"].fillna("").tolist(),
        "failure": [
            {"status": status, "reason": reason, "log": excerpt(log)} if bad else None
            for bad, status, reason, log in zip(failed, rows["status"], rows["reason"], rows["log"], strict=True)
        ],
        "filters": packed(look.run.costs.filters(counts).astype(np.uint32).ravel()),
        "weights": packed(look.run.costs.weights(counts).astype(float).ravel()),
        "bits": packed(bits.astype(np.uint8).ravel()) if quantised else None,
    }


def excerpt(log: str | None) -> str:
    """Return the end of a log."""
    text = (log or "").strip()
    return text if len(text) <= EXCERPT else f"…{text[-EXCERPT:]}"


def packed(values: NDArray[Any]) -> dict[str, str]:
    """Return numbers as plotly packs them: their type, e.g. "f8", and their bytes in base64, little-endian."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return {
        "dtype": f"{little.dtype.kind}{little.dtype.itemsize}",
        "bdata": base64.b64encode(little.tobytes()).decode(),
    }
