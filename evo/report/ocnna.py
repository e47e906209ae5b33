"""OCNNA's sensitivity study: what the percentile k does to accuracy and size (Fig. 3)."""

import pandas as pd
from matplotlib.figure import Figure

from evo.errors import SettingsError, unknown_name
from evo.report.style import Picture


def plot_sensitivity(sensitivity: pd.DataFrame, original_error: float | None = None, error: str = "error") -> Figure:
    """Plot accuracy and the remaining parameters ratio (eq. 7), both in per cent, over the percentile k.

    Args:
        sensitivity: columns `k`, `rpr` in [0, 1], and one of errors in [0, 1]; `OcnnaCompression.sensitivity` is one.
        original_error: of the whole network, drawn as a line.
        error: name of the column of errors.

    Raises:
        SettingsError: a column is not there.
    """
    for name in ("k", "rpr", error):
        if name not in sensitivity:
            raise SettingsError(unknown_name("column", name, map(str, sensitivity.columns)))
    shown = sensitivity.sort_values("k")
    figure = Picture(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines["top"].set_visible(False)
    axes.plot(shown["k"], 100 * (1 - shown[error]), color="C0", marker="o", label="accuracy")
    if original_error is not None:
        axes.axhline(100 * (1 - original_error), color="0.4", linestyle=":", linewidth=1, label="original network")
    axes.set(xlabel="percentile k", ylabel="accuracy, %", title="Sensitivity to the percentile of significance")
    beside = axes.twinx()
    beside.spines["top"].set_visible(False)
    beside.plot(shown["k"], 100 * shown["rpr"], color="C3", marker="s", label="remaining parameters")
    beside.set(ylabel="remaining parameters, %", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
