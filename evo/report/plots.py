"""Pictures of a run, as matplotlib figures that belong to nobody else: no global state, no window."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

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


def save_figure(figure: Figure, path: Path) -> Path:
    """Write `figure` as a PNG file and return its path."""
    figure.savefig(path, dpi=120)
    return path


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
