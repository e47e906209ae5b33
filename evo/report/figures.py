"""Interactive figures of a run, as plotly has them; a page draws them in its own colours."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from evo.convergence import convergence
from evo.errors import SettingsError
from evo.fitness.base import Objective
from evo.front import MOST, Criteria
from evo.network import COSTS
from evo.report.look import Look, evenly, thinned

CLOUD = 4_000
"""Individuals that are drawn besides a front, at most."""
FRONT = 1_000
"""Individuals of a front that are drawn, at most."""
STEPS = 300
"""Points of a curve, and columns of a picture, at most."""

COLOURS = {
    "cloud": "#8b96a1",
    "front": "#c2410c",
    "best": "#c2410c",
    "median": "#0b62a8",
    "band": "rgba(11, 98, 168, 0.14)",
    "inner": "rgba(11, 98, 168, 0.24)",
    "bar": "#0b62a8",
}
"""What a trace is drawn in by its role, unless a page has colours of its own for them."""
RUNS = ("#0b62a8", "#c2410c", "#0f7b5f", "#8e44ad", "#9a6a00", "#b0255f", "#4b5a68", "#2f8fb3")
"""Colours of runs that are compared."""


def front_figure(look: Look, x: str, y: str) -> go.Figure:
    """Return every measured individual over two objectives or costs, and those that no other beats in both.

    Of more than `CLOUD` individuals beside the front, evenly chosen ones are drawn.
    """
    axes = [next(axis for axis in look.axes if axis.name == name) for name in (x, y)]
    measured = look.frame.iloc[thinned(look.measured, CLOUD)]
    front = look.frame.iloc[thinned(look.front(axes), FRONT)]
    figure = _figure(axis_title(axes[0]), axis_title(axes[1]))
    hover = "id %{customdata}<br>" + escape(y) + " %{y:.5g}<br>" + escape(x) + " %{x:.5g}<extra></extra>"
    for name, rows, role, size in (("candidates", measured, "cloud", 6), ("Pareto front", front, "front", 8)):
        figure.add_scatter(
            x=rows[x].to_numpy(dtype=float),
            y=rows[y].to_numpy(dtype=float),
            customdata=rows.index.to_numpy(),
            name=name,
            mode="lines+markers" if role == "front" else "markers",
            marker={"color": COLOURS[role], "size": size, "opacity": 0.55 if role == "cloud" else 1},
            line={"color": COLOURS[role], "width": 1.2, "shape": "hv"},
            hovertemplate=hover,
            meta={"role": role},
        )
    _scale(figure, axes[0], measured[x])
    figure.update_layout(hovermode="closest", dragmode="pan")
    return figure


def convergence_figure(look: Look, objective: Objective) -> go.Figure:
    """Return the best value so far over the evaluations, and the middle of every generation: median and quantiles."""
    figure = _figure("evaluations", axis_title(objective))
    middle = _quantiles(look, objective.name)
    x = middle["evaluation"].to_numpy(dtype=float)
    for low, high, role, name in (
        (0.1, 0.9, "band", "middle 80 % of a generation"),
        (0.25, 0.75, "inner", "middle half"),
    ):
        edges = np.concatenate([middle[low], middle[high][::-1]])
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=edges,
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor=COLOURS[role],
            name=name,
            hoverinfo="skip",
            meta={"role": role},
        )
    figure.add_scatter(
        x=x,
        y=middle[0.5].to_numpy(),
        customdata=middle.index.to_numpy(),
        mode="lines+markers",
        marker={"size": 5, "color": COLOURS["median"]},
        line={"width": 1.5, "color": COLOURS["median"]},
        name="median of a generation",
        hovertemplate="generation %{customdata}: median %{y:.5g}<extra></extra>",
        meta={"role": "median"},
    )
    _add_steps(figure, *best_so_far(look, objective), "best so far", COLOURS["best"], "best")
    return figure


def best_so_far(look: Look, objective: Objective) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return evaluations at which the best value changed, and that value; of more than `STEPS`, evenly chosen ones."""
    rows = look.frame.iloc[look.measured]
    values = rows[objective.name].to_numpy(dtype=float)
    if not len(values):
        return np.empty(0, np.int64), values
    best = np.maximum.accumulate(values) if objective.maximize else np.minimum.accumulate(values)
    changes = np.flatnonzero(np.append(True, best[1:] != best[:-1]))
    places = np.unique(np.append(changes[evenly(len(changes), STEPS)], len(best) - 1))
    return rows["evaluation"].to_numpy(dtype=np.int64)[places], best[places]


