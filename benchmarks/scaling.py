"""How many workers can a search keep busy: overhead measured here, up to 1,024 workers simulated, steady state against barrier.

Questions. (1) What does moving an evaluation to a worker and back cost, for evaluations of 1 ms to 1 s, by local workers and by
Ray, with several to a task and without? (2) What does the search itself cost per individual, and how much do real evaluation
times vary? (3) Which share of the time are 2 to 1,024 workers busy, start and end of the search included, with generations
and without them? (4) Does it cost quality to do without generations, at equal evaluations?

Set-up. (1) Evaluations that keep a processor busy for a known time, 2 s of them per worker and measurement, on one and two
workers; submitted as a generation, or one by one when there is room as steady state does; `benchmarks.scaling_overhead`.
(2) `evo.search` on LeNet with evaluations that take no time; and 60 random LeNets fine-tuned as ECS does it. (3) Real
algorithms on genomes of LeNet's 570 filters, asked and told in virtual time (`benchmarks.scaling_simulation`) with a
closed-form fitness; evaluation times are drawn per structure, log-normal or gamma, with mean 10 s, coefficient of variation
0.5 or the one measured; costs of driver and transport as measured in (1) and (2) by Ray without chunks; 20 generations.
`possible` is a list of as many evaluations without any costs: no search that cannot foresee times does better. (4) The same in
Channel-Bench-Macro (table of 16,384 trained networks, 30 % of the parameters): regret of the best found, points of accuracy.

Outputs: tables, `results/scaling_overhead.json` (1, 2), `scaling_simulation.json` (3) and `scaling_quality.json` (4). Targets:
overhead ≤ 5 % at 100 ms, and at 30 ms with chunks; steady state ≥ 95 % busy at 256 workers with population 1,000, and ≥ 90 %
at 64 with population 50 (coefficient of variation 0.5). Quality is reported beside it.

Run: `python -m benchmarks.scaling` (about 20 minutes on two processors that do nothing else; `--only` for one part, `--quick`
for a small form that writes nothing).
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

import evo
from benchmarks import scaling_overhead as measured
from benchmarks.common import RESULTS, data_folder, write_results
from benchmarks.scaling_simulation import Costs, Simulation, Timeline, best_possible, duration
from evo.algorithms import SteadyState
from evo.encodings.individual import Individual
from evo.fitness.base import Objective
from evo.network.zoo import lenet
from evo.training import Samples

MEAN = 10.0
"""Seconds of a simulated evaluation."""
GENERATIONS = 20
WORKERS = {50: (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), 1000: (8, 32, 64, 256, 512, 1024)}
SEEDS = {50: 8, 1000: 2}
TARGETS = {(50, 64): 0.90, (1000, 256): 0.95}
CHECKPOINTS = (100, 200, 400)
BUDGET = 0.3

Job = tuple[str, bool, int, int, int, str, float, Costs]
"""Algorithm, asynchronous, population, workers, seed, family and coefficient of variation of the times, costs."""


def algorithm_of(name: str, population: int, *, asynchronous: bool) -> SteadyState:
    """Return an algorithm of GENERATIONS populations, the first included."""
    if name == "FGA":
        return evo.FGA(generations=GENERATIONS - 1, population=population, asynchronous=asynchronous)
    if name == "ECS":
        return evo.ECS(generations=GENERATIONS, population=population, asynchronous=asynchronous)
    return evo.NSGA2(generations=GENERATIONS, population=population, asynchronous=asynchronous)


@functools.cache
def lenet_bits() -> tuple[Any, Callable[[Individual], tuple[float, ...]]]:
    """Return genomes of LeNet's filters and two objectives of them: a made-up importance kept per layer, and filters."""
    torch.manual_seed(0)
    images = Samples(torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64))
    task = evo.Task(lenet(), images, images)
    space = evo.FilterBits().bind(task, (1.0, -1.0))
    importance = np.abs(np.random.default_rng(0).normal(size=space.size))
    starts = np.cumsum([0, *(group.size for group in task.network.groups[:-1])])
    totals = np.add.reduceat(importance, starts)

    def values(individual: Individual) -> tuple[float, ...]:
        bits = np.frombuffer(individual, np.uint8)
        kept = np.add.reduceat(importance * bits, starts) / totals
        return float(np.sqrt(kept).prod()), float(bits.sum())

    return space, values


