"""What does one evaluation cost, and what of it is overhead?

Question: of the time that one ECS evaluation of LeNet takes (2,000 training images, one epoch, 2,000 validation images, one
thread), how much goes into decoding the genome, building the network, recalibrating, fine-tuning, validating and moving
things to a worker and back? Do two local workers do the work of two, and what does Ray add to evaluations of 30 and 100 ms?

Set-up: LeNet (20-50-500-10) with random weights on scikit-learn's digits at 28×28, 60 structures from the sparse initial
population; the images are repeated to the counts above, since only time matters here. Evaluations of a known length
(busy waiting, so that they need the processor) measure the evaluators themselves: on two slots, so that Ray's own processes
and this one compete with the workers for two processors. Every timing is the best of three rounds.

Outputs: `results/evaluation_cost.json` and a table. Targets: building ≤ 5 % of an evaluation, two workers ≥ 1.8 × one,
Ray's overhead ≤ 5 % at 100 ms with one evaluation to a task and at 30 ms with several.
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
from evo.evaluation import Evaluator, Job, ray_session
from evo.fitness.base import Fitness
from evo.network.zoo import lenet
from evo.training import Samples, balanced_subset, error_rate, recalibrate, train
from evo.training.datasets import digits

ROUNDS = 3
STRUCTURES = 60
SLOTS = 2


def busy(seconds: float) -> Fitness:
    """Return a fitness that keeps a processor busy for so many seconds of its time."""

    @evo.fitness(maximize="done")
    def wait(candidate: Candidate) -> Mapping[str, float]:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return {"done": 1.0}

    return wait


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
    space = evo.FilterBits().bind(task, (1.0,))
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


LENGTHS = {"30 ms": 0.03, "100 ms": 0.1}


def at_known_length(task: evo.Task, length: float, blueprints: list[Blueprint]) -> dict[str, float]:
    """Return wall seconds per evaluation of `length` seconds of processor time, for every evaluator."""
    fitness = busy(length)
    seconds = {
        "in process": throughput(task, fitness, evo.LocalEvaluator(workers=0), blueprints),
        "1 worker": throughput(task, fitness, evo.LocalEvaluator(workers=1), blueprints),
        "2 workers": throughput(task, fitness, evo.LocalEvaluator(workers=2), blueprints),
        "Ray, 2 slots": throughput(task, fitness, evo.RayEvaluator(), blueprints),
    }
    several, ray_session.CHUNK_SECONDS = ray_session.CHUNK_SECONDS, 0.0
    try:
        seconds["Ray, 2 slots, one to a task"] = throughput(task, fitness, evo.RayEvaluator(), blueprints)
    finally:
        ray_session.CHUNK_SECONDS = several
    return seconds


def main() -> None:
    """Measure, print and write."""
    train_set, val_set, _ = digits(size=28)
    torch.manual_seed(0)
    task = evo.Task(lenet(), repeated(train_set, 4000), repeated(val_set, 2000))
    space = evo.FilterBits().bind(task, (1.0,))
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
    known = {name: at_known_length(task, length, blueprints) for name, length in LENGTHS.items()}
    figures = {
        "build_share": steps["build"] / real["in process"],
        "decode_share": steps["decode"] / real["in process"],
        "transport_share": real["1 worker"] / real["in process"] - 1,
        "two_workers_speedup": real["1 worker"] / real["2 workers"],
        "two_workers_speedup_at_100ms": known["100 ms"]["1 worker"] / known["100 ms"]["2 workers"],
    }
    for name, length in LENGTHS.items():
        found = known[name]
        figures[f"local_overhead_at_{name}"] = found["1 worker"] / length - 1
        figures[f"ray_overhead_at_{name}"] = found["Ray, 2 slots"] * SLOTS / length - 1
        figures[f"ray_overhead_at_{name}_one_to_a_task"] = found["Ray, 2 slots, one to a task"] * SLOTS / length - 1
    figures |= {
        "ray_speedup": real["1 worker"] / real["Ray, 2 slots"],
    }
    show(steps, real, known, figures)
    write_results(
        "evaluation_cost",
        {
            "seconds_per_step": steps,
            "seconds_per_evaluation": real,
            "seconds_at_known_length": known,
            "figures": figures,
        },
    )


def show(
    steps: Mapping[str, float],
    real: Mapping[str, float],
    known: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, float],
) -> None:
    """Print the tables."""
    console = Console()
    table = Table("step", "ms", "share", title="One evaluation, in process, one thread", title_justify="left")
    for name, seconds in steps.items():
        table.add_row(name, f"{1000 * seconds:.2f}", f"{seconds / real['in process']:.1%}")
    console.print(table)
    lengths = [f"{name} busy, ms" for name in known]
    table = Table("evaluator", "fine-tuning, ms", *lengths, title="Wall time per evaluation", title_justify="left")
    for name in known["100 ms"]:
        tuning = f"{1000 * real[name]:.1f}" if name in real else ""
        table.add_row(name, tuning, *(f"{1000 * seconds[name]:.1f}" for seconds in known.values()))
    console.print(table)
    targets = {
        "build_share": "≤ 5 %",
        "two_workers_speedup": "≥ 1.8",
        "two_workers_speedup_at_100ms": "≥ 1.8",
        "ray_overhead_at_30 ms": "≤ 5 %",
        "ray_overhead_at_100 ms_one_to_a_task": "≤ 5 %",
    }
    table = Table("figure", "measured", "target", title="Against the targets", title_justify="left")
    for name, value in figures.items():
        shown = f"{value:.2f}×" if "speedup" in name else f"{value:.2%}"
        table.add_row(name.replace("_", " "), shown, targets.get(name, ""))
    console.print(table)


if __name__ == "__main__":
    main()
