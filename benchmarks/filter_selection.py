"""How long does it take to choose the filters of all layers by k-reciprocal nearest neighbours (FNP)?

Question: what does `FilterSelection(network, "knn")` cost for every convolution of VGG-16, and what does the selection cost
as it is told: for the wanted number m of filters of a layer let k grow from m until enough filters are among the k nearest of
every filter, with one set of neighbours per filter? How long do the other methods take?

Set-up: VGG-16 for CIFAR-10 and for ImageNet (with small hidden layers: their neurons are not chosen) with random weights,
half of the filters of every convolution, one thread. Times are of the first call, hence with the distances, and again with
other numbers, when neighbours are known already. Both ways must choose the same filters, or there is no result.

Outputs: `results/filter_selection.json` and a table. Target: less than 2 s for all layers.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import nn

import evo
from benchmarks.common import write_results
from evo.importance import FilterSelection
from evo.importance.filters import filter_vectors, free_groups
from evo.network.zoo import vgg16, vgg16_cifar

TARGET = 2.0
HIDDEN = (64, 64)
CONVOLUTIONS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg16_cifar": (vgg16_cifar, (3, 32, 32)),
    "vgg16": (lambda: vgg16(widths=[*CONVOLUTIONS, *HIDDEN]), (3, 224, 224)),
}
OTHERS = ("l1", "l2", "random", "kmeans")


def literal(vectors: NDArray[np.float64], count: int) -> list[int]:
    """Choose `count` filters as FNP tells it."""
    number = len(vectors)
    distances = np.stack([((vectors - one) ** 2).sum(1) for one in vectors])
    similar = np.exp(-distances)
    similar /= np.linalg.norm(similar, axis=1, keepdims=True)
    nearest = np.argsort(-similar, axis=1, kind="stable").tolist()
    common: set[int] = set()
    for k in range(count, number + 1):
        previous, common = common, set.intersection(*(set(row[:k]) for row in nearest))
        if len(common) >= count:
            break
    if len(common) == count:
        return sorted(common)
    np.fill_diagonal(similar, 0)
    mean = similar.mean(0)
    new = sorted(common - previous, key=lambda index: (-mean[index], index))
    return sorted([*previous, *new[: count - len(previous)]])


def seconds_of(selection: FilterSelection, counts: NDArray[np.int64]) -> float:
    """Return how long a choice takes."""
    start = time.perf_counter()
    selection.masks(counts)
    return time.perf_counter() - start


def measured(name: str) -> dict[str, Any]:
    """Return the seconds of all methods for one network."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network = evo.Network.analyse(make(), torch.randn(1, *shape))
    convolutions = free_groups(network, ["features*"])
    half = np.where(convolutions, network.costs.sizes // 2, network.costs.sizes)
    knn = FilterSelection(network, "knn")
    seconds = {"knn": seconds_of(knn, half), "knn, other numbers": seconds_of(knn, half - convolutions)}
    for method in OTHERS:
        seconds[method] = seconds_of(FilterSelection(network, method), half)
    start = time.perf_counter()
    for group, count in zip(network.groups, half.tolist(), strict=True):
        if group.size != count:
            chosen = np.flatnonzero(knn.masks(half)[group.name]).tolist()
            if literal(filter_vectors(network, group), count) != chosen:
                raise AssertionError(f"{name}, {group.name}: the two ways disagree")
    seconds["knn, as it is told"] = time.perf_counter() - start
    return {"convolutions": int(convolutions.sum()), "seconds": seconds}


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        results = {name: measured(name) for name in NETWORKS}
    ways = list(results["vgg16"]["seconds"])
    table = Table(title="Seconds to choose half of all filters", title_justify="left")
    for heading in ("network", *ways):
        table.add_column(heading, no_wrap=heading == "network")
    for name, figures in results.items():
        table.add_row(name, *(f"{figures['seconds'][way]:.3f}" for way in ways))
    reached = {name: figures["seconds"]["knn"] < TARGET for name, figures in results.items()}
    console = Console()
    console.print(table)
    for name, enough in reached.items():
        console.print(f"{name}: {'less' if enough else 'more'} than {TARGET:g} s")
    write_results("filter_selection", {"networks": results, "target_seconds": TARGET, "reached": reached})


if __name__ == "__main__":
    main()