def simulate(job: Job) -> dict[str, Any]:
    """Return how busy the workers of one search on LeNet's filters are."""
    name, asynchronous, population, workers, seed, family, variation, costs = job
    space, values = lenet_bits()
    algorithm = algorithm_of(name, population, asynchronous=asynchronous)
    algorithm.start(space, [Objective("kept", True), Objective("filters", False)], seed)
    seconds_of = functools.partial(duration, mean=MEAN, variation=variation, seed=seed, family=family)
    line = Simulation(algorithm, lambda one: one.tobytes().hex(), values, seconds_of, workers, costs).run()
    return {
        "algorithm": name,
        "asynchronous": asynchronous,
        "population": population,
        "workers": workers,
        "family": family,
        "variation": variation,
        "busy": line.busy,
        "possible": best_possible(GENERATIONS * population, workers, seconds_of),
        "evaluations": len(line.found),
    }


@functools.cache
def channel_bench() -> tuple[Any, Mapping[str, float], float]:
    """Return the genomes of Channel-Bench-Macro within the budget, all accuracies, and the best of those within it."""
    from benchmarks.width_search import NETWORK, Quarters
    from evo.encodings.budgeted import Budgeted

    table = pd.read_csv(data_folder() / "channel_bench_macro_resnet.csv.gz", dtype={"arch": str}).set_index("arch")
    limits = evo.Budget(params=BUDGET).bind(NETWORK.costs)
    best = table["acc_mean"][table["params"] <= limits.maxima[0]].max()
    accuracy = {str(name): float(value) for name, value in table["acc_mean"].items()}
    return Budgeted(Quarters(), limits), accuracy, float(best)


def regrets(job: Job) -> dict[str, Any]:
    """Return the regret of one search on Channel-Bench-Macro after the numbers of evaluations of CHECKPOINTS."""
    name, asynchronous, population, workers, seed, family, variation, costs = job
    space, accuracy, best = channel_bench()
    algorithm = algorithm_of(name, population, asynchronous=asynchronous)
    algorithm.start(space, [Objective("accuracy", True)], seed)
    seconds_of = functools.partial(duration, mean=MEAN, variation=variation, seed=seed, family=family)

    def name_of(individual: Individual) -> str:
        return "".join(map(str, individual))

    line: Timeline = Simulation(
        algorithm, name_of, lambda one: (accuracy[name_of(one)],), seconds_of, workers, costs
    ).run()
    lost = [best - max(values[0] for values in line.found[:count]) for count in CHECKPOINTS]
    return {"algorithm": name, "asynchronous": asynchronous, "workers": workers, "evaluations": len(line.found)} | {
        "regret": lost
    }


def all_of(work: Callable[[Job], dict[str, Any]], jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return the results of all jobs, on all processors; the longest first, and one thread each."""
    processors = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processors, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, jobs))


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard error."""
    listed = list(values)
    return statistics.fmean(listed), (statistics.stdev(listed) / len(listed) ** 0.5 if len(listed) > 1 else 0.0)


def calibration() -> tuple[Costs, float]:
    """Return costs and coefficient of variation as they were measured on this machine.

    Raises:
        SystemExit: they were not.
    """
    path = RESULTS / "scaling_overhead.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `python -m benchmarks.scaling --only overhead` first")
    results = json.loads(path.read_text())
    driver = results["driver"]["ECS 50, steady"]
    # Several evaluations to a task are for short ones.
    rows = [row for row in results["overhead"] if row["evaluator"] == "Ray" and row["way"] == "steady, no chunks"]
    transport = statistics.median(row["overhead"] for row in rows if row["workers"] == 1 and row["length"] >= 0.01)
    costs = Costs(result=driver["result"], write=driver["write"], transport=max(0.0, transport))
    return costs, results["spread"]["coefficient_of_variation"]


def measure(console: Console, *, quick: bool) -> None:
    """Parts 1 and 2."""
    task = measured.lenet_task()
    lengths = measured.LENGTHS[1:5:3] if quick else measured.LENGTHS
    spread = measured.spread(task, 10 if quick else 60)
    generations = 4 if quick else GENERATIONS
    driver = measured.driver_costs(
        task,
        [evo.ECS(generations=generations, asynchronous=mode) for mode in (False, True)]
        + [evo.ECS(generations=3, population=1000, asynchronous=True)],
    )
    rows = measured.overhead(task, lengths, 0.5 if quick else measured.SECONDS)
    table = Table("evaluator", "workers", "submitted", *(f"{1000 * length:g} ms" for length in lengths))
    table.title = "Overhead per evaluation, as a share of it"
    ways: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for row in rows:
        share = row["overhead"] / row["length"]
        ways[row["evaluator"], row["workers"], row["way"]].append(f"{share:.1%}")
    for (name, workers, way), shares in ways.items():
        table.add_row(name, str(workers), way, *shares)
    console.print(table, driver, spread)
    if not quick:
        write_results("scaling_overhead", {"overhead": rows, "driver": driver, "spread": spread})


