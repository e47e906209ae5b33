"""Small real searches to look at."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import evo
from evo.algorithms import Algorithm
from evo.candidate import Candidate
from evo.encodings.base import Encoding
from evo.errors import EvaluatorError
from evo.fitness.base import Fitness
from evo.testing import small_task

TASK = small_task()


@evo.fitness(maximize="score", minimize=("params", "error"))
def judge(candidate: Candidate) -> Mapping[str, float]:
    """Return a score and an error that pull against each other; some fail."""
    counts = candidate.blueprint.counts
    if counts["0"] == 3:
        raise ValueError("three is refused")
    return {"score": float(counts["4"] + counts["9"]), "error": 1 / counts["0"] + 0.1 * float(candidate.rng().random())}


@evo.fitness(minimize=("error", "params"))
def weigh(candidate: Candidate) -> Mapping[str, float]:
    """Return an error that small networks have more of."""
    return {"error": 10 / sum(candidate.blueprint.counts.values())}


@evo.fitness(maximize="score", minimize=("params", "error"))
def refuse(candidate: Candidate) -> Mapping[str, float]:
    """Fail."""
    raise ValueError("nothing is good enough")


def search(
    out: Path,
    *,
    encoding: Encoding | None = None,
    fitness: Fitness = judge,
    algorithm: Algorithm | None = None,
    task: evo.Task = TASK,
    seed: int = 0,
) -> evo.Run:
    """Return a finished search in `out`."""
    return evo.search(
        task,
        encoding=encoding or evo.FilterBits(),
        fitness=fitness,
        algorithm=algorithm or evo.ECS(generations=4, population=12),
        evaluator=evo.LocalEvaluator(workers=0),
        out=out,
        seed=seed,
        reuse=False,
    )


def fail(out: Path) -> evo.Run:
    """Return a search of four evaluations that all failed."""
    with pytest.raises(EvaluatorError):
        search(out, fitness=refuse, algorithm=evo.RandomSearch(evaluations=4, batch=4))
    return evo.Run(out, TASK)
