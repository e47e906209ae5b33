"""How many candidates' costs are known per second?

Question: given kept-channel counts of a population, how fast are the exact costs of all its members: all of them
(parameters, weights, MACs, bytes, feature maps, peak memory), and parameters and MACs alone, as budgets need them?

Set-up: networks of the zoo with random weights, populations of uniformly drawn counts as a C-ordered int64 array, one
thread, `network.costs.costs(counts)` as a user calls it, after the first call has compiled the network's plan. Rates are of
the median of 1,000 calls, and of the fastest. Weights are checked against `weights(counts)`, which multiplies layer by
layer in int64; the last column is that way's rate.

Outputs: `results/population_costs.json` and a table. Target: at least 10 million candidates per second for VGG-16 and
ResNet-56 on CIFAR at 1,000 candidates.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import evo
from benchmarks.common import write_results
from evo.network import CostModel
from evo.network.zoo import ZOO

CALLS = 1000
POPULATIONS = (1, 100, 1000, 16_384)
TARGET = 10e6
TARGETED = ("vgg16_cifar", "resnet56")

NETWORKS = {
    "vgg16_cifar": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "resnet110": (3, 32, 32),
    "densenet40": (3, 32, 32),
    "googlenet": (3, 32, 32),
    "mobilenet_v2": (3, 224, 224),
    "resnet50": (3, 224, 224),
}


@dataclass(frozen=True)
class Rate:
    """Candidates per second: in the median call, and in the fastest."""

    median: float
    best: float


def rate(work: Callable[[], object], candidates: int) -> Rate:
    """Time `work`, fewer times if it takes long: at most a second or so."""
    start = time.perf_counter()
    work()
    calls = min(CALLS, max(5, int(1 / (time.perf_counter() - start))))
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return Rate(candidates / float(np.median(times)), candidates / min(times))


def measured(costs: CostModel, counts: NDArray[np.int64]) -> dict[str, Rate]:
    """Return the rates of all ways to ask for costs, after checking that they agree."""
    if not np.array_equal(costs.costs(counts)["weights"], costs.weights(counts).sum(-1)):
        raise AssertionError("the compiled plan and the layers disagree")
    return {
        "all": rate(lambda: costs.costs(counts), len(counts)),
        "params, macs": rate(lambda: costs.costs(counts, ("params", "macs")), len(counts)),
        "layer by layer": rate(lambda: costs.weights(counts).sum(-1), len(counts)),
    }


def measured_network(name: str) -> dict[str, Any]:
    """Return the figures of a network of the zoo."""
    torch.manual_seed(0)
    costs = evo.Network.analyse(ZOO[name](), torch.randn(2, *NETWORKS[name])).costs
    start = time.perf_counter()
    costs.costs(costs.sizes)
    compiling = time.perf_counter() - start
    rates = {}
    for candidates in POPULATIONS:
        counts = np.random.default_rng(0).integers(1, costs.sizes + 1, (candidates, len(costs.sizes)))
        with threadpool_limits(1):
            rates[candidates] = {way: asdict(each) for way, each in measured(costs, counts).items()}
    return {"groups": len(costs.sizes), "seconds_to_compile": compiling, "candidates_per_second": rates}


def main() -> None:
    """Measure, print and write."""
    results = {name: measured_network(name) for name in NETWORKS}
    ways = list(results["resnet56"]["candidates_per_second"][1000])
    table = Table("network", "groups", "candidates", *ways, title="Million candidates per second", title_justify="left")
    for name, figures in results.items():
        for candidates, rates in figures["candidates_per_second"].items():
            medians = [f"{rates[way]['median'] / 1e6:.2f}" for way in ways]
            table.add_row(name, str(figures["groups"]), f"{candidates:,}", *medians)
    reached = {name: results[name]["candidates_per_second"][1000]["all"]["median"] >= TARGET for name in TARGETED}
    console = Console()
    console.print(table)
    for name, enough in reached.items():
        console.print(f"{name}: {'at least' if enough else 'less than'} {TARGET / 1e6:g} million at 1,000 candidates")
    write_results("population_costs", {"networks": results, "target": TARGET, "reached": reached})


if __name__ == "__main__":
    main()