def busy(console: Console, *, quick: bool) -> None:
    """Part 3."""
    costs, variation = (Costs(0.0005, 0.001, 0.005), 0.4) if quick else calibration()
    sizes = {50: (8, 64)} if quick else WORKERS
    jobs: list[Job] = [
        (name, mode, population, workers, seed, family, cv, costs)
        for population, counts in sorted(sizes.items(), reverse=True)
        for workers in counts
        for family, cv in (("lognormal", 0.5), ("gamma", 0.5), ("lognormal", variation))
        for name, mode in itertools.product(("ECS", "FGA", "NSGA2"), (False, True))
        for seed in range(2 if quick else SEEDS[population])
        if (family, cv) == ("lognormal", 0.5) or (population, workers) in TARGETS
    ]
    rows = all_of(simulate, jobs)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["population"], row["workers"], row["family"], row["variation"]].append(row)
    table = Table(
        "population", "workers", "times", *(f"{n}, {m}" for n in ("ECS", "FGA", "NSGA2") for m in ("barrier", "steady"))
    )
    table.add_column("possible")
    table.title = "Share of the time that workers are busy"
    summary = []
    for (population, workers, family, cv), members in sorted(groups.items()):
        cells = []
        for name, mode in itertools.product(("ECS", "FGA", "NSGA2"), (False, True)):
            chosen = [row for row in members if row["algorithm"] == name and row["asynchronous"] == mode]
            mean, error = mean_and_error(row["busy"] for row in chosen)
            evaluations = statistics.fmean(row["evaluations"] for row in chosen)
            summary.append(
                {
                    "algorithm": name,
                    "asynchronous": mode,
                    "population": population,
                    "workers": workers,
                    "family": family,
                }
                | {
                    "variation": cv,
                    "seeds": len(chosen),
                    "busy": mean,
                    "standard_error": error,
                    "evaluations": evaluations,
                }
            )
            cells.append(f"{mean:.1%} ± {error:.1%}")
        possible = mean_and_error(row["possible"] for row in members)[0]
        for row in summary[-6:]:
            row["possible"] = possible
        target = f" (target {TARGETS[population, workers]:.0%})" if (population, workers) in TARGETS else ""
        table.add_row(str(population), f"{workers:,}{target}", f"{family} {cv:.2f}", *cells, f"{possible:.1%}")
    console.print(table)
    if not quick:
        write_results("scaling_simulation", {"mean_seconds": MEAN, "costs": vars(costs), "rows": summary})


def quality(console: Console, *, quick: bool) -> None:
    """Part 4."""
    seeds = 3 if quick else 40
    cases = [(False, 8), (True, 8), (True, 64), (True, 256)]
    jobs: list[Job] = [
        (name, mode, 50, workers, seed, "lognormal", 0.5, Costs())
        for name in ("ECS", "FGA", "NSGA2")
        for mode, workers in cases
        for seed in range(seeds)
    ]
    rows = all_of(regrets, jobs)
    table = Table("algorithm", "search", *(f"after {count}" for count in CHECKPOINTS))
    table.title = "Regret, points of accuracy, Channel-Bench-Macro"
    summary = []
    for name, (mode, workers) in itertools.product(("ECS", "FGA", "NSGA2"), cases):
        chosen = [
            row["regret"]
            for row in rows
            if (row["algorithm"], row["asynchronous"], row["workers"]) == (name, mode, workers)
        ]
        cells = [mean_and_error(column) for column in zip(*chosen, strict=True)]
        what = f"steady state, {workers} workers" if mode else "generations"
        table.add_row(name, what, *(f"{mean:.3f} ± {error:.3f}" for mean, error in cells))
        summary.append(
            {"algorithm": name, "asynchronous": mode, "workers": workers, "seeds": seeds, "after": CHECKPOINTS}
            | {"regret": [mean for mean, _ in cells], "standard_error": [error for _, error in cells]}
        )
    console.print(table)
    if not quick:
        write_results("scaling_quality", {"budget": BUDGET, "population": 50, "rows": summary})


def main() -> None:
    """Measure, simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"overhead": measure, "simulation": busy, "quality": quality}
    parser.add_argument("--only", choices=parts, help="one part")
    parser.add_argument("--quick", action="store_true", help="a small form, which writes nothing")
    options = parser.parse_args()
    console = Console(width=180)
    for name, part in parts.items():
        if options.only in (None, name):
            part(console, quick=options.quick)


if __name__ == "__main__":
    main()
