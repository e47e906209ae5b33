"""FNP's structural columns without training: how large are the networks that its importance matrix starts from?

Question: at the paper's γ and λ, how many parameters and multiply-accumulates does V* have (FNP eq. 2 to 7), and how long
does it take to find, next to the parameters and FLOPs that the paper prints for the networks it finds from there?

Set-up: VGG-16, ResNet-56, ResNet-110, GoogLeNet on CIFAR-10 and ResNet-50 on ImageNet; free are the layers that the paper
searches. **The weights are untrained**, as `initialise` draws them (Kaiming): what trained weights say of layers is missing,
and V* says little more than how λ weighs their costs. Several seeds, of which smallest and largest are given. The paper's
columns are of the networks that its search found near V*, not of V* itself, and its FLOPs count more than
multiply-accumulates (see the networks' docstrings), so that shares of the original are what compares.

Outputs: `results/fnp_structure.json` and a table. `--seeds` (default 5), `--networks` (default all).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import evo
from benchmarks.common import write_results
from evo.importance import importance_matrix
from evo.network.zoo import INPUTS, googlenet, resnet50, resnet56, resnet110, vgg16_cifar

UNTRAINED = "Weights are untrained (Kaiming): V* is what the importance matrix makes of random weights."


@dataclass(frozen=True)
class Paper:
    """What FNP prints of one network: millions of parameters and of FLOPs of the result, and its top-1 accuracy in %."""

    gamma: float
    params: float | None = None
    flops: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Case:
    """One of FNP's networks.

    Attributes:
        make: the network, untrained.
        free: patterns of the groups that are searched.
        lam: the paper's λ.
        params, flops: millions of parameters and of FLOPs of the original, as the paper prints them.
        rows: what it prints of the compressed ones (Tables 1 to 7).
    """

    make: Callable[[], nn.Module]
    free: tuple[str, ...]
    lam: float
    params: float
    flops: float | None
    rows: tuple[Paper, ...]


CASES = {
    "vgg16_cifar": Case(
        vgg16_cifar,
        ("features*",),
        0.5,
        14.73,
        314.59,
        (Paper(0.7, 1.81, accuracy=93.93), Paper(0.86, 0.70, 77.86, 93.67)),
    ),
    "resnet56": Case(
        resnet56,
        ("layer*.conv1",),
        10.0,
        0.85,
        127.62,
        (Paper(0.4, 0.50, accuracy=93.92), Paper(0.56, flops=56.82, accuracy=93.62), Paper(0.7, 0.25, accuracy=93.10)),
    ),
    "resnet110": Case(
        resnet110,
        ("layer*.conv1",),
        5.0,
        1.72,
        None,
        (Paper(0.5, 0.85, accuracy=94.49), Paper(0.7, 0.49, accuracy=93.95)),
    ),
    "googlenet": Case(
        googlenet,
        ("*.branch3.0.conv", "*.branch5.[01].conv"),
        20.0,
        6.15,
        1534.55,
        (Paper(0.95, 2.11, 511.64, 95.03),),
    ),
    "resnet50": Case(
        resnet50,
        ("layer*.conv[12]",),
        0.4,
        25.50,
        4135.70,
        (Paper(0.25, 15.09, 1949.52, 75.10), Paper(0.38, 10.82, 1340.37, 74.50), Paper(0.48, 7.99, accuracy=73.85)),
    ),
}
"""By name in the zoo."""

COSTS = ("params", "macs")


def analysed(name: str, seed: int) -> evo.Network:
    """Return a network of the zoo with the weights that a seed draws."""
    torch.manual_seed(seed)
    return evo.Network.analyse(CASES[name].make(), torch.randn(1, *INPUTS[name]))


def preprocessed(network: evo.Network, case: Case, gamma: float) -> dict[str, Any]:
    """Return V*, its costs, and the seconds that it took."""
    start = time.perf_counter()
    counts = importance_matrix(network, gamma, case.lam, case.free)
    seconds = time.perf_counter() - start
    costs = network.costs.costs(counts, COSTS)
    return {"counts": counts.tolist(), **{cost: int(costs[cost]) for cost in COSTS}, "seconds": seconds}


def measured(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what the seeds give for every γ of one network, and the paper's columns."""
    case = CASES[name]
    rows: dict[float, list[dict[str, Any]]] = {row.gamma: [] for row in case.rows}
    for seed in seeds:
        network = analysed(name, seed)
        for gamma, found in rows.items():
            found.append({"seed": seed, **preprocessed(network, case, gamma)})
    original = network.cost_of(network.full)
    return {
        "lambda": case.lam,
        "free": list(case.free),
        "groups": [group.name for group in network.groups],
        "original": {cost: original[cost] for cost in COSTS},
        "paper_original": {"params_millions": case.params, "flops_millions": case.flops},
        "rows": [{"gamma": row.gamma, "preprocessed": rows[row.gamma], "paper": asdict(row)} for row in case.rows],
    }


def table_of(results: dict[str, Any]) -> Table:
    """Return smallest and largest V* of all seeds in millions and in shares of the original, next to the paper's."""
    table = Table(title="V* from untrained weights, and what the paper found", title_justify="left", caption=UNTRAINED)
    for heading in ("network", "γ", "params V*, M", "%", "paper, M", "%", "MACs V*, M", "%", "paper, M", "%", "s"):
        table.add_column(heading, no_wrap=True)
    for name, figures in results.items():
        for row in figures["rows"]:
            cells = [name, f"{row['gamma']:g}"]
            for cost, key in (("params", "params"), ("macs", "flops")):
                values = [each[cost] for each in row["preprocessed"]]
                original, printed = figures["original"][cost], figures["paper_original"][f"{key}_millions"]
                paper = row["paper"][key]
                cells += [
                    _span([value / 1e6 for value in values]),
                    _span([100 * value / original for value in values]),
                    "" if paper is None else f"{paper:g}",
                    "" if paper is None or printed is None else f"{100 * paper / printed:.1f}",
                ]
            table.add_row(*cells, f"{max(each['seconds'] for each in row['preprocessed']):.2f}")
    return table


def _span(values: Sequence[float]) -> str:
    low, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="parameters and MACs of FNP's V* at the paper's γ and λ")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measured(name, range(arguments.seeds)) for name in arguments.networks}
    Console(width=128).print(table_of(results))
    write_results("fnp_structure", {"weights": UNTRAINED, "networks": results})


if __name__ == "__main__":
    main()
