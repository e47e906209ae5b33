"""What `benchmarks.scaling` measures here: overhead of evaluators, costs of the driver, spread of evaluation times."""

import os
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import evo
from benchmarks.evaluation_cost import repeated
from benchmarks.scaling_simulation import Costs
from evo.algorithms import SteadyState
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.evaluation import Evaluator, Job, Session
from evo.evaluation.base import evaluate
from evo.fitness.base import Fitness, Objective
from evo.network.zoo import lenet
from evo.task import Task
from evo.training.datasets import digits

LENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
POPULATION = 1000
SECONDS = 2.0
"""Of work per worker and measurement; at least `FEWEST` and at most `MOST` evaluations."""
FEWEST, MOST = 12, 1500


class Busy(Fitness):
    """Keeps a processor busy for so many seconds of its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The share of filters kept, so that there is something to search for."""
        return (Objective("kept", True),)

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        """Spend the time."""
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return {"kept": float(sum(candidate.blueprint.counts.values()))}

    def describe(self) -> dict[str, Any]:
        """Return its name and length."""
        return {"name": "busy", "seconds": self.seconds}

    def check(self, task: Task) -> None:
        """Accept every task."""


def lenet_task() -> Task:
    """Return LeNet on scikit-learn's digits, repeated to the 2,000 images of an ECS evaluation; only time matters here."""
    train, val, _ = digits(size=28)
    torch.manual_seed(0)
    return Task(lenet(), repeated(train, 4000), repeated(val, 2000))


def structures(task: Task, count: int) -> list[Blueprint]:
    """Return different structures of the sparse first population."""
    space = evo.FilterBits().bind(task, (1.0,))
    rng = np.random.default_rng(0)
    drawn: dict[str, Blueprint] = {}
    while len(drawn) < count:
        drawn |= {blueprint.key: blueprint for blueprint in map(space.decode, space.initial(count, rng))}
    return list(drawn.values())[:count]


def seconds_each(session: Session, blueprints: Sequence[Blueprint], population: int | None) -> float:
    """Return wall seconds per evaluation: of a generation submitted at once or, with a population, one by one for the room."""
    left, under_way = deque(blueprints), 0
    start = time.perf_counter()
    if population is None:
        session.submit(list(left))
        under_way = len(left)
        left.clear()
    while left or under_way:
        while left and population is not None and session.room(population) > 0:
            session.submit([left.popleft()])
            under_way += 1
        under_way -= len(session.receive())
    return (time.perf_counter() - start) / len(blueprints)


def overhead(task: Task, lengths: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """Return wall time per evaluation, and what of it is overhead, for all lengths, evaluators and ways to submit."""
    processors = len(os.sched_getaffinity(0))
    evaluators: list[tuple[str, Evaluator, int]] = [
        ("local", evo.LocalEvaluator(workers=1), 1),
        ("local", evo.LocalEvaluator(workers=2), 2),
        ("Ray", evo.RayEvaluator(num_cpus=processors), 1),
        ("Ray", evo.RayEvaluator(num_cpus=processors / 2), 2),
    ]
    blueprints = structures(task, MOST)
    rows = []
    for name, evaluator, workers in evaluators:
        for length in lengths:
            count = workers * int(np.clip(seconds / length, FEWEST, MOST // 2))
            job = Job(task, Busy(length), 0, evaluator.threads, evaluator.timeout)
            with evaluator.open(job) as session:
                seconds_each(
                    session, blueprints[: 8 * workers], None
                )  # workers have started and know how long it takes
                # A population of 1 leaves no room for several evaluations to a task.
                ways = {"generation": None, "steady": POPULATION, "steady, no chunks": 1}
                for way, population in ways.items():
                    each = seconds_each(session, blueprints[:count], population) * workers
                    rows.append(
                        {"evaluator": name, "workers": workers, "way": way, "length": length, "count": count}
                        | {"seconds": each, "overhead": each - length, "efficiency": length / each}
                    )
                    print(rows[-1], flush=True)
    return rows


def driver_costs(task: Task, algorithms: Sequence[SteadyState]) -> dict[str, Any]:
    """Return what `evo.search` itself takes per individual, with evaluations that take no time in the same process.

    Its processor time is counted per individual; the rest of the wall time is the disk's, per transaction.
    """
    results: dict[str, Any] = {}
    for algorithm in algorithms:
        with tempfile.TemporaryDirectory() as folder:
            wall, processor = time.perf_counter(), time.process_time()
            run = evo.search(
                task,
                encoding=evo.FilterBits(),
                fitness=Busy(0.0),
                algorithm=algorithm,
                evaluator=evo.LocalEvaluator(workers=0),
                out=Path(folder) / "run",
                reuse=False,
            )
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            count = len(run.history)
        costs = Costs(result=processor / count, write=max(0.0, wall - processor) / count)
        mode = "steady" if algorithm.asynchronous else "generational"
        results[f"{type(algorithm).__name__} {algorithm.population}, {mode}"] = {
            "individuals": count,
            "individuals_per_second": count / wall,
            **asdict(costs),
        }
    return results


def spread(task: Task, count: int) -> dict[str, Any]:
    """Return how long fine-tunings of random candidates of LeNet take, and how much that varies."""
    job = Job(task, evo.SubsetFineTune(images=2000, batch_size=64), 0, 1, None)
    blueprints = structures(task, count + 2)
    seconds = [evaluate(job, blueprint).seconds for blueprint in blueprints][2:]  # without the first, which warm up
    mean, deviation = float(np.mean(seconds)), float(np.std(seconds, ddof=1))
    sigma = float(np.sqrt(np.log1p((deviation / mean) ** 2)))
    shape = (mean / deviation) ** 2
    # Log-likelihood per evaluation of the two distributions with this mean and deviation.
    likelihood = {
        "lognormal": float(np.mean(stats.lognorm.logpdf(seconds, sigma, scale=mean * np.exp(-(sigma**2) / 2)))),
        "gamma": float(np.mean(stats.gamma.logpdf(seconds, shape, scale=mean / shape))),
    }
    return {
        "evaluations": count,
        "mean_seconds": mean,
        "coefficient_of_variation": deviation / mean,
        "skewness": float(stats.skew(seconds)),
        "shortest": min(seconds),
        "longest": max(seconds),
        "log_likelihood": likelihood,
    }
