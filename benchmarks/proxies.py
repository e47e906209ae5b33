"""Do zero-shot scores mean anything? Reproducibility, and rank correlation with what networks reach once they are trained.

Two tables of trained networks, both on CIFAR-10: Channel-Bench-Macro, a ResNet of seven widths (its accuracies are means of
three trainings), and NAS-Bench-201, cells of five operations (200 epochs). From each, `--networks` are drawn at random and
split in two halves. What is fitted here (`mix`) sees the first half only, and "unseen" is the other. The cap and the exponents
of resolution and gradient were chosen before, on other random samples of the same tables, which overlap with these. Every seed
draws new weights and new images. Figures are means over seeds; intervals are 95 % of a bootstrap over networks. A network
whose score is not finite ranks last.

- `sof` is the default of `ScoreOfFrame` without its penalty; `printed` FNP eq. 10, `zico` the public variant; `capped`,
  `capped + resolution` and `capped + gradient` take it apart.
- `log_weights`, Σ log n over the layers, needs no gradient and no network: what a gradient score has to beat; `capacity` weighs
  it by resolution; `log_weights, live` counts only layers that receive a gradient, so it needs one batch.
- `one training` is the first of the three trainings against the mean of the other two.
- `mix` is fitted by least squares on the ranks of the tuning half.

Reproducibility: 100 random channel vectors of ResNet-20 and VGG-16, scored again with other images, and with nothing but
another memory format (which changes rounding): Spearman's correlation of the two rankings.

Outputs: tables, `benchmarks/results/proxies.json`, and `proxies_<table>.png` beside it. Scores are kept in `.cache/`.

Run: `python -m benchmarks.proxies` (about an hour on one processor; `--networks 20 --seeds 1` shows that it runs).
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn

from benchmarks.cifar10 import batches, read_images
from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from evo.fitness.gradients import Batch, GradientRatio, gradients, layer_weights, positions_of
from evo.fitness.proxies import score
from evo.network.zoo import channel_bench, nasbench201, resnet20, vgg16_cifar
from evo.report.plots import plot_proxies, save_figure
from evo.training import Samples

CACHE = ROOT / ".cache" / "proxies"
WIDTHS = (64, 64, 64, 128, 128, 128, 128)
RATIOS = {
    "printed": GradientRatio.printed(),
    "zico": GradientRatio.printed(signed=True),
    "capped": GradientRatio(resolution=0, gradient=0),
    "capped + resolution": GradientRatio(gradient=0),
    "capped + gradient": GradientRatio(resolution=0),
    "sof": GradientRatio(),
}
SINGLE = ("grad_norm", "snip", "fisher", "grasp", "synflow", "zen", "naswot")
CLOSED = ("params", "macs", "log_weights", "capacity")
MIXED = ("sof", "macs", "params", "grad_norm", "log_weights")
PAPER = {
    "printed": (0.60, 0.81), "params": (0.57, 0.75), "synflow": (0.54, 0.73), "macs": (0.54, 0.73), "grad_norm": (0.46, 0.63),
    "snip": (0.46, 0.63), "fisher": (0.40, 0.55), "grasp": (0.37, 0.54), "zen": (0.29, 0.38),
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """A table of trained networks.

    Attributes:
        name: of the results.
        file: in the folder of data.
        accuracy: the column to agree with.
        make: returns the network of a row, with weights as torch draws them.
        batch: images per batch.
    """

    name: str
    file: str
    accuracy: str
    make: Callable[[str], nn.Module]
    batch: int


def _channel_bench(arch: str) -> nn.Module:
    return channel_bench([int(digit) * width for digit, width in zip(arch, WIDTHS, strict=True)])


TRUTHS = (
    Truth("channel_bench", "channel_bench_macro_resnet.csv.gz", "acc_mean", _channel_bench, 8),
    Truth("nasbench201", "nats_tss.csv.gz", "c10_test_200", nasbench201, 16),
)


def ratios(model: nn.Module, images: Sequence[Batch]) -> tuple[dict[str, float], Sequence[Tensor]]:
    """Return the scores that are made of gradient ratios, and the gradients of the first batch."""
    weights = layer_weights(model)
    with positions_of(model, weights) as positions:
        found = [gradients(model, images[0], weights)]
    found += [gradients(model, batch, weights) for batch in images[1:]]
    # A ratio uses up the gradients that it is given.
    copies = ([[gradient.clone() for gradient in batch] for batch in found] for _ in RATIOS)
    return {name: ratio.of(own, positions) for (name, ratio), own in zip(RATIOS.items(), copies, strict=True)}, found[0]


def scores(model: nn.Module, images: Sequence[Batch], seed: int) -> dict[str, float]:
    """Return every score of one network; the ratios share their gradients, scores of one batch take the first."""
    values, found = ratios(model.train(), images)
    live = [gradient.numel() for gradient in found if bool(gradient.any())]
    values["log_weights, live"] = float(np.log(live).sum())
    for name in (*SINGLE, *CLOSED):
        try:
            values[name] = score(model, images[:1], name, seed=seed)
        except ValueError:
            values[name] = -math.inf
    return values


def measured(truth: Truth, table: pd.DataFrame, count: int, seeds: int, images: Samples) -> pd.DataFrame:
    """Return the scores of `count` random networks, a row per network and seed; those of earlier calls are read."""
    chosen = np.random.default_rng(0).permutation(len(table))[:count]
    path = CACHE / f"{truth.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["seed"], row["network"]) for row in rows}
    with path.open("a") as file:
        for seed in range(seeds):
            drawn = batches(images, truth.batch, 2, seed)
            missing = [int(index) for index in chosen if (seed, int(index)) not in done]
            for index in track(missing, f"{truth.name}, seed {seed}", disable=not missing):
                torch.manual_seed(seed)
                model = _initialised(truth.make(str(table["arch"][index])))
                rows.append({"seed": seed, "network": index, **scores(model, drawn, seed)})
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    frame = pd.DataFrame(rows)
    frame = frame[(frame["seed"] < seeds) & frame["network"].isin(chosen)]
    frame["accuracy"] = table[truth.accuracy].to_numpy()[frame["network"]]
    frame["unseen"] = frame["network"].isin(chosen[1::2])
    return frame


def _initialised(model: nn.Module) -> nn.Module:
    """Draw Kaiming weights (fan-in), zero biases; channels-last."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def mixed(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the linear mix of the ranks of `MIXED` that fits the tuning half best."""
    ranks = frame.groupby("seed")[list(MIXED)].rank().to_numpy()
    ranks = np.c_[ranks, np.ones(len(ranks))]
    tune = ~frame["unseen"].to_numpy()
    weights = np.linalg.lstsq(ranks[tune], frame["accuracy"].rank().to_numpy()[tune], rcond=None)[0]
    return np.asarray(ranks @ weights)