def _quantiles(look: Look, name: str) -> pd.DataFrame:
    """Return quantiles of a column by generation, over all individuals, and how many evaluations there were by its end."""
    rows = look.frame[look.frame["status"] == "ok"]
    groups = rows.groupby("generation")[name]
    found = pd.DataFrame({share: groups.quantile(share) for share in (0.1, 0.25, 0.5, 0.75, 0.9)})
    found["evaluation"] = rows.groupby("generation")["evaluation"].max()
    return found.iloc[evenly(len(found), STEPS)]


def hypervolume_figure(looks: Sequence[Look], names: Sequence[str] = ()) -> go.Figure:
    """Return the hypervolume of what runs had found over their evaluations, see `hypervolumes`; a line per run.

    Args:
        looks: the runs; all have the same `objectives`.
        names: of the runs, if there are several.
    """
    figure = _figure("evaluations", "hypervolume, share of the box")
    for index, (evaluations, volumes) in enumerate(hypervolumes(looks)):
        single = len(looks) == 1
        name = "hypervolume" if single else names[index]
        colour = COLOURS["best"] if single else RUNS[index % len(RUNS)]
        _add_steps(figure, evaluations, volumes, name, colour, "best" if single else f"run{index % len(RUNS)}")
    return figure


def hypervolumes(looks: Sequence[Look]) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return evaluations and hypervolumes by then of every run, at up to `STEPS` moments; see `Run.hypervolume`.

    All are taken in one box, that of all runs together.

    Raises:
        SettingsError: there are fewer than two objectives, or more than `MOST`.
    """
    criteria = Criteria(looks[0].objectives)
    if not 2 <= len(criteria.chosen) <= MOST:
        raise SettingsError(f"objectives: a hypervolume takes 2 to {MOST} of them, got {len(criteria.chosen)}")
    everything = np.concatenate([look.values(criteria.chosen) for look in looks])
    if not len(everything):
        return [(np.empty(0, np.int64), np.empty(0)) for _ in looks]
    box = criteria.box(everything, looks[0].original)
    found = []
    for look in looks:
        curve = convergence(look.frame, criteria, box)
        ends = evenly(len(curve), STEPS)
        found.append((curve["evaluations"].to_numpy()[ends], curve["hypervolume"].to_numpy()[ends]))
    return found


def widths_figure(look: Look) -> go.Figure:
    """Return the mean share of filters kept, a row per layer that a search can change, a column per generation."""
    names, generations, shares = layer_widths(look)
    figure = _figure("generation", "")
    figure.add_heatmap(
        x=generations,
        y=[_shortened(name) for name in names],
        z=shares,
        zmin=0,
        zmax=1,
        colorscale="Blues",
        colorbar={"title": {"text": "kept"}, "tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
        hovertemplate="generation %{x}<br>%{y}: %{z:.1%} kept<extra></extra>",
        meta={"role": "heat"},
    )
    figure.update_xaxes(tickformat="d", dtick=1 if len(generations) <= 16 else None)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(height=max(220, min(900, 110 + 22 * len(names))))
    return figure


def layer_widths(look: Look) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Return layers, generations, and the mean share of filters kept, shape (layers, generations), of all individuals.

    The layers are those whose filters a search can choose; of more than `STEPS` generations, evenly chosen ones.
    """
    costs = look.run.costs
    whole, least = costs.filters(costs.sizes), costs.filters(np.zeros_like(costs.sizes))
    free = np.flatnonzero(whole != least)
    numbers = look.frame["generation"].to_numpy(dtype=np.int64)
    generations = np.unique(numbers)
    generations = generations[evenly(len(generations), STEPS)]
    means = [costs.filters(look.counts[numbers == number]).mean(0) for number in generations]
    shares = np.array(means).reshape(len(generations), len(whole)) / whole
    return [costs.layers[index].name for index in free], generations, shares[:, free].T


