"""Pictures of the layers of one candidate: ribbon, fingerprint, before and after, and a policy's table (AdaLayerNet, Figs. 2
to 6).

They draw the table of an `evo.policy.Policy`, which counts parameters, or the rows of layers of `Run.layers`, which counts
weights, of any encoding. Where no layer is quantised, nothing is said of bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import EngFormatter, PercentFormatter
from numpy.typing import NDArray

from evo.blueprint import FULL_BITS
from evo.errors import SettingsError
from evo.report.labels import LABELS
from evo.report.style import PALETTE, Picture, line_styles

FloatArray = NDArray[np.float64]

AXES = {
    "kept_params": "parameters",
    "kept_weights": "weights",
    "kept_macs": "FLOPs",
    "kept_feature_maps": "feature\nmaps",
    "pruned": "pruning",
    "bits": "bits",
    "A": "accuracy\ncontribution",
}
"""The axes of a fingerprint, by column; those that a table has are drawn, bits only if any layer is quantised."""

OVERLAID = 9
"""Layers whose fingerprints share one picture; of more, each has its own."""

LABELLED = 12
"""Layers up to which there is room for figures beside their names."""

WIDEST = 16.0
"""Inches that the labels of so few layers may take side by side; beyond, names alone are written upright."""

LONGEST = 18
"""Characters of a name where there is little room."""

HATCHES = 5
"""Steps of pruning that the ribbon's hatching tells apart."""


def policy_table(layers: pd.DataFrame) -> pd.DataFrame:
    """Return the table of AdaLayerNet's Fig. 6: a row per layer, and "total".

    Columns: `params_k_before` and `params_k_after`, thousands of parameters, those after counted in units of 32 bits as the
    paper does; `prune_pct`, the share of filters that is gone in per cent, in total that of parameters; `quant_bits`, in
    total the mean over the parameters that are kept; `acc_contrib`, the accuracy contributions as shares of their sum.

    Args:
        layers: the table of an `evo.policy.Policy`.
    """
    after = layers["kept_params"] * layers["bits"] / 32
    table = pd.DataFrame(
        {
            "params_k_before": layers["params"] / 1000,
            "params_k_after": after / 1000,
            "prune_pct": 100 * layers["pruned"],
            "quant_bits": layers["bits"].astype(float),
        }
    )
    if "A" in layers:
        whole = layers["A"].sum()
        table["acc_contrib"] = layers["A"] / whole if whole > 0 else 0.0
    total = table[["params_k_before", "params_k_after"]].sum()
    kept = layers["kept_params"].sum()
    total["prune_pct"] = 100 * (1 - kept / layers["params"].sum())
    total["quant_bits"] = 32 * after.sum() / kept
    if "A" in layers:
        total["acc_contrib"] = table["acc_contrib"].sum()
    table.loc["total"] = total
    return table


