"""Pictures of how searches got on: the best so far and the hypervolume over the evaluations."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from evo.compare import Comparison
from evo.errors import SettingsError, unknown_name
from evo.network import COSTS
from evo.report.labels import LABELS, label
from evo.report.style import (
    FRONT,
    PALETTE,
    counted,
    draw_candidates,
    draw_steps,
    legend_below,
    line_styles,
    new_figure,
    whole_numbers,
)
from evo.run import Run

VOLUME = "hypervolume (more is better)"


def plot_convergence(run: Run, objective: str | None = None) -> Figure:
    """Plot an objective over the evaluations: every one, the middle half of each generation, its median, the best so far.

    A generation's band and median are drawn at its last evaluation; failures have no point.

    Args:
        run: a search.
        objective: name of an objective or cost; default the first objective.

    Raises:
        SettingsError: an unknown name.
        RunFolderError: nothing has succeeded yet.
    """
    name = run.objectives[0].name if objective is None else objective
    ((name, most),) = run.maximized(name).items()
    curve = run.convergence(name)
    measured = run.history.loc[curve["id"]]
    values = measured[name].astype(float).where(measured["status"] == "ok").reset_index(drop=True)
    figure, axes = new_figure()
    failed = f", {values.isna().sum():,} failed" if values.isna().any() else ""
    draw_candidates(axes, curve["evaluations"], values, counted(int(values.count()), "candidate") + failed)
    generations = values.groupby(curve["generation"])
    if generations.ngroups > 1:
        ends = curve.groupby("generation")["evaluations"].max()
        spread = pd.DataFrame({share: generations.quantile(share) for share in (0.25, 0.5, 0.75)}).dropna()
        ends = ends[spread.index]
        axes.fill_between(
            ends,
            spread[0.25],
            spread[0.75],
            color=PALETTE[0],
            alpha=0.2,
            linewidth=0,
            label="middle half of a generation",
        )
        axes.plot(ends, spread[0.5], color=PALETTE[0], linewidth=1.2, label="its median")
    draw_steps(axes, curve["evaluations"], curve[f"best_{name}"], color=FRONT, linewidth=1.6, label="best so far")
    _finish(figure, axes, label(name, most), "Convergence", plain=name in COSTS)
    return figure


def plot_hypervolume(
    run: Run,
    objectives: str | Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    ideal: Mapping[str, float] | None = None,
) -> Figure:
    """Plot the hypervolume of what a search had found by every evaluation.

    Args:
        run: a search.
        objectives, reference, ideal: see `Run.hypervolume`.

    Raises:
        SettingsError: an unknown name, or a value that is no finite number.
        RunFolderError: nothing has succeeded yet.
    """
    curve = run.convergence(objectives, reference, ideal)
    names = [name.removeprefix("best_") for name in map(str, curve) if name.startswith("best_")]
    figure, axes = new_figure()
    draw_steps(axes, curve["evaluations"], curve["hypervolume"], color=PALETTE[0], linewidth=1.6)
    axes.set_ylim(bottom=0)
    _finish(figure, axes, VOLUME, f"Hypervolume of {', '.join(LABELS.get(name, name) for name in names)}", legend=False)
    return figure


def compare_convergence(comparison: Comparison, objective: str | None = None, by: str | None = None) -> Figure:
    """Plot the best of an objective so far over the evaluations of several runs.

    Args:
        comparison: of runs.
        objective: one of the compared objectives or costs; default the first.
        by: column of the summary, such as "algorithm": runs that agree in it have one colour, and a thick line is their
            median, up to where the first of them ends.

    Raises:
        SettingsError: an unknown name or column.
    """
    names = list(comparison.maximized)
    name = names[0] if objective is None else objective
    if name not in names:
        raise SettingsError(unknown_name("objective", name, names))
    figure, axes = new_figure()
    _draw(axes, comparison, f"best_{name}", by)
    text = label(name, comparison.maximized[name])
    _finish(figure, axes, f"best so far: {text}", "Convergence", plain=name in COSTS)
    return figure


def compare_hypervolume(comparison: Comparison, by: str | None = None) -> Figure:
    """Plot the hypervolume over the evaluations of several runs, in one box; `by` as in `compare_convergence`.

    Raises:
        SettingsError: an unknown column.
    """
    figure, axes = new_figure()
    _draw(axes, comparison, "hypervolume", by)
    axes.set_ylim(bottom=0)
    names = ", ".join(LABELS.get(name, name) for name in comparison.maximized)
    _finish(figure, axes, VOLUME, f"Hypervolume of {names}")
    return figure


def _draw(axes: Axes, comparison: Comparison, column: str, by: str | None) -> None:
    """Draw a column of the convergence of every run, or of groups of runs."""
    curves = {
        str(run): rows.set_index("evaluations")[column]
        for run, rows in comparison.convergence.groupby("run", observed=False)
    }
    if by is None:
        for (run, curve), (color, dash) in zip(curves.items(), line_styles(len(curves)), strict=True):
            # Thinner and thinner: lines that begin alike do not hide each other.
            width = 2.8 - 1.6 * len(axes.lines) / len(curves)
            draw_steps(axes, curve.index, curve, color=color, linestyle=dash, linewidth=width, label=run)
        return
    if by not in comparison.summary:
        raise SettingsError(unknown_name("column", by, map(str, comparison.summary.columns)))
    groups = comparison.summary[by].astype(str).groupby(comparison.summary[by].astype(str), sort=False)
    for (value, members), (color, dash) in zip(groups, line_styles(groups.ngroups), strict=True):
        mine = pd.DataFrame({run: curves[run] for run in members.index})
        for run in members.index:
            draw_steps(axes, curves[run].index, curves[run], color=color, linestyle=dash, linewidth=0.7, alpha=0.45)
        runs = counted(len(members), "run")
        middle = mine.dropna(axis="columns", how="all").dropna().median(axis="columns")
        draw_steps(axes, middle.index, middle, color=color, linestyle=dash, linewidth=2, label=f"{value}, {runs}")


def _finish(figure: Figure, axes: Axes, ylabel: str, title: str, *, plain: bool = False, legend: bool = True) -> None:
    axes.set(xlabel="evaluations", ylabel=ylabel, title=title)
    axes.set_xlim(left=0)
    whole_numbers(axes)
    if plain or max(map(abs, axes.get_ylim())) >= 10_000:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if legend:
        legend_below(figure)