def correlation(frame: pd.DataFrame, name: str, rank: Callable[..., Any]) -> float:
    """Return the mean over seeds of a rank correlation with accuracy."""
    return float(np.mean([rank(part[name], part["accuracy"])[0] for _, part in frame.groupby("seed")]))


def interval(frame: pd.DataFrame, name: str, rank: Callable[..., Any], draws: int = 300) -> list[float]:
    """Return a 95 % bootstrap interval over networks."""
    wide = frame.pivot_table(index="network", columns="seed", values=name).to_numpy()
    accuracy = frame.drop_duplicates("network").set_index("network")["accuracy"].sort_index().to_numpy()
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        rows = rng.integers(len(accuracy), size=len(accuracy))
        found.append(np.mean([rank(column, accuracy[rows])[0] for column in wide[rows].T]))
    return [float(bound) for bound in np.percentile(found, (2.5, 97.5))]


def agreement(frame: pd.DataFrame, name: str) -> float:
    """Return Spearman's correlation between the first two seeds."""
    wide = frame.pivot_table(index="network", columns="seed", values=name)
    return float(spearmanr(wide[0], wide[1])[0]) if wide.shape[1] > 1 else math.nan


def judged(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the figures of every score."""
    unseen = frame[frame["unseen"]]
    return {
        name: {
            "spearman": correlation(frame, name, spearmanr),
            "spearman_interval": interval(frame, name, spearmanr),
            "kendall": correlation(frame, name, kendalltau),
            "kendall_interval": interval(frame, name, kendalltau, 100),
            "spearman_unseen": correlation(unseen, name, spearmanr),
            "spearman_unseen_interval": interval(unseen, name, spearmanr),
            "kendall_unseen": correlation(unseen, name, kendalltau),
            "between_seeds": agreement(frame, name),
        }
        for name in names
    }


def shown(truth: Truth, figures: dict[str, dict[str, Any]]) -> Table:
    """Return the figures of one table of networks, best first."""
    table = Table(title=f"{truth.name}: correlation with accuracy (95 % intervals)")
    for column in ("score", "Spearman", "unseen half", "Kendall", "between seeds", "paper, K/S"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name, entry in sorted(figures.items(), key=lambda pair: -pair[1]["spearman_unseen"]):
        low, high = entry["spearman_interval"]
        least, most = entry["spearman_unseen_interval"]
        paper = "{:.2f}/{:.2f}".format(*PAPER[name]) if truth.name == "nasbench201" and name in PAPER else ""
        table.add_row(
            name,
            f"{entry['spearman']:.3f} ({low:.3f}–{high:.3f})",
            f"{entry['spearman_unseen']:.3f} ({least:.3f}–{most:.3f})",
            f"{entry['kendall']:.3f}",
            f"{entry['between_seeds']:.3f}",
            paper,
        )
    return table


def trainings(table: pd.DataFrame) -> dict[str, float]:
    """Return how well one training ranks networks, by the mean of the two others and by the mean of all three."""
    others = (table["acc2"] + table["acc3"]) / 2
    return {
        "another training": float(spearmanr(table["acc1"], table["acc2"])[0]),
        "mean of two others": float(spearmanr(table["acc1"], others)[0]),
        "mean of all three": float(spearmanr(table["acc1"], table["acc_mean"])[0]),
    }


def reproducibility(images: Samples, vectors: int, size: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return, per network and score, the agreement of two rankings: with other images, and with other rounding only."""
    makers: dict[str, tuple[Callable[[list[int]], nn.Module], list[int]]] = {
        "resnet20": (lambda widths: resnet20(inner=widths), [16] * 3 + [32] * 3 + [64] * 3),
        "vgg16_cifar": (
            lambda widths: vgg16_cifar(widths=widths),
            [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
        ),
    }
    setups = {
        "first": (0, torch.channels_last),
        "rounding": (0, torch.contiguous_format),
        "images": (1, torch.channels_last),
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for network, (make, full) in makers.items():
        values: dict[str, list[dict[str, float]]] = {name: [] for name in setups}
        for index in track(range(vectors), f"{network}, reproducibility"):
            rng = np.random.default_rng(index)
            keep = rng.uniform(0.2, 0.8) * np.exp(rng.normal(0, 0.3, len(full)))
            widths = [max(1, int(width * min(share, 1))) for width, share in zip(full, keep, strict=True)]
            for name, (seed, layout) in setups.items():
                torch.manual_seed(0)
                model = _initialised(make(widths)).to(memory_format=layout).train()  # type: ignore[call-overload]
                drawn = [(x.contiguous(memory_format=layout), y) for x, y in batches(images, size, 2, seed)]
                values[name].append(ratios(model, drawn)[0])
        columns = {name: pd.DataFrame(rows) for name, rows in values.items()}
        found[network] = {
            ratio: {
                name: float(spearmanr(columns["first"][ratio], columns[name][ratio])[0])
                for name in ("rounding", "images")
            }
            for ratio in RATIOS
        }
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=500, help="of each table")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--vectors", type=int, default=100, help="of each network, for reproducibility")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=150)
    images = read_images(data_folder() / "cifar10_jpeg_train.npz", 5000)
    results: dict[str, Any] = {"networks": options.networks, "seeds": options.seeds}
    for truth in TRUTHS:
        table = pd.read_csv(data_folder() / truth.file, dtype={"arch": str})
        frame = measured(truth, table, options.networks, options.seeds, images)
        frame["mix"] = mixed(frame)
        names = [name for name in frame.columns if name not in ("seed", "network", "accuracy", "unseen")]
        results[truth.name] = judged(frame, names)
        console.print(shown(truth, results[truth.name]))
        if "acc1" in table:
            results["one training"] = trainings(table)
            console.print(f"one training against {results['one training']}")
        first = frame[frame["seed"] == 0]
        drawn = ["sof", "capacity", "log_weights", "printed", "macs", "params", "naswot", "synflow", "grad_norm"]
        options.out.mkdir(parents=True, exist_ok=True)
        save_figure(plot_proxies(first, truth="accuracy", proxies=drawn), options.out / f"proxies_{truth.name}.png")
    results["reproducibility"] = reproducibility(images, options.vectors, 16)
    console.print(
        pd.DataFrame({(n, k): v for n, e in results["reproducibility"].items() for k, v in e.items()}).T.round(4)
    )
    console.print(f"written to {write_results('proxies', results, folder=options.out)}")


if __name__ == "__main__":
    main()
