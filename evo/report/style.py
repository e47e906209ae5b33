"""What all pictures share: colours that colour-blind people tell apart, and figures that belong to nobody."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from evo.network import COSTS

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito 2008, the darker ones first; yellow is last, since it is hard to see on white."""

CANDIDATES, FRONT, CHOSEN = "0.72", PALETTE[1], PALETTE[0]
"""Colours of every candidate, of the best trade-offs, and of the individuals that the reader asked for."""

DASHES = ("solid", "dashed", "dotted", "dashdot")
"""Told apart by line style too, once the colours are used up."""

MANY = 2000
"""Points from which on they are drawn smaller, and as pixels in a vector file."""


class Picture(Figure):
    """A figure that a notebook shows, although it knows nothing of pyplot."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png", dpi=100)
        return picture.getvalue()


def new_figure(width: float = 7.0, height: float = 4.2) -> tuple[Figure, Axes]:
    """Return a figure with one panel, in inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    open_frame([axes])
    return figure, axes


def new_panels(count: int, columns: int, size: tuple[float, float], text: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels of `size` inches in even rows of at most `columns`, which share the axis `text`."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = Picture(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(text)
    panels = list(grid.flat[:count])
    open_frame(panels)
    return figure, panels


def open_frame(panels: Iterable[Axes]) -> None:
    """Leave the lines at the top and at the right out."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)


def scale_axes(axes: Axes, x: str, y: str) -> None:
    """Draw costs on logarithmic axes with plain numbers; what else there is may be 0 or less, and is drawn as it is."""
    for name, axis, scale in ((x, axes.xaxis, axes.set_xscale), (y, axes.yaxis, axes.set_yscale)):
        if name in COSTS:
            scale("log")
            axis.set_major_formatter(EngFormatter(sep=""))
            low, high = sorted(axis.get_view_interval())
            # Within two decades, powers of ten alone would leave an axis with hardly a number.
            axis.set_minor_locator(LogLocator(subs=(2, 5) if high > 5 * low else range(1, 10)))
            axis.set_minor_formatter(EngFormatter(sep="") if high < 100 * low else NullFormatter())


def whole_numbers(axes: Axes) -> None:
    """Let the horizontal axis count: generations, evaluations."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def marker_area(count: int, largest: float = 16.0) -> float:
    """Return how large, in square points, each of so many points is drawn."""
    return float(min(largest, max(1.5, largest * (200 / max(1, count)) ** 0.5)))


def draw_candidates(axes: Axes, x: ArrayLike, y: ArrayLike, text: str) -> None:
    """Draw one grey point each, smaller the more there are, and say in the legend what they are."""
    count = np.size(x)
    area = marker_area(count, 9)
    axes.scatter(x, y, s=area, color=CANDIDATES, linewidths=0, rasterized=count > MANY)
    axes.scatter([], [], s=9, color=CANDIDATES, linewidths=0, label=text)


def draw_steps(axes: Axes, x: ArrayLike, y: ArrayLike, **style: Any) -> None:
    """Draw what holds from one evaluation to the next; of a single one, a dot."""
    axes.step(x, y, where="post", marker="o" if np.size(x) == 1 else None, markersize=5, **style)


def counted(count: int, noun: str) -> str:
    """Return "1 point" or "2,000 points"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def line_styles(count: int) -> Sequence[tuple[str, str]]:
    """Return a colour and a dash for each of `count` lines; beyond 32 they repeat."""
    colours = PALETTE[:-1] if count <= len(PALETTE) - 1 else PALETTE
    return [(colours[index % len(colours)], DASHES[index // len(colours) % len(DASHES)]) for index in range(count)]


def legend_below(figure: Figure) -> None:
    """Put the legend below the panels, in as many columns as there is room for."""
    texts = [text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]
    room = figure.get_figwidth() * 14  # characters of its font, about
    columns = max(1, min(len(texts), int(room // (max(map(len, texts)) + 8))))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
