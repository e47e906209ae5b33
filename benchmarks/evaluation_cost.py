"""What does one evaluation cost, and what of it is overhead?

Question: of the time that one ECS evaluation of LeNet takes (2,000 training images, one epoch, 2,000 validation images, one
thread), how much goes into decoding the genome, building the network, recalibrating, fine-tuning, validating and moving
things to a worker and back? Do two local workers do the work of two, and what does Ray add to an evaluation of 100 ms?

Set-up: LeNet (20-50-500-10) with random weights on scikit-learn's digits at 28×28, 60 structures from the sparse initial
population; the images are repeated to the counts above, since only time matters here. Evaluations of a known length
(busy waiting, so that they need the processor) measure the evaluators themselves. Every timing is the best of three rounds.

Outputs: `results/evaluation_cost.json` and a table. Targets: building ≤ 5 % of an evaluation, two workers ≥ 1.8 × one,
Ray's overhead ≤ 5 % at 100 ms.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import evo
from benchmarks.common import write_results
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.evaluation import Evaluator, Job
from evo.fitness.base import Fitness
from evo.network.zoo import lenet
from evo.training import Samples, balanced_subset, error_rate, recalibrate, train
from evo.training.datasets import digits

ROUNDS = 3
STRUCTURES = 60
BUSY_SECONDS = 0.1


@evo.fitness(maximize="done")
def busy(candidate: Candidate) -> Mapping[str, float]:
    """Keep a processor busy for BUSY_SECONDS of its time."""
    end = time.process_time() + BUSY_SECONDS
    while time.process_time() < end:
        pass
    return {"done": 1.0}


def repeated(samples: Samples, count: int) -> Samples:
    """Return `count` samples, the given ones over and over."""
    return samples.take(np.resize(np.arange(len(samples)), count))


def best_of(work: Callable[[], object]) -> float:
    """Return the shortest wall time of ROUNDS calls, in seconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def breakdown(task: evo.Task, fitness: evo.SubsetFineTune, blueprints: list[Blueprint]) -> dict[str, float]:
    """Return mean seconds per evaluation of every step, measured one by one in this process on one thread."""
    torch.set_num_threads(1)
    space = evo.FilterBits().bind(task.network, (1.0,))
    genomes = [space.encode(blueprint) for blueprint in blueprints]
    candidates = [Candidate(task, blueprint, 0) for blueprint in blueprints]
    subset = task.train.take(balanced_subset(task.train.y, fitness.images, np.random.default_rng(0)))
    seconds = {
        "decode": best_of(lambda: [space.decode(genome).key for genome in genomes]),
        "build": best_of(lambda: [candidate.build() for candidate in candidates]),
    }
    models = [candidate.build() for candidate in candidates]
    seconds["recalibrate"] = best_of(lambda: [recalibrate(model, subset, fitness) for model in models])
    seconds["fine-tune"] = best_of(lambda: [train(m, subset, fitness, np.random.default_rng(0)) for m in models])
    seconds["validate"] = best_of(lambda: [error_rate(model, task.val) for model in models])
    return {name: total / len(blueprints) for name, total in seconds.items()}


def throughput(task: evo.Task, fitness: Fitness, evaluator: Evaluator, blueprints: list[Blueprint]) -> float:
    """Return wall seconds per evaluation of warm workers."""
    job = Job(task, fitness, 0, evaluator.threads, evaluator.timeout)
    with evaluator.open(job) as session:
        list(session.run(blueprints[:8]))  # workers have started and hold the job
        return best_of(lambda: list(session.run(blueprints))) / len(blueprints)


def main() -> None:
    """Measure, print and write."""
    train_set, val_set, _ = digits(size=28)
    torch.manual_seed(0)
    task = evo.Task(lenet(), repeated(train_set, 4000), repeated(val_set, 2000))
    space = evo.FilterBits().bind(task.network, (1.0,))
    drawn = {space.decode(genome).key: space.decode(genome) for genome in space.initial(80, np.random.default_rng(0))}
    blueprints = list(drawn.values())[:STRUCTURES]
    fitness = evo.SubsetFineTune(images=2000, batch_size=64)

    steps = breakdown(task, fitness, blueprints)
    real = {
        "in process": throughput(task, fitness, evo.LocalEvaluator(workers=0), blueprints),
        "1 worker": throughput(task, fitness, evo.LocalEvaluator(workers=1), blueprints),
        "2 workers": throughput(task, fitness, evo.LocalEvaluator(workers=2), blueprints),
        "Ray, 2 slots": throughput(task, fitness, evo.RayEvaluator(), blueprints),
    }
    known = {
        "in process": throughput(task, busy, evo.LocalEvaluator(workers=0), blueprints),
        "1 worker": throughput(task, busy, evo.LocalEvaluator(workers=1), blueprints),
        "2 workers": throughput(task, busy, evo.LocalEvaluator(workers=2), blueprints),
        "Ray, 2 slots": throughput(task, busy, evo.RayEvaluator(), blueprints),
    }
    slots = 2
    figures = {
        "build_share": steps["build"] / real["in process"],
        "decode_share": steps["decode"] / real["in process"],
        "transport_share": real["1 worker"] / real["in process"] - 1,
        "two_workers_speedup": real["1 worker"] / real["2 workers"],
        "two_workers_speedup_at_100ms": known["1 worker"] / known["2 workers"],
        "local_overhead_at_100ms": known["1 worker"] / BUSY_SECONDS - 1,
        "ray_overhead_at_100ms": known["Ray, 2 slots"] * slots / BUSY_SECONDS - 1,
        "ray_speedup": real["1 worker"] / real["Ray, 2 slots"],
    }
    show(steps, real, known, figures)
    write_results(
        "evaluation_cost",
        {"seconds_per_step": steps, "seconds_per_evaluation": real, "seconds_at_100ms": known, "figures": figures},
    )


def show(
    steps: Mapping[str, float], real: Mapping[str, float], known: Mapping[str, float], figures: Mapping[str, float]
) -> None:
    """Print the tables."""
    console = Console()
    table = Table("step", "ms", "share", title="One evaluation, in process, one thread", title_justify="left")
    for name, seconds in steps.items():
        table.add_row(name, f"{1000 * seconds:.2f}", f"{seconds / real['in process']:.1%}")
    console.print(table)
    table = Table(
        "evaluator", "fine-tuning, ms", "100 ms busy, ms", title="Wall time per evaluation", title_justify="left"
    )
    for name in real:
        table.add_row(name, f"{1000 * real[name]:.1f}", f"{1000 * known[name]:.1f}")
    console.print(table)
    targets = {
        "build_share": "≤ 5 %",
        "two_workers_speedup": "≥ 1.8",
        "two_workers_speedup_at_100ms": "≥ 1.8",
        "ray_overhead_at_100ms": "≤ 5 %",
    }
    table = Table("figure", "measured", "target", title="Against the targets", title_justify="left")
    for name, value in figures.items():
        shown = f"{value:.2f}×" if "speedup" in name else f"{value:.2%}"
        table.add_row(name.replace("_", " "), shown, targets.get(name, ""))
    console.print(table)


if __name__ == "__main__":
    main()
