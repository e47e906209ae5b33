"""A picture of synaptic pruning: connections, dead units and the error in the course of a training."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evo.errors import SettingsError


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
    figure = Figure(figsize=(7, 7), layout="constrained")
    left, dead, error = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    for layer, rows in history.groupby("layer", sort=False):
        left.plot(rows["step"], rows["alive"] / rows["connections"], linewidth=1, label=layer)
        if rows["dead_units"].max() > 0:
            dead.step(rows["step"], rows["dead_units"], where="post", linewidth=1, label=layer)
    total = history.groupby("step")[["alive", "connections"]].sum()
    left.plot(total.index, total["alive"] / total["connections"], color="0.1", linewidth=2, label="all")
    left.yaxis.set_major_formatter(PercentFormatter(1))
    gone = 1 - total["alive"].iloc[-1] / total["connections"].iloc[-1]
    left.set(
        ylabel="connections left", ylim=(0, 1.02), title=f"Synaptic pruning: {gone:.0%} of the connections removed"
    )
    left.legend(frameon=False, fontsize=8, ncols=3)
    dead.yaxis.set_major_locator(MaxNLocator(integer=True))
    dead.set(ylabel="dead units")
    if dead.lines:
        dead.legend(frameon=False, fontsize=8, ncols=3)
    else:
        dead.set_ylim(0, 1)
    measured = history.dropna(subset="error").groupby("epoch")[["step", "error"]].last()
    error.plot(measured["step"], measured["error"], color="C3", marker=".", linewidth=1)
    error.yaxis.set_major_formatter(PercentFormatter(1))
    error.set(ylabel="validation error", xlabel="step")
    return figure