def plot_ribbon(layers: pd.DataFrame, title: str = "Architecture ribbon") -> Figure:
    """Plot one segment per layer: width ∝ parameters kept, colour = bits, hatch density = share of filters pruned (Fig. 3).

    Where no layer is quantised, the colour is the share of filters pruned.

    Args:
        layers: a row per layer, see the module.
        title: of the picture.
    """
    size, quantised = _size(layers), _quantised(layers)
    count, labels = len(layers), _labels(layers)
    wide = 1.2 + 0.065 * count * max(len(line) for label in labels for line in label.split("\n"))
    crowded = count > LABELLED or wide > WIDEST
    if crowded:
        labels = [_short(name) for name in layers.index]
    width = max(9.0, 2 + 0.24 * count if crowded else wide)
    figure = Picture(figsize=(width, 3.9 if crowded else 3.1), layout="constrained")
    axes = figure.subplots()
    shares = layers[f"kept_{size}"].to_numpy(dtype=float) / layers[f"kept_{size}"].sum()
    ends = np.cumsum(shares)
    colours, norm = _bit_colours(layers["bits"]) if quantised else (colormaps["cividis"], Normalize(0, 1))
    shown = layers["bits" if quantised else "pruned"]
    for share, end, value, pruned in zip(shares, ends, shown, layers["pruned"], strict=True):
        axes.add_patch(
            Rectangle(
                (end - share, 0.0),
                share,
                1.0,
                facecolor=colours(norm(value)),
                edgecolor=(1, 1, 1, 0.75),
                linewidth=0,
                hatch=_hatch(pruned) if quantised else "",
            )
        )
    axes.vlines(ends[:-1][shares[:-1] > 0.003], 0, 1, color="white", linewidth=1.2)
    _label_segments(axes, labels, ends - shares / 2, crowded=crowded)
    axes.set(xlim=(-0.005, 1.005), ylim=(-1.4 if crowded else -0.85, 1.06), title=title)
    axes.axis("off")
    text = "bits per weight" if quantised else "filters pruned"
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, shrink=0.6, aspect=12, pad=0.01, label=text)
    if quantised:
        steps = np.arange(int(shown.min()), int(shown.max()) + 1)
        bar.set_ticks(steps[:: max(1, len(steps) // 8)].tolist())
        bar.ax.minorticks_off()
        _hatch_legend(figure, layers["pruned"])
    else:
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
        below = "" if crowded else "; below: their number, and the share of filters that is gone"
        figure.supxlabel(f"width: {LABELS[size]} kept{below}", fontsize=8, color="0.35")
    return figure


def plot_fingerprint(layers: pd.DataFrame, title: str = "Layer fingerprints") -> Figure:
    """Plot one polygon per layer over what is kept of it, pruning, and bits and accuracy contribution if there are (Fig. 2).

    Every axis is a share of the largest layer's value; pruning is the share of filters that is gone. Up to nine layers lie
    over each other; of more, each has a panel of its own, with the others in grey behind it.

    Args:
        layers: a row per layer, see the module; the closed form's table also has the contributions, its column A.
        title: of the picture.

    Raises:
        SettingsError: it has fewer than three columns of `AXES`.
    """
    drawn = [name for name in AXES if name in layers and (name != "bits" or _quantised(layers))]
    if len(drawn) < 3:
        raise SettingsError(
            f"layers: a fingerprint takes three of the columns {', '.join(AXES)}, got {', '.join(drawn)}"
        )
    values = layers[drawn].to_numpy(dtype=float)
    largest = np.where(np.array(drawn) == "pruned", 1.0, values.max(0))
    shares = values / np.where(largest > 0, largest, 1.0)
    names = [str(name) for name in layers.index]
    if len(names) <= OVERLAID:
        return _overlaid(names, shares, drawn, title)
    return _small_multiples(names, shares, drawn, title)


def plot_layers(layers: pd.DataFrame, title: str = "") -> Figure:
    """Plot every layer's parameters before and after (Figs. 4 and 5), and below what is left of them and of their bytes.

    Args:
        layers: a row per layer, see the module.
        title: of the picture.
    """
    count, size, quantised = len(layers), _size(layers), _quantised(layers)
    figure = Picture(figsize=(max(7.5, 2 + 0.24 * count), 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    places = np.arange(count)
    upper.bar(places, layers[size], width=0.8, color="0.82", label="before")
    upper.bar(places, layers[f"kept_{size}"], width=0.56, color=PALETTE[0], label="after")
    upper.yaxis.set_major_formatter(EngFormatter())
    upper.set(ylabel=LABELS[size], title=title or f"{LABELS[size].capitalize()} per layer, before and after")
    own = f"{LABELS[size]} left"
    shares = {own if quantised else "": layers[f"kept_{size}"] / layers[size]}
    if quantised:
        shares["bytes left"] = layers["kept_bytes"] / layers["bytes"]
    width = 0.8 / len(shares)
    for index, ((text, left), colour) in enumerate(zip(shares.items(), PALETTE, strict=False)):
        middles = places + width * (index - (len(shares) - 1) / 2)
        lower.bar(middles, left, width=width, color=colour, label=text)
        for place, share in zip(middles, left, strict=True) if count <= LABELLED else ():
            lower.text(place, share, f"{100 * share:.0f}", ha="center", va="bottom", fontsize=7)
    lower.set(ylabel="left" if quantised else own, ylim=(0, 1.1), xlim=(-0.6, count - 0.4))
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    crowded = count > LABELLED or max(len(str(name)) for name in layers.index) > 10
    lower.set_xticks(places, [str(name) for name in layers.index], rotation=90 if crowded else 0, fontsize=8)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", length=0)
    return figure


def _size(layers: pd.DataFrame) -> str:
    """Return the column that says how large a layer is."""
    return "params" if "params" in layers else "weights"


def _quantised(layers: pd.DataFrame) -> bool:
    return bool((layers["bits"] < FULL_BITS).any())


def _bit_colours(bits: "pd.Series[Any]") -> tuple[Colormap, BoundaryNorm]:
    """Return a colour for every number of bits between the fewest, dark, and the most, light."""
    low, high = int(bits.min()), int(bits.max())
    count = high - low + 1
    palette = colormaps["viridis"](np.linspace(0.12, 0.92, count) if count > 1 else [0.5])
    return ListedColormap(palette), BoundaryNorm(np.arange(low, high + 2) - 0.5, max(count, 1))


def _hatch(pruned: float) -> str:
    return "/" * math.ceil(round(pruned * HATCHES, 9))


def _labels(layers: pd.DataFrame) -> list[str]:
    """Return every layer's name, and below it what it keeps, and its bits or the share of its filters that went."""
    labels, quantised = [], _quantised(layers)
    for name, row in layers.iterrows():
        number = float(row[f"kept_{_size(layers)}"])
        kept = EngFormatter(places=1 if number >= 1000 else 0, sep="").format_eng(number)
        gone = f"−{row['pruned']:.0%}" if row["pruned"] > 0 else "whole"
        labels.append(f"{name}\n{kept} · " + (f"{int(row['bits'])} bit" if quantised else gone))
    return labels


def _short(name: object) -> str:
    """Return a layer's name, or its end if it is long."""
    text = str(name)
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


def _label_segments(axes: Axes, labels: Sequence[str], middles: FloatArray, *, crowded: bool) -> None:
    """Write the labels below the ribbon, each with a line to its segment, as close to it as their own room allows."""
    places = _apart(middles, (0.6 if crowded else 1.0) / len(labels))
    for label, middle, place in zip(labels, middles, places, strict=True):
        axes.plot(
            [middle, middle, place, place], [0, -0.05, -0.33, -0.38], color="0.6", linewidth=0.4 if crowded else 0.7
        )
        axes.text(place, -0.42, label, ha="center", va="top", fontsize=8, rotation=90 if crowded else 0)


def _apart(places: FloatArray, gap: float) -> FloatArray:
    """Return rising numbers at least `gap` apart, the closest to `places` by least squares, and within the unit interval."""
    from scipy.optimize import isotonic_regression  # here, since it takes longer to import than the rest

    steps = gap * np.arange(len(places))
    found = isotonic_regression(places - steps).x.clip(gap / 2, max(gap / 2, 1 - gap / 2 - steps[-1]))
    return np.asarray(found + steps)


def _hatch_legend(figure: Figure, pruned: "pd.Series[Any]") -> None:
    steps = sorted({len(_hatch(share)) for share in pruned})
    names = ["none" if step == 0 else f"up to {100 * step // HATCHES} %" for step in steps]
    handles = [
        Patch(facecolor="0.45", edgecolor=(1, 1, 1, 0.9), hatch="/" * step, linewidth=0, label=name)
        for step, name in zip(steps, names, strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        title="filters pruned",
        title_fontsize=8,
        ncols=len(steps),
        frameon=False,
        fontsize=8,
        handlelength=3,
        handleheight=1.8,
    )


def _overlaid(names: Sequence[str], shares: FloatArray, drawn: Sequence[str], title: str) -> Figure:
    figure = Picture(figsize=(7.4, 5.4), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    for name, values, (colour, dash) in zip(names, shares, line_styles(len(names)), strict=True):
        angles, closed = _polygon(values)
        axes.plot(angles, closed, color=colour, linestyle=dash, linewidth=1.8, label=name)
        axes.fill(angles, closed, color=colour, alpha=0.07)
    _style(axes, drawn, labels=True)
    for label, angle in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True):
        side = math.sin(angle)
        label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
    axes.set_title(title, pad=18)
    figure.legend(loc="outside right center", frameon=False, title="layer")
    return figure


def _small_multiples(names: Sequence[str], shares: FloatArray, drawn: Sequence[str], title: str) -> Figure:
    columns = min(10, math.ceil(math.sqrt(2 * len(names))))
    rows = math.ceil(len(names) / columns)
    figure = Picture(figsize=(1.35 * columns, 1.55 * rows + 1.3), layout="constrained")
    grid = figure.subplots(rows, columns, subplot_kw={"projection": "polar"}, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    median_angles, median = _polygon(np.median(shares, axis=0))
    for name, values, axes in zip(names, shares, grid.flat, strict=False):
        angles, closed = _polygon(values)
        axes.fill(median_angles, median, color="0.85", zorder=1)
        axes.plot(angles, closed, color=PALETTE[0], linewidth=1.4, zorder=3)
        axes.fill(angles, closed, color=PALETTE[0], alpha=0.25, zorder=2)
        _style(axes, drawn, labels=False)
        axes.set_title(_short(name), fontsize=7, pad=3)
    axes_in_words = ", ".join(AXES[name].replace("\n", " ") for name in drawn)
    figure.suptitle(f"{title}\nfrom the top, clockwise: {axes_in_words}; grey: the median layer", fontsize=8)
    return figure


def _polygon(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the angles and radii of a closed polygon."""
    angles = np.linspace(0, 2 * np.pi, len(values), endpoint=False)
    return np.append(angles, angles[0]), np.append(values, values[0])


def _style(axes: Any, drawn: Sequence[str], *, labels: bool) -> None:
    """Let a polar panel begin at the top, go clockwise, and reach from 0 to 1."""
    axes.set_theta_offset(np.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_ylim(0, 1.02)
    angles = np.linspace(0, 2 * np.pi, len(drawn), endpoint=False)
    axes.set_xticks(angles, [AXES[name] if labels else "" for name in drawn])
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "50 %", "", "100 %"] if labels else [""] * 4, fontsize=7, color="0.4")
    axes.grid(color="0.88", linewidth=0.7)
    axes.spines["polar"].set_visible(labels)
    axes.spines["polar"].set_color("0.8")
