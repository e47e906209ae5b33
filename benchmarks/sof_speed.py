"""How fast is the score of the frame, against the straightforward way to compute it?

Question: how many candidates per second does `ScoreOfFrame` score, exactly, in bfloat16, and on the smallest batches that keep
its ranking, against copying the network deeply, cutting the copy with Torch-Pruning, and ZiCo's public arithmetic in NumPy?
What of the time goes into making a candidate and into summing its gradients? What share of the processor's speed is used,
and are two workers worth two?

Set-up: VGG-16 and ResNet-56 for CIFAR-10, LeNet for digits; random candidates that keep 30 to 90 % of each group's channels,
in ResNet-56 of those between a block's convolutions; two batches. All ways score the same candidates on the same images in
turn, in an order that rotates, in two processes of one thread, each pinned to a processor of its own, that do the same thing
at the same time. "Exact" is the printed score with σ of signed gradients in float32, as the straightforward way has it;
"robust" the default. ρ is Spearman's correlation of the ranking with that of the robust score on full batches. The peak is
a large float32 convolution in the same run. "Default threads" is the straightforward way in one process with as many threads
as torch likes.

Outputs: `results/sof_speed.json` and tables. Targets: exact 1.35 / 1.35 / 1.6 times as fast (VGG-16, ResNet-56, LeNet),
bfloat16 2, the smallest batch that keeps the ranking (ρ ≥ 0.97) 5; making a candidate ≤ 0.3 % of a score and summing ≤ 2 %
(LeNet 1.5 and 3 %); 75 / 50 / 35 % of the peak; two workers ≥ 1.9 times one.

Run: `python -m benchmarks.sof_speed` (`--size 16 --small 4 --candidates 2` shows that it runs).
"""

import argparse
import multiprocessing
import queue
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.common import RESULTS, write_results
from benchmarks.sof_speed_worker import BFLOAT16, EXACT, ROBUST, SMALL, SMALL_BFLOAT16, STRAIGHTFORWARD, WAYS, Work, run

NETWORKS = ("vgg16_cifar", "resnet56", "lenet")
WORKERS = 2
TARGETS = {
    "vgg16_cifar": {"exact": 1.35, "build": 0.003, "reduce": 0.02, "peak": 0.75},
    "resnet56": {"exact": 1.35, "build": 0.003, "reduce": 0.02, "peak": 0.5},
    "lenet": {"exact": 1.6, "build": 0.015, "reduce": 0.03, "peak": 0.35},
}


def measured(work: Work, workers: int) -> list[dict[str, Any]]:
    """Return what every worker found, in their order."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=run, args=(work, number, workers, barrier, results)) for number in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        found: list[dict[str, Any]] = []
        while len(found) < workers:
            try:
                found.append(results.get(timeout=5))
            except queue.Empty:
                if any(process.exitcode not in (None, 0) for process in processes):
                    raise SystemExit("a worker failed") from None
    finally:
        for process in processes:
            process.join(5)
            process.terminate()
    return sorted(found, key=lambda entry: int(entry["number"]))


def figures(found: Sequence[Mapping[str, Any]], default_threads: float) -> dict[str, Any]:
    """Return what the workers' measurements say."""
    seconds = {name: np.array([entry["seconds"][name] for entry in found]) for name in WAYS}
    scores = {name: np.array([entry["scores"][name] for entry in found]).ravel() for name in WAYS}
    mean = {name: float(value.mean()) for name, value in seconds.items()}
    rate = {name: float((value.shape[1] / value.sum(1)).sum()) for name, value in seconds.items()}
    flops = np.array([entry["flops"] for entry in found])
    build, reduce = (float(np.mean([entry[name] for entry in found])) for name in ("build", "reduce"))
    alone = seconds[ROBUST].shape[1] / float(found[0]["alone"])
    return {
        "candidates": int(seconds[ROBUST].size),
        "seconds": mean,
        "candidates_per_second": rate,
        "times_faster": {name: float(seconds[STRAIGHTFORWARD].sum() / seconds[name].sum()) for name in WAYS[1:]},
        "spearman": {name: _rank_correlation(scores[name], scores[ROBUST]) for name in WAYS},
        "seconds_default_threads": default_threads,
        "times_faster_than_default_threads": {name: default_threads * rate[name] for name in WAYS[1:]},
        "seconds_build": build,
        "seconds_reduce": reduce,
        "share_build": build / mean[ROBUST],
        "share_reduce": reduce / mean[ROBUST],
        "share_build_small": build / mean[SMALL],
        "share_reduce_small": reduce / mean[SMALL],
        "gflops": float(flops.sum() / seconds[ROBUST].sum()) * 1e-9,
        "peak_gflops": float(np.mean([entry["peak"] for entry in found])) * 1e-9,
        "share_of_peak": float(flops.sum() / seconds[ROBUST].sum() / np.mean([entry["peak"] for entry in found])),
        "two_against_one": rate[ROBUST] / alone,
        "difference_to_numpy": max(float(entry["agreement"]) for entry in found),
    }


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(one, other)[0]) if len(one) > 2 else float("nan")


