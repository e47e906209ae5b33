"""Pictures of trade-offs: candidates and Pareto fronts of one search, fronts of several, all objectives side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evo.compare import Comparison
from evo.errors import RunFolderError, SettingsError, unknown_name
from evo.report.labels import label
from evo.report.style import (
    CHOSEN,
    FRONT,
    counted,
    draw_candidates,
    legend_below,
    line_styles,
    marker_area,
    new_figure,
    scale_axes,
)
from evo.run import Run


def plot_front(run: Run, x: str | None = None, y: str | None = None, chosen: Sequence[int] = ()) -> Figure:
    """Plot every evaluated individual and the Pareto front over two objectives or costs; costs are logarithmic.

    Args:
        run: a search.
        x, y: names of objectives or costs; default those of `run.trade_off`, the first of them upwards.
        chosen: ids of individuals to mark.

    Raises:
        SettingsError: an unknown name, or twice the same.
        RunFolderError: nothing has succeeded yet, or there is no individual of an id.
    """
    x, y = two_axes(run, x, y)
    most = run.maximized([x, y])
    figure, axes = new_figure()
    measured = run.history.query("status == 'ok' and not cached")
    front = run.pareto([y, x]).sort_values(x, kind="stable")
    draw_candidates(axes, measured[x], measured[y], counted(len(measured), "candidate"))
    draw_front(
        axes, front, x, y, x_maximized=most[x], color=FRONT, text=f"Pareto front, {counted(len(front), 'point')}"
    )
    for row in chosen:
        mark(axes, run, row, x, y)
    original = {name: int(value) for name, value in run.costs.costs(run.costs.sizes).items()}
    draw_original(axes, original, x, y)
    scale_axes(axes, x, y)
    axes.set(xlabel=label(x, most[x]), ylabel=label(y, most[y]), title="Every candidate, and the best trade-offs")
    legend_below(figure)
    return figure


def two_axes(run: Run, x: str | None, y: str | None) -> tuple[str, str]:
    """Return what is drawn over what; of names that are not given, what the run weighs.

    Raises:
        SettingsError: both are the same.
    """
    first, second = (*run.trade_off, "macs")[:2]
    y = y or next(name for name in (first, second) if name != x)
    x = x or next(name for name in (second, first) if name != y)
    if x == y:
        raise SettingsError(f"x, y: expected two different objectives or costs, got {x!r} twice")
    return x, y


def draw_front(
    axes: Axes, front: pd.DataFrame, x: str, y: str, *, x_maximized: bool, color: str, text: str, dash: str = "solid"
) -> None:
    """Draw a front over two objectives, sorted by `x`, with the staircase of what it attains."""
    axes.step(
        front[x], front[y], where="pre" if x_maximized else "post", color=color, linewidth=1, linestyle=dash, zorder=2
    )
    axes.scatter(front[x], front[y], s=marker_area(len(front), 22), color=color, zorder=3, label=text)


def draw_original(axes: Axes, original: Mapping[str, int], x: str, y: str) -> None:
    """Draw a line where the original network is, of costs; its objectives are not recorded."""
    for name, draw in ((x, axes.axvline), (y, axes.axhline)):
        if name in original:
            text = "original network" if name == x or x not in original else None
            draw(original[name], color="0.4", linestyle=":", linewidth=1, label=text)


def mark(axes: Axes, run: Run, row: int, x: str, y: str) -> None:
    """Mark an individual with a ring and its id.

    Raises:
        RunFolderError: there is no individual of this id, or it has no results.
    """
    record = succeeded(run, row)
    axes.scatter(record[x], record[y], s=110, facecolors="none", edgecolors=CHOSEN, linewidths=1.8, zorder=4)
    axes.annotate(
        f"id {row}", (record[x], record[y]), (7, 7), textcoords="offset points", color=CHOSEN, fontsize=9, zorder=4
    )


def succeeded(run: Run, row: int) -> "pd.Series[Any]":
    """Return the row of the history of an individual that has been measured.

    Raises:
        RunFolderError: there is none of this id, or it failed.
    """
    run.blueprint(row)  # refuses an unknown id
    record = run.history.loc[[row]].iloc[0]
    if record["status"] != "ok":
        raise RunFolderError(f"{run.folder}: row {row} has no results to draw, its status is {record['status']}")
    return record


def plot_fronts(comparison: Comparison, x: str | None = None, y: str | None = None) -> Figure:
    """Plot the Pareto front of every run, and grey behind them the joint front of all.

    Fronts over two objectives have the staircase of what they attain; of more, the picture is a projection, and has points
    alone.

    Args:
        comparison: of runs.
        x, y: two of the compared objectives or costs; default the first of them upwards, the second along.

    Raises:
        SettingsError: fewer than two objectives were compared, or these are not among them.
    """
    names = list(comparison.maximized)
    if len(names) < 2:
        raise SettingsError(
            f"front: it takes two objectives, compared was {names[0]} alone; compare(…, objectives=[…])"
        )
    y = y or next(name for name in names if name != x)
    x = x or next(name for name in names[1:] + names[:1] if name != y)
    for name in (x, y):
        if name not in names:
            raise SettingsError(unknown_name("objective", name, names))
    if x == y:
        raise SettingsError(f"x, y: expected two different objectives or costs, got {x!r} twice")
    figure, axes = new_figure()
    joint = comparison.front[names].drop_duplicates().sort_values(x)
    axes.scatter(joint[x], joint[y], s=90, color="0.85", label=f"joint front, {counted(len(joint), 'point')}", zorder=1)
    runs = comparison.fronts["run"].cat.categories
    for name, (color, dash) in zip(runs, line_styles(len(runs)), strict=True):
        front = comparison.fronts[comparison.fronts["run"] == name].sort_values(x, kind="stable")
        if len(names) == 2:
            most = comparison.maximized[x]
            draw_front(axes, front, x, y, x_maximized=most, color=color, text=name, dash=dash)
        else:
            axes.scatter(front[x], front[y], s=marker_area(len(front), 22), color=color, zorder=3, label=name)
    draw_original(axes, comparison.original, x, y)
    scale_axes(axes, x, y)
    axes.set(xlabel=label(x, comparison.maximized[x]), ylabel=label(y, comparison.maximized[y]))
    axes.set_title("Pareto fronts" if len(names) == 2 else f"Pareto fronts over {', '.join(names)}")
    legend_below(figure)
    return figure
