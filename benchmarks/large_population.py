"""What does the engine itself cost per individual, when populations and genomes are large?

Question: with a fitness that costs next to nothing, how much time does an individual take from being proposed to being on
disk, is that no slower than DEAP's plain `eaSimple`, which writes nothing, and does memory stay flat?

Set-up: a network of ten hidden layers of 1,000 units, so genomes of 10,000 bits; population 1,000, 100 generations; the
fitness is the share of ones. Ours is `evo.search` with ECS and evaluation in this process: decoding, repair, exact costs,
look-up of structures measured before, a row per individual with genome and structure in SQLite (synchronous=FULL), and the
state after every generation. DEAP's is `algorithms.eaSimple` with two-point crossover, bit flips (5 %) and tournaments of
three, as in its own OneMax example, with individuals as lists (the example) and as `array.array` (its advice for speed).
Everything is in one process, one after the other. Per individual means per member of
a generation of DEAP's, evaluated again or not, and per row of ours.

Outputs: `results/large_population.json` and a table. Targets: no slower than eaSimple; memory of the second half of the
search within 10 % of the first. `--quick` runs a tenth of the generations.
"""

import argparse
import array
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deap import algorithms, base, creator, tools
from rich.console import Console
from rich.table import Table

import evo
from benchmarks.common import write_results
from evo.callbacks import Callback, Progress
from evo.network.zoo import mlp

LAYERS, UNITS = 10, 1000
POPULATION = 1000
MEBI = 2**20


@evo.fitness(maximize="share")
def share_of_ones(candidate: evo.Candidate) -> Mapping[str, float]:
    """Return how much of the network is kept."""
    return {"share": sum(candidate.blueprint.counts.values()) / (LAYERS * UNITS)}


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MEBI


def measured(work: Callable[[], int]) -> dict[str, float]:
    """Return wall and processor time of `work`, which returns how many individuals it made."""
    wall, processor = time.perf_counter(), time.process_time()
    count = work()
    return {
        "individuals": count,
        "seconds": time.perf_counter() - wall,
        "ms_per_individual": 1000 * (time.perf_counter() - wall) / count,
        "processor_ms_per_individual": 1000 * (time.process_time() - processor) / count,
    }


def ours(generations: int, folder: Path) -> dict[str, Any]:
    """Run evo's search and return its times, its memory after every generation, and the size of its history."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images, labels = rng.random((20, 16), dtype=np.float32), np.arange(20) % 10
    task = evo.Task(mlp(10, features=16, widths=[UNITS] * LAYERS), (images, labels), (images, labels))
    memory: dict[int, float] = {}

    class Watch(Callback):
        def on_progress(self, progress: Progress) -> None:
            memory.setdefault(progress.generation, resident())

    def work() -> int:
        run = evo.search(
            task,
            encoding=evo.FilterBits(initial="random"),
            fitness=share_of_ones,
            algorithm=evo.ECS(generations=generations, population=POPULATION),
            evaluator=evo.LocalEvaluator(workers=0),
            out=folder / "run",
            reuse=False,
            callbacks=[Watch()],
        )
        return int(run.generations["asked"].sum())

    times = measured(work)
    size = sum(path.stat().st_size for path in (folder / "run").iterdir()) / MEBI
    used = list(memory.values())
    half = len(used) // 2
    growth = max(used[half:]) / max(used[1 : half + 1]) - 1
    return {**times, "memory_mib": used, "memory_growth": growth, "folder_mib": size}


def deap_plain(generations: int, *, lists: bool) -> dict[str, float]:
    """Run DEAP's eaSimple on the same problem and return its times."""
    creator.create("Fitness", base.Fitness, weights=(1.0,))
    if lists:
        creator.create("Genome", list, fitness=creator.Fitness)
    else:
        creator.create("Genome", array.array, typecode="b", fitness=creator.Fitness)
    random.seed(0)
    toolbox = base.Toolbox()
    toolbox.register("bit", random.randint, 0, 1)
    toolbox.register("individual", tools.initRepeat, creator.Genome, toolbox.bit, LAYERS * UNITS)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", lambda genome: (sum(genome) / len(genome),))
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutFlipBit, indpb=0.05)
    toolbox.register("select", tools.selTournament, tournsize=3)
    population = toolbox.population(n=POPULATION)

    def work() -> int:
        algorithms.eaSimple(population, toolbox, cxpb=0.5, mutpb=0.2, ngen=generations, verbose=False)
        return POPULATION * (generations + 1)  # it evaluates those it begins with, too

    return measured(work)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten generations, nothing is written")
    quick = parser.parse_args().quick
    generations = 10 if quick else 100
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, dict[str, Any]] = {"evo, every row on disk": ours(generations, Path(folder))}
    # A tenth of the generations is enough for a mean: they are alike.
    yardstick = max(5, generations // 10)
    figures["DEAP eaSimple, lists"] = deap_plain(yardstick, lists=True)
    figures["DEAP eaSimple, arrays"] = deap_plain(yardstick, lists=False)
    table = Table(
        "engine", "individuals", "ms each", "processor ms each", title="Cost per individual", title_justify="left"
    )
    for name, entry in figures.items():
        table.add_row(
            name,
            f"{entry['individuals']:,.0f}",
            f"{entry['ms_per_individual']:.3f}",
            f"{entry['processor_ms_per_individual']:.3f}",
        )
    console = Console()
    console.print(table)
    own = figures["evo, every row on disk"]
    console.print(
        f"memory {own['memory_mib'][1]:.0f} MiB after the first generation, {own['memory_mib'][-1]:.0f} at the end "
        f"(largest of the second half against the first: {own['memory_growth']:+.1%}); folder {own['folder_mib']:.0f} MiB"
    )
    if not quick:
        write_results("large_population", {"population": POPULATION, "bits": LAYERS * UNITS, "engines": figures})


if __name__ == "__main__":
    main()