def shown(results: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return tables of the figures; what misses its target is marked."""
    speed = Table(title="Seconds of a score, and how many times as fast as the straightforward way")
    ranks = Table(title="ρ of the ranking with that of the robust score on full batches")
    shares = Table(title="Robust score, float32, full batches")
    for table, columns in (
        (speed, (*WAYS, "default threads")),
        (ranks, WAYS),
        (shares, ("making", "of small", "summing", "of small", "GFLOP/s", "of the peak", "two workers", "off NumPy")),
    ):
        table.add_column("network")
        for column in columns:
            table.add_column(column, justify="right")
    for name, entry in results.items():
        goal = TARGETS[name]
        least = {EXACT: goal["exact"], BFLOAT16: 2.0, SMALL: 5.0, SMALL_BFLOAT16: 5.0}
        cells = [f"{entry['seconds'][STRAIGHTFORWARD]:.3f}"]
        for way in WAYS[1:]:
            times = entry["times_faster"][way]
            cells.append(f"{entry['seconds'][way]:.3f}, {times:.2f}×" + (" ✗" if times < least.get(way, 0) else ""))
        speed.add_row(name, *cells, f"{entry['seconds_default_threads']:.3f}")
        ranks.add_row(name, *(f"{entry['spearman'][way]:.3f}" for way in WAYS))
        shares.add_row(
            name,
            _share(entry["share_build"], goal["build"]),
            f"{entry['share_build_small']:.2%}",
            _share(entry["share_reduce"], goal["reduce"]),
            f"{entry['share_reduce_small']:.2%}",
            f"{entry['gflops']:.0f} of {entry['peak_gflops']:.0f}",
            f"{entry['share_of_peak']:.0%}" + (" ✗" if entry["share_of_peak"] < goal["peak"] else ""),
            f"{entry['two_against_one']:.2f}×" + (" ✗" if entry["two_against_one"] < 1.9 else ""),
            f"{entry['difference_to_numpy']:.1e}",
        )
    return [speed, ranks, shares]


def _share(share: float, most: float) -> str:
    return f"{share:.2%}" + (" ✗" if share > most else "")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--size", type=int, default=256, help="images per batch")
    parser.add_argument("--small", type=int, default=32, help="images per small batch")
    parser.add_argument("--candidates", type=int, default=12, help="for each of the two workers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console(width=150)
    results: dict[str, Any] = {}
    for network in options.networks:
        work = Work(network, options.size, options.small, options.candidates)
        few = replace(
            work, candidates=min(3, options.candidates), ways=(STRAIGHTFORWARD,), threads=torch.get_num_threads()
        )
        (default,) = measured(few, 1)
        results[network] = figures(measured(work, WORKERS), float(np.mean(default["seconds"][STRAIGHTFORWARD])))
        console.print(f"{network}: done")
    for table in shown(results):
        console.print(table)
    found = {"size": options.size, "small": options.small, "workers": WORKERS, "networks": results}
    console.print(f"written to {write_results('sof_speed', found, folder=options.out)}")


if __name__ == "__main__":
    main()
