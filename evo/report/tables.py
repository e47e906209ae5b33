"""Tables for the terminal."""

from collections.abc import Sequence

import pandas as pd
from rich.table import Table

from evo.blueprint import FULL_BITS
from evo.run import Run


def front_table(run: Run, objectives: Sequence[str] | None = None, *, rows: int = 12) -> Table:
    """Return the Pareto front over `objectives`, default `run.trade_off`; at most `rows` evenly chosen points, ends included.

    Besides the objectives it has the costs that tell most, and the compression in bytes.
    """
    objectives = run.trade_off if objectives is None else list(objectives)
    front = run.pareto(objectives)
    listed = front
    if len(front) > rows:
        listed = front.iloc[[round(index * (len(front) - 1) / (rows - 1)) for index in range(rows)]]
    original = run.costs.costs(run.costs.sizes)
    count = f"{len(listed)} of {len(front)}" if len(listed) < len(front) else str(len(front))
    table = Table(title=f"Pareto front over {', '.join(objectives)} ({count} points)", title_justify="left")
    quantised = (front["bytes"] < run.costs.bytes_per_parameter * front["params"]).any()
    costs = ["params", "macs", "bytes"] if quantised else ["params", "macs"]
    shown = list(dict.fromkeys([*objectives, run.objectives[0].name, *costs]))
    for column in ("id", *shown, "compression"):
        table.add_column(column, justify="right")
    for number, row in listed.iterrows():
        ratio = float(original["bytes"]) / float(row["bytes"])
        table.add_row(str(number), *(_number(row[name]) for name in shown), f"{ratio:.1f}×")
    return table


def fidelity_table(run: Run) -> Table:
    """Return what every fidelity of a cascade took and how well it ranks, see `Run.fidelities`."""
    table = Table(title="Fidelities, from cheap to dear", title_justify="left")
    columns = ("evaluations", "failed", "promoted", "mean time", "share of all time", "Spearman with the next")
    for column in ("", "ranks by", *columns):
        table.add_column(column, justify="right" if column in columns else "left")
    for place, row in run.fidelities.iterrows():
        promoted = "" if pd.isna(row["promoted"]) else f"{row['promoted']:,}"
        known = not pd.isna(row["spearman"])
        agreement = f"{row['spearman']:.2f} (of {row['compared']:,})" if known else ""
        mean, share = (
            ("", "") if pd.isna(row["share"]) else (f"{1000 * row['mean_seconds']:,.1f} ms", f"{row['share']:.0%}")
        )
        counts = (f"{row['evaluations']:,}", f"{row['failed']:,}", promoted)
        table.add_row(f"{place} {row['name']}", row["objective"], *counts, mean, share, agreement)
    return table


def layer_table(layers: pd.DataFrame, title: str = "") -> Table:
    """Return ECS's columns of what `Run.layers` gives as a table for the terminal; bits and bytes if any layer is quantised."""
    shown = ["filters", "kept_filters", "weights", "kept_weights"]
    shown += ["bits", "kept_bytes"] if (layers["bits"] < FULL_BITS).any() else []
    shown += ["r_c", "r_s", "r_f"]
    table = Table(title=title or None, title_justify="left")
    for column in ("layer", *shown):
        table.add_column(
            column if column.startswith("r_") else column.replace("_", " "),
            justify="left" if column == "layer" else "right",
        )
    for name, row in layers.iterrows():
        if name == "total":
            table.add_section()
        table.add_row(str(name), *(_entry(column, row[column]) for column in shown))
    return table


def _entry(column: str, value: float) -> str:
    """Return a value of `Run.layers` in words: a ratio, bits, or a whole number."""
    if column.startswith("r_"):
        return f"{value:.2f}×"
    return f"{value:.3g}" if column == "bits" else f"{int(value):,}"


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4f}"
