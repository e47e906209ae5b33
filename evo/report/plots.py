"""Pictures of a run, as matplotlib figures that belong to nobody else: no global state, no window."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from evo.errors import RunFolderError, SettingsError, unknown_name
from evo.report.front import two_axes
from evo.report.labels import label
from evo.report.style import MANY, PALETTE, Picture, marker_area, new_figure, new_panels, scale_axes, whole_numbers
from evo.run import Run

TILES = 25
"""Filters side by side in a picture of them."""


def plot_evolution(run: Run, best: int = 30, x: str | None = None, y: str | None = None) -> Figure:
    """Plot the `best` individuals of every generation, coloured by generation (ECS Fig. 1).

    Raises:
        SettingsError: an unknown name, twice the same, or `best` is less than 1.
        RunFolderError: nothing has succeeded yet.
    """
    x, y = two_axes(run, x, y)
    most = run.maximized([x, y])
    figure, axes = new_figure()
    shown = best_of_generations(run, best)
    points = axes.scatter(
        shown[x], shown[y], c=shown["generation"], cmap="viridis", s=marker_area(len(shown)), alpha=0.8, linewidths=0
    )
    points.set_rasterized(len(shown) > MANY)
    bar = figure.colorbar(points, ax=axes, label="generation")
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()
    scale_axes(axes, x, y)
    title = f"Evolution: the best {best} individuals of each generation by {run.objectives[0].name}"
    axes.set(xlabel=label(x, most[x]), ylabel=label(y, most[y]), title=title)
    return figure


def best_of_generations(run: Run, best: int) -> pd.DataFrame:
    """Return the `best` individuals of every generation by the first objective, sorted by generation.

    Raises:
        SettingsError: `best` is less than 1.
        RunFolderError: nothing has succeeded yet.
    """
    if best < 1:
        raise SettingsError(f"best: expected at least 1 individual of each generation, got {best}")
    first, measured = run.objectives[0], run.history.query("status == 'ok'")
    if measured.empty:
        raise RunFolderError(f"{run.folder}: no evaluation has succeeded yet")
    ranked = measured.sort_values(first.name, ascending=not first.maximize, kind="stable")
    return ranked.groupby("generation").head(best).sort_values("generation", kind="stable")


def plot_filters(
    before: NDArray[np.float32], kept: Sequence[int], after: NDArray[np.float32] | None, title: str = "Filters"
) -> Figure:
    """Plot a convolution's filters: all of the original, those kept, and the kept ones after fine-tuning (ECS Fig. 2).

    Zero is grey, and the largest absolute weight of the original is black or white, in all rows alike.

    Args:
        before: one slice of every filter of the whole network, shape (filters, height, width).
        kept: indices of those that the small network keeps.
        after: the same slice of those after fine-tuning, shape (kept, height, width), or None.
        title: of the picture.
    """
    survivors = np.full_like(before, np.nan)
    survivors[list(kept)] = before[list(kept)]
    rows = {"original": before, f"kept, {len(kept)} of {len(before)}": survivors}
    if after is not None:
        tuned = np.full_like(before, np.nan)
        tuned[list(kept)] = after
        rows["kept, after fine-tuning"] = tuned
    columns = min(len(before), TILES)
    lines = -(-len(before) // columns)
    height, width = before.shape[1] + 1, before.shape[2] + 1
    inches = min(0.42, 9.0 / columns)
    size = (max(4.0, inches * columns + 0.6), len(rows) * (inches * lines * height / width + 0.35) + 0.5)
    figure = Picture(figsize=size, layout="constrained")
    limit = float(np.abs(before).max()) or 1.0
    for axes, (name, tiles) in zip(figure.subplots(len(rows), 1, squeeze=False).flat, rows.items(), strict=True):
        picture = np.full((lines * height - 1, columns * width - 1), np.nan)
        for index, tile in enumerate(tiles):
            top, left = index // columns * height, index % columns * width
            picture[top : top + height - 1, left : left + width - 1] = tile
        axes.imshow(picture, cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.axis("off")
        axes.set_title(name, loc="left", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def plot_scores(run: Run, generations: Sequence[int] = (5, 10, 15, 20)) -> Figure:
    """Plot the first objective of every candidate of some generations, coloured by generation (FNP Fig. 6).

    A line marks the median of each generation; those that the run has not reached are left out.

    Raises:
        SettingsError: it has reached none of them.
    """
    figure, axes = new_figure()
    history = run.history
    # All that were asked for have a place, though nothing is drawn for one that failed.
    history["place"] = history.groupby("generation").cumcount()
    measured = history[history["status"] == "ok"]
    shown = [number for number in generations if (measured["generation"] == number).any()]
    if not shown:
        last = measured["generation"].max() if len(measured) else "none"
        raise SettingsError(
            f"generations: got {list(generations)}, the last that {run.folder} has results of is {last}"
        )
    score = run.objectives[0].name
    for index, number in enumerate(shown):
        part = measured[measured["generation"] == number]
        colour = PALETTE[index % len(PALETTE)]
        axes.axhline(float(part[score].median()), color=colour, linewidth=1, alpha=0.6)
        axes.scatter(part["place"], part[score], s=16, color=colour, alpha=0.8, label=f"generation {number}", zorder=3)
    axes.set(xlabel="candidate of its generation", ylabel=label(score, run.objectives[0].maximize))
    axes.set(title="Candidates of some generations; lines are medians")
    figure.legend(loc="outside lower center", ncols=min(len(shown), 5), frameon=False)
    return figure


def plot_score_distribution(runs: Run | Sequence[Run]) -> Figure:
    """Plot the first objective over the generations of one or several runs, a panel each (FNP Fig. 7).

    A box spans the middle half of a generation's candidates with the median in it, whiskers reach to the last one within
    1.5 times its height, and the line is the best so far.

    Raises:
        SettingsError: there is no run, or the runs have different objectives.
        RunFolderError: of one, nothing has succeeded yet.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    found = sorted({run.objectives[0].name for run in runs})
    if len(found) != 1:
        raise SettingsError(f"runs: expected runs with one first objective, got {', '.join(found) or 'no run'}")
    first = runs[0].objectives[0]
    seeds = [run.settings["seed"] for run in runs]
    figure, panels = new_panels(len(runs), 2, (6.2, 3.2), label(first.name, first.maximize))
    for run, seed, axes in zip(runs, seeds, panels, strict=True):
        measured = run.history.query("status == 'ok'")
        if measured.empty:
            raise RunFolderError(f"{run.folder}: no evaluation has succeeded yet")
        scores = measured.groupby("generation")[first.name]
        positions = [int(str(number)) for number, _ in scores]
        axes.boxplot(
            [part.to_numpy() for _, part in scores],
            positions=positions,
            widths=0.6,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": PALETTE[0], "alpha": 0.35, "linewidth": 0.8},
            medianprops={"color": PALETTE[0], "linewidth": 1.6},
            whiskerprops={"color": "0.4", "linewidth": 0.8},
            capprops={"color": "0.4", "linewidth": 0.8},
            flierprops={"marker": ".", "markersize": 4, "markeredgecolor": "0.5"},
        )
        best = scores.max().cummax() if first.maximize else scores.min().cummin()
        axes.plot(positions, best.to_numpy(), color=PALETTE[1], linewidth=1, label="best so far")
        axes.set(xlabel="generation", title=f"seed {seed}" if seeds.count(seed) == 1 else run.folder.name)
        whole_numbers(axes)
    panels[0].legend(framealpha=0.8, edgecolor="none", loc="lower right" if first.maximize else "upper right")
    return figure