def seconds_figure(look: Look) -> go.Figure:
    """Return how long evaluations took: a histogram, failures included."""
    seconds = look.frame["seconds"].dropna().to_numpy(dtype=float)
    counts, edges = np.histogram(seconds, bins=min(40, max(5, round(len(seconds) ** 0.5))))
    figure = _figure("seconds of an evaluation", "evaluations")
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": COLOURS["bar"]},
        name="evaluations",
        hovertemplate="%{y} evaluations of about %{x:.3g} s<extra></extra>",
        meta={"role": "bar"},
    )
    figure.update_layout(bargap=0.04, showlegend=False)
    return figure


def joint_front_figure(looks: Sequence[Look], names: Sequence[str]) -> go.Figure:
    """Return the front of every run over the first two of the looks' objectives, and what all runs together leave of them."""
    y, x = looks[0].objectives[:2]
    figure = _figure(axis_title(x), axis_title(y))
    for index, (look, name) in enumerate(zip(looks, names, strict=True)):
        rows = look.frame.iloc[thinned(look.front((x, y)), FRONT)]
        colour = RUNS[index % len(RUNS)]
        figure.add_scatter(
            x=rows[x.name].to_numpy(dtype=float),
            y=rows[y.name].to_numpy(dtype=float),
            customdata=rows.index.to_numpy(),
            name=_shortened(name),
            mode="lines+markers",
            marker={"color": colour, "size": 7, "symbol": index % 8},
            line={"color": colour, "width": 1.2, "shape": "hv"},
            hovertemplate=f"{escape(name)}, id %{{customdata}}<br>{escape(y.name)} %{{y:.5g}}<br>"
            f"{escape(x.name)} %{{x:.5g}}<extra></extra>",
            meta={"role": f"run{index % len(RUNS)}"},
        )
    _scale(figure, x, pd.concat([look.frame[x.name] for look in looks]))
    figure.update_layout(hovermode="closest", dragmode="pan")
    return figure


def joint_convergence_figure(looks: Sequence[Look], names: Sequence[str]) -> go.Figure:
    """Return the best value so far of the first objective over the evaluations, a line per run."""
    objective = looks[0].run.objectives[0]
    figure = _figure("evaluations", axis_title(objective))
    for index, (look, name) in enumerate(zip(looks, names, strict=True)):
        colour, role = RUNS[index % len(RUNS)], f"run{index % len(RUNS)}"
        _add_steps(figure, *best_so_far(look, objective), name, colour, role)
    return figure


def axis_title(axis: Objective) -> str:
    """Return what an axis is called: a column, and which way is better unless that is plain."""
    return escape(axis.name) + (" (more is better)" if axis.maximize else "")


def _scale(figure: go.Figure, axis: Objective, values: "pd.Series[float]") -> None:
    """Make the horizontal axis of a cost logarithmic; over few powers of ten, ticks between them have numbers as well."""
    if axis.name in COSTS and len(values) and values.min() > 0:
        few = values.max() / values.min() < 300
        figure.update_xaxes(type="log", dtick="D2" if few else 1, tickformat="~s")


def _add_steps(figure: go.Figure, x: NDArray[Any], y: NDArray[np.float64], name: str, colour: str, role: str) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines" if len(x) > 1 else "markers",
        line={"color": colour, "width": 2, "shape": "hv"},
        name=_shortened(name),
        hovertemplate=f"{escape(name)}<br>%{{x}} evaluations: %{{y:.5g}}<extra></extra>",
        meta={"role": role},
    )


def _shortened(name: str, most: int = 40) -> str:
    """Return a name as plotly draws it: no markup of its own, and not longer than there is room for."""
    return escape(name if len(name) <= most else f"…{name[1 - most :]}")


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 60, "r": 16, "t": 16, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"title": {"text": x}, "automargin": True, "zeroline": False, "gridcolor": "#e3e6e9"},
        yaxis={"title": {"text": y}, "automargin": True, "zeroline": False, "gridcolor": "#e3e6e9"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure
