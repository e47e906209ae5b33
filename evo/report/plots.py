"""Pictures of a run, as matplotlib figures that belong to nobody else: no global state, no window."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from evo.errors import SettingsError, unknown_name
from evo.run import Run


def plot_front(run: Run, x: str = "params", y: str = "error") -> Figure:
    """Plot every evaluated individual and the Pareto front over the columns `x` (logarithmic) and `y`."""
    figure, axes = _figure()
    measured = run.history.query("status == 'ok' and not cached")
    front = run.pareto([y, x]).sort_values(x)
    axes.scatter(measured[x], measured[y], s=9, color="0.75", label=f"{len(measured)} candidates")
    axes.step(front[x], front[y], where="post", color="C3", linewidth=1)
    axes.scatter(front[x], front[y], s=22, color="C3", zorder=3, label=f"Pareto front, {len(front)} points")
    original = float(run.costs.costs(run.costs.sizes)[x])
    axes.axvline(original, color="0.4", linestyle=":", linewidth=1, label="original network")
    axes.set(xscale="log", xlabel=f"{x} (logarithmic)", ylabel=y, title="Every candidate, and the best trade-offs")
    axes.legend(frameon=False)
    return figure


def plot_evolution(run: Run, best: int = 30, x: str = "params", y: str = "error") -> Figure:
    """Plot the `best` individuals of every generation, coloured by generation (ECS Fig. 1)."""
    figure, axes = _figure()
    first = run.objectives[0]
    measured = run.history.query("status == 'ok'")
    ranked = measured.sort_values(first.name, ascending=not first.maximize, kind="stable")
    shown = ranked.groupby("generation").head(best).sort_values("generation")
    points = axes.scatter(shown[x], shown[y], c=shown["generation"], cmap="viridis", s=16, alpha=0.8)
    figure.colorbar(points, ax=axes, label="generation")
    title = f"Evolution: the best {best} individuals of each generation"
    axes.set(xscale="log", xlabel=f"{x} (logarithmic)", ylabel=y, title=title)
    return figure


def plot_filters(original: nn.Module, kept: list[int], tuned: nn.Module, layer: str) -> Figure:
    """Plot a convolution's filters: all of the original, those kept, and the kept ones after fine-tuning (ECS Fig. 2).

    Args:
        original: the whole network.
        kept: indices of the kept filters of `layer`.
        tuned: the small network after fine-tuning.
        layer: dotted name of the convolution; only its first input channel is drawn.
    """
    before = original.get_parameter(f"{layer}.weight").detach().numpy()[:, 0]
    after = tuned.get_parameter(f"{layer}.weight").detach().numpy()[:, 0]
    figure = Figure(figsize=(0.5 * len(before) + 1, 2.2), layout="constrained")
    grid = figure.subplots(3, len(before), squeeze=False)
    limit = float(np.abs(before).max())
    for column in range(len(before)):
        pictures = [before[column], None, None]
        if column in kept:
            pictures = [before[column], before[column], after[kept.index(column)]]
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            axes.axis("off")
            if picture is not None:
                axes.imshow(picture, cmap="gray", vmin=-limit, vmax=limit)
    for axes, name in zip(grid[:, 0], ("original", "kept", "tuned"), strict=True):
        axes.set_title(name, loc="left", fontsize=8)
    return figure


def plot_scores(run: Run, generations: Sequence[int] = (5, 10, 15, 20)) -> Figure:
    """Plot the first objective of every candidate of some generations, coloured by generation (FNP Fig. 6).

    A line marks the median of each generation; those that the run has not reached are left out.

    Raises:
        SettingsError: it has reached none of them.
    """
    figure, axes = _figure()
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
        colour = f"C{index % 10}"
        axes.axhline(float(part[score].median()), color=colour, linewidth=1, alpha=0.6)
        axes.scatter(part["place"], part[score], s=16, color=colour, alpha=0.8, label=f"generation {number}", zorder=3)
    axes.set(
        xlabel="candidate of its generation", ylabel=score, title="Candidates of some generations; lines are medians"
    )
    figure.legend(loc="outside lower center", ncols=min(len(shown), 5), frameon=False)
    return figure


def plot_score_distribution(runs: Run | Sequence[Run]) -> Figure:
    """Plot the first objective over the generations of one or several runs, a panel each (FNP Fig. 7).

    A box spans the middle half of a generation's candidates with the median in it, whiskers reach to the last one within
    1.5 times its height, and the line is the best so far.

    Raises:
        SettingsError: there is no run, or the runs have different objectives.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    found = sorted({run.objectives[0].name for run in runs})
    if len(found) != 1:
        raise SettingsError(f"runs: expected runs with one first objective, got {', '.join(found) or 'no run'}")
    first = runs[0].objectives[0]
    seeds = [run.settings["seed"] for run in runs]
    figure, panels = _panels(len(runs), 2, (6.2, 3.2), first.name)
    for run, seed, axes in zip(runs, seeds, panels, strict=True):
        scores = run.history.query("status == 'ok'").groupby("generation")[first.name]
        positions = [int(str(number)) for number, _ in scores]
        axes.boxplot(
            [part.to_numpy() for _, part in scores],
            positions=positions,
            widths=0.6,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": "C0", "alpha": 0.35, "linewidth": 0.8},
            medianprops={"color": "C0", "linewidth": 1.6},
            whiskerprops={"color": "0.4", "linewidth": 0.8},
            capprops={"color": "0.4", "linewidth": 0.8},
            flierprops={"marker": ".", "markersize": 4, "markeredgecolor": "0.5"},
        )
        best = scores.max().cummax() if first.maximize else scores.min().cummin()
        axes.plot(positions, best.to_numpy(), color="C3", linewidth=1, label="best so far")
        axes.set(xlabel="generation", title=f"seed {seed}" if seeds.count(seed) == 1 else run.folder.name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    panels[0].legend(frameon=False, loc="lower right" if first.maximize else "upper right")
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
    figure, panels = _panels(len(proxies), 4, (3.2, 3.0), truth)
    for name, axes in zip(proxies, panels, strict=True):
        part = frame[[name, truth]].dropna()
        spearman, kendall = (float(test(part[name], part[truth]).statistic) for test in (spearmanr, kendalltau))
        axes.scatter(part[name], part[truth], s=7, alpha=0.5, linewidths=0)
        axes.set_title(f"{name}\nSpearman {spearman:.2f}, Kendall {kendall:.2f}", fontsize=10)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write `figure` as a PNG file and return its path."""
    figure.savefig(path, dpi=120)
    return path


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _panels(count: int, columns: int, size: tuple[float, float], label: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels of `size` inches in even rows of at most `columns`, which share the axis `label`."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    panels = list(grid.flat[:count])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