def plot_proxies(frame: pd.DataFrame, truth: str, proxies: Sequence[str]) -> Figure:
    """Plot the column `truth` against every proxy for it, a panel each, with rank correlations.

    Args:
        frame: a row per network; rows without one of the two numbers are left out of a panel.
        truth: name of a column, such as the accuracy after training.
        proxies: names of columns.

    Raises:
        SettingsError: there is no proxy, or a column is not there.
    """
    from scipy.stats import kendalltau, spearmanr

    if not proxies:
        raise SettingsError("proxies: expected names of columns, got none")
    for name in (truth, *proxies):
        if name not in frame:
            raise SettingsError(unknown_name("column", name, map(str, frame.columns)))
    figure, panels = new_panels(len(proxies), 4, (3.2, 3.0), truth)
    for name, axes in zip(proxies, panels, strict=True):
        part = frame[[name, truth]].dropna()
        spearman, kendall = (float(test(part[name], part[truth]).statistic) for test in (spearmanr, kendalltau))
        axes.scatter(part[name], part[truth], s=7, alpha=0.5, linewidths=0)
        axes.set_title(f"{name}\nSpearman {spearman:.2f}, Kendall {kendall:.2f}", fontsize=10)
    return figure


def check_picture(path: Path) -> None:
    """Raise SettingsError unless the ending of `path` is that of a picture."""
    known = FigureCanvasBase.filetypes
    if path.suffix.removeprefix(".").lower() not in known:
        raise SettingsError(f"{path}: a picture ends in {', '.join(f'.{name}' for name in sorted(known))}")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write `figure` to a file, as its ending says (.png, .pdf, .svg, …), and return its path.

    Raises:
        SettingsError: the ending is of no picture, or the file cannot be written.
    """
    check_picture(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
