"""ECS (Wang et al.): evolve which filters to keep, then fine-tune the fittest network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from evo.algorithms import ECS
from evo.encodings.filter_bits import FilterBits
from evo.evaluation import Evaluator
from evo.fitness.subset_finetune import SubsetFineTune
from evo.run import Run
from evo.search import Progress, search
from evo.task import Task
from evo.training import Recipe, error_rate, finetune


@dataclass(frozen=True)
class Compression:
    """What a recipe hands back.

    Attributes:
        run: the search.
        id: the individual that won.
        model: its network, fine-tuned, in evaluation mode.
        layers: ECS's table of it, see `CostModel.table`.
        tuned: one row per individual that was fine-tuned: its id, params and error on the validation images.
        original_error: of the whole network on the validation images, in [0, 1].
    """

    run: Run
    id: int
    model: nn.Module
    layers: pd.DataFrame
    tuned: pd.DataFrame
    original_error: float


def ecs(
    task: Task,
    *,
    encoding: FilterBits | None = None,
    fitness: SubsetFineTune | None = None,
    algorithm: ECS | None = None,
    evaluator: Evaluator | None = None,
    finetuning: Recipe | None = None,
    tries: int = 5,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Compression:
    """Compress `task`'s network: Algorithm 1, then fine-tuning on all training images.

    The fitness trades error for size, so its optimum may be too small to recover. Therefore up to `tries` individuals are
    fine-tuned, from the fittest along the Pareto front towards larger ones, until one is as accurate on the validation
    images as the original; if none is, the most accurate of them wins. Test images play no part.

    Args:
        task: network and data.
        encoding, fitness, algorithm, evaluator, out, seed, progress: see `evo.search`; defaults are the paper's, scaled down.
        finetuning: of the winner; default ten epochs.
        tries: individuals to fine-tune at most.
    """
    run = search(
        task,
        encoding=encoding or FilterBits(),
        fitness=fitness or SubsetFineTune(),
        algorithm=algorithm or ECS(),
        evaluator=evaluator,
        out=out,
        seed=seed,
        progress=progress,
    )
    original_error = error_rate(task.network.build(task.network.full), task.val)
    recipe = finetuning or Recipe(epochs=10)
    models: dict[int, nn.Module] = {}
    errors: dict[int, float] = {}
    for row in _candidates(run, tries):
        models[row] = finetune(run.build(row), task, seed=seed, **recipe.to_dict())
        errors[row] = error_rate(models[row], task.val)
        if errors[row] <= original_error:
            break
    winner = row if errors[row] <= original_error else min(errors, key=errors.__getitem__)
    tuned = run.history.loc[list(errors), ["params", "macs"]].assign(error=pd.Series(errors))
    return Compression(run, winner, models[winner], run.layers(winner), tuned, original_error)


def _candidates(run: Run, tries: int) -> list[int]:
    """Return the fittest individual, then ever larger ones of the front over size and error, each about twice the last."""
    fittest = run.best
    front = run.pareto(["params", "error"])
    rows, size = [int(str(fittest.name))], int(fittest["params"])
    while size < front["params"].iloc[-1]:
        size *= 2
        # The front is sorted by size and its error falls: the last one that fits is the most accurate that does.
        row = int(front.index[front["params"] <= size][-1])
        if row not in rows:
            rows.append(row)
    return rows[:tries]
