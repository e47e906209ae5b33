"""Figures with what a page says beside them: a caption, words for those who do not see them, the numbers as a table."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from numpy.typing import NDArray

from evo.fitness.base import Objective
from evo.front import MOST
from evo.report import figures
from evo.report.look import Look, evenly
from evo.report.progress import number

ROWS = 60
"""Rows of a table behind a figure, at most."""


@dataclass(frozen=True)
class Drawn:
    """A figure on a page.

    Attributes:
        figure: as plotly has it.
        caption: what it shows and how to read it.
        said: what there is to see, in words.
        columns, rows: its numbers as a table.
    """

    figure: go.Figure
    caption: str
    said: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_json(self) -> Any:
        """Return the figure as plain values for JSON."""
        return json.loads(self.figure.to_json())


def convergence(look: Look, objective: Objective) -> Drawn:
    """Draw the best value of an objective so far, and generations."""
    evaluations, best = figures.best_so_far(look, objective)
    said = f"Best {objective.name} so far: {_course(evaluations, best)}."
    caption = f"The best {objective.name} so far ({'higher' if objective.maximize else 'lower'} is better)"
    return Drawn(
        figures.convergence_figure(look, objective),
        f"{caption}, and what the individuals of every generation have, at its end.",
        said,
        ("evaluations", f"best {objective.name}"),
        rows(zip(evaluations, best, strict=True)),
    )


def hypervolume(look: Look) -> Drawn | None:
    """Draw the hypervolume; None for one objective, or more than are drawn."""
    if not 2 <= len(look.objectives) <= MOST:
        return None
    figure = figures.hypervolume_figure([look])
    evaluations, volumes = figure.data[0].x, figure.data[0].y
    return Drawn(
        figure,
        f"How much of the box between the best and the worst {' and '.join(axis.name for axis in look.objectives)} of this "
        "run its front covers: the hypervolume. A cost reaches from 0 to that of the original network.",
        f"Hypervolume: {_course(evaluations, volumes)}.",
        ("evaluations", "hypervolume"),
        rows(zip(evaluations, volumes, strict=True)),
    )


def widths(look: Look) -> Drawn:
    """Draw how many filters the layers keep over the generations."""
    names, generations, shares = figures.layer_widths(look)
    said = f"Mean share of filters kept in generation {generations[-1]}: " if len(generations) else ""
    said += ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares[:, -1:].ravel(), strict=False))
    table = [(name, *(f"{value:.1%}" for value in row[[0, -1]])) for name, row in zip(names, shares, strict=True)]
    return Drawn(
        figures.widths_figure(look),
        "The mean share of its filters that a layer keeps, over all individuals of a generation; layers that stay whole are "
        "left out.",
        said,
        ("layer", "first generation", "last generation"),
        tuple(table),
    )


def seconds(look: Look) -> Drawn:
    """Draw how long evaluations took."""
    taken = look.frame["seconds"].dropna()
    quantiles = taken.quantile([0, 0.25, 0.5, 0.75, 1]).tolist() if len(taken) else [0.0] * 5
    names = ("shortest", "a quarter up to", "median", "three quarters up to", "longest")
    return Drawn(
        figures.seconds_figure(look),
        "How long evaluations took in their workers, failures included.",
        f"Median {quantiles[2]:.3g} seconds, from {quantiles[0]:.3g} to {quantiles[4]:.3g}.",
        ("", "seconds"),
        tuple((name, f"{value:.3g}") for name, value in zip(names, quantiles, strict=True)),
    )


def rows(values: Iterable[tuple[Any, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return rows of numbers as text; of many, evenly chosen ones."""
    listed = list(values)
    return tuple(tuple(number(float(value)) for value in listed[index]) for index in evenly(len(listed), ROWS))


def _course(evaluations: NDArray[Any], values: NDArray[Any]) -> str:
    if not len(values):
        return "no value yet"
    return (
        f"{number(float(values[0]))} after {int(evaluations[0]):,}, {number(float(values[-1]))} after "
        f"{int(evaluations[-1]):,} evaluations"
    )
