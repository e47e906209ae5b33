"""A picture of synaptic pruning: connections, dead units and the error in the course of a training."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evo.errors import SettingsError
from evo.report.style import Picture

NAMED = 10
"""Layers up to which each has a colour and a name; of more, the first is dark and the last is light."""


def plot_appraisals(history: pd.DataFrame) -> Figure:
    """Plot what became of the connections, one above the other over the steps of the training.

    The share of the connections that are left, of every layer and of all together; how many units are dead, of the layers
    that have any; and the error on the validation images where the training measured it.

    Args:
        history: of `SynapticCompression`, `ConnectionAppraisal` or `evo.training.appraisals`.

    Raises:
        SettingsError: it has no rows.
    """
    if history.empty:
        raise SettingsError("history: it has no appraisals; was the network trained with an appraisal?")
    figure = Picture(figsize=(7, 7), layout="constrained")
    left, dead, error = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    layers = list(history.groupby("layer", sort=False))
    palette: Any = colormaps["tab10"].colors  # type: ignore[attr-defined]
    if len(layers) > NAMED:
        palette = colormaps["viridis"](np.linspace(0, 0.95, len(layers)))
    for (layer, rows), colour in zip(layers, palette, strict=False):
        left.plot(rows["step"], rows["alive"] / rows["connections"], color=colour, linewidth=1, label=layer)
        if rows["dead_units"].max() > 0:
            dead.step(rows["step"], rows["dead_units"], where="post", color=colour, linewidth=1, label=layer)
    total = history.groupby("step")[["alive", "connections"]].sum()
    left.plot(total.index, total["alive"] / total["connections"], color="0.1", linewidth=2, label="all")
    left.yaxis.set_major_formatter(PercentFormatter(1))
    gone = 1 - total["alive"].iloc[-1] / total["connections"].iloc[-1]
    left.set(
        ylabel="connections left", ylim=(0, 1.02), title=f"Synaptic pruning: {gone:.0%} of the connections removed"
    )
    _name(left)
    dead.yaxis.set_major_locator(MaxNLocator(integer=True))
    dead.set(ylabel="dead units")
    if dead.lines:
        _name(dead)
    else:
        dead.set(ylim=(0, 1), yticks=[0])
        dead.text(0.5, 0.5, "none", transform=dead.transAxes, ha="center", va="center", color="0.5")
    measured = history.dropna(subset="error").groupby("epoch")[["step", "error"]].last()
    error.plot(measured["step"], measured["error"], color="C3", marker=".", linewidth=1)
    error.yaxis.set_major_formatter(PercentFormatter(1))
    error.set(ylabel="validation error", xlabel="step")
    return figure


def _name(axes: Axes) -> None:
    """Say which line is which: of all, or of many of the first, the one in the middle and the last two."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > NAMED + 1:
        chosen = [0, len(handles) // 2, *range(len(handles) - 2, len(handles))]
        handles, labels = [handles[index] for index in chosen], [labels[index] for index in chosen]
    axes.legend(handles, labels, frameon=False, fontsize=8, ncols=3)
