"""Pictures of layer widths: of the best individuals over the generations, and of a front with its objectives."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, PercentFormatter

from evo.errors import SettingsError
from evo.report.front import succeeded
from evo.report.labels import LABELS
from evo.report.plots import best_of_generations
from evo.report.style import MANY, PALETTE, counted, new_figure, new_panels, whole_numbers
from evo.run import Run

PANELS = 6
"""Coupling groups that have a panel each; of more, there is a heat map."""

HALO = [withStroke(linewidth=2.5, foreground="white")]

COMPARED = ("params", "macs", "feature_maps", "peak_memory")
"""Costs beside the objectives of a front unless told otherwise."""


def kept_shares(run: Run, rows: Sequence[int]) -> pd.DataFrame:
    """Return the share of channels that individuals keep of every coupling group, one row each, indexed by id."""
    counts, _ = run.structures()  # ids count from 0
    return pd.DataFrame(counts[list(rows)] / run.costs.sizes, index=pd.Index(rows, name="id"), columns=list(run.groups))


def plot_widths(run: Run, best: int = 10) -> Figure:
    """Plot what share of each coupling group's channels the best individuals of every generation keep.

    Of up to six groups, a panel each: the mean, and the range of the middle 80 % of these individuals. Of more, or of a single
    generation, a heat map of the means.

    Args:
        run: a search.
        best: individuals of each generation, by the first objective.

    Raises:
        SettingsError: `best` is less than 1.
        RunFolderError: nothing has succeeded yet.
    """
    shown = best_of_generations(run, best)
    shares = kept_shares(run, shown.index.tolist())
    generations = shares.groupby(shown["generation"])
    means = generations.mean()
    title = f"Channels kept by the best {best} of each generation by {run.objectives[0].name}"
    if len(means) == 1 or len(run.groups) > PANELS:
        return _heat_map(means, title)
    low, high = generations.quantile(0.1), generations.quantile(0.9)
    figure, panels = new_panels(len(run.groups), 3, (3.0, 2.4), "channels kept")
    for group, axes in zip(run.groups, panels, strict=True):
        axes.fill_between(means.index, low[group], high[group], color=PALETTE[0], alpha=0.2, linewidth=0)
        axes.plot(means.index, means[group], color=PALETTE[0], marker=".", linewidth=1.5)
        axes.set(title=f"{group} ({run.groups[group]:,} channels)", xlabel="generation", ylim=(0, 1.04))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        whole_numbers(axes)
    figure.suptitle(f"{title}\nline: mean, band: the middle 80 %", fontsize=10)
    return figure


def _heat_map(means: pd.DataFrame, title: str) -> Figure:
    count = means.shape[1]
    figure, axes = new_figure(max(5.0, min(12.0, 3 + 0.25 * len(means))), max(2.6, min(14.0, 1.4 + 0.17 * count)))
    first, last = means.index[0], means.index[-1]
    grid = means.reindex(range(first, last + 1)).T.to_numpy()  # a generation without results is left white
    picture = axes.imshow(
        grid, aspect="auto", cmap="viridis", vmin=0, vmax=1, extent=(first - 0.5, last + 0.5, count - 0.5, -0.5)
    )
    bar = figure.colorbar(picture, ax=axes, label="channels kept, mean")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_yticks(range(count), list(means.columns), fontsize=8 if count <= 40 else 5)
    axes.set(xlabel="generation", ylabel="coupling group")
    axes.set_title(title, fontsize=10)
    whole_numbers(axes)
    return figure


def plot_parallel(
    run: Run, columns: Sequence[str] | None = None, *, widths: bool = False, chosen: Sequence[int] = ()
) -> Figure:
    """Plot the Pareto front in parallel coordinates: a line per individual, an axis per objective or cost, better upwards.

    Every axis reaches from the smallest to the largest value on the front. Colours tell the first of them.

    Args:
        run: a search.
        columns: names of objectives or costs, at least two; the front is that of `run.trade_off`, whichever are drawn. Default
            those, and with costs beside them.
        widths: draw the share of channels kept of every coupling group in place of the costs.
        chosen: ids of individuals to mark, also such that are not on the front.

    Raises:
        SettingsError: an unknown name, or fewer than two.
        RunFolderError: nothing has succeeded yet, or there is no individual of an id.
    """
    names = list(run.trade_off if columns is None else dict.fromkeys(columns))
    if columns is None and not widths:
        names += [name for name in COMPARED if name not in names]
    most = run.maximized(names)
    if len(names) + widths * len(run.groups) < 2:
        raise SettingsError(f"columns: expected at least two objectives or costs, got {', '.join(names) or 'none'}")
    front = run.pareto(run.trade_off)
    size = len(front)
    for row in chosen:
        record = succeeded(run, row)
        front = front if row in front.index else pd.concat([front, record.to_frame().T])
    values = front[names].astype(float)
    if widths:
        values = values.join(kept_shares(run, front.index.tolist()))
    title = f"Pareto front over {', '.join(run.trade_off)}: {counted(size, 'individual')}"
    return _parallel(values, most, list(chosen), f"{title}; of objectives and costs, better is up")


def _parallel(values: pd.DataFrame, most: dict[str, bool], chosen: list[int], title: str) -> Figure:
    """Draw a line per row; columns that are not in `most` are shares of channels, from 0 to 1."""
    shares = [name not in most for name in values.columns]
    low = np.where(shares, 0.0, values.min())
    span = np.where(shares, 1.0, values.max()) - low
    places = (values.to_numpy() - low) / np.where(span > 0, span, 1.0)
    places[:, span == 0] = 0.5
    flipped = np.array([not most.get(name, True) for name in values.columns])
    places[:, flipped] = 1 - places[:, flipped]
    count, lines = values.shape[1], len(values)
    figure, axes = new_figure(max(6.0, min(16.0, 1.5 + 1.3 * count)), 4.4)
    axes.spines[:].set_visible(False)
    paths = [np.column_stack([np.arange(count), line]) for line in places]
    first = str(values.columns[0])
    bundle = LineCollection(
        paths, cmap="viridis", linewidths=1.2, alpha=float(np.clip(20 / lines, 0.15, 0.85)), rasterized=lines > MANY
    )
    bundle.set_array(values[first].to_numpy())
    if lines == 1 or span[0] == 0:
        bundle.set_norm(Normalize(low[0] - 1, low[0] + 1))
    axes.add_collection(bundle)
    for row in chosen:
        index = values.index.tolist().index(row)
        axes.plot(range(count), places[index], color=PALETTE[1], linewidth=2.2, marker="o", markersize=4)
        axes.text(count - 1 + 0.06, float(places[index, -1]), f"id {row}", color=PALETTE[1], va="center", fontsize=9)
    for index in range(count):
        _axis(axes, index, low[index], span[index], flipped=bool(flipped[index]), share=shares[index])
    axes.set(xlim=(-0.35, count - 1 + 0.35), ylim=(-0.07, 1.07), yticks=[])
    names = [
        f"channels\nof {name}" if share else LABELS.get(name, name).replace(" ", "\n", 1)
        for name, share in zip(map(str, values.columns), shares, strict=True)
    ]
    longest = max(len(line) for name in names for line in name.split("\n"))
    upright = count * longest > 13 * figure.get_figwidth()
    axes.set_xticks(range(count), names, fontsize=9, rotation=90 if upright else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_title(title, fontsize=10)
    return figure


def _axis(axes: Axes, place: int, low: float, span: float, *, flipped: bool, share: bool) -> None:
    """Draw one of the parallel axes, with values at its ends and in the middle."""
    axes.axvline(place, 0.07 / 1.14, 1.07 / 1.14, color="0.25", linewidth=0.9, zorder=1)
    for height in (0.0, 0.5, 1.0) if span > 0 else (0.5,):
        value = low + span * (1 - height if flipped else height) * (span > 0)
        if share:
            text = f"{value:.0%}"
        elif abs(value) >= 1000:
            text = EngFormatter(places=1, sep="").format_eng(value)
        else:
            text = f"{value:.3g}"
        axes.text(place + 0.04, height, text, fontsize=8, va="center", color="0.2", zorder=5, path_effects=HALO)
