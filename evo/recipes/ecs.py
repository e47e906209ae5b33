"""ECS (Wang et al.): evolve which filters to keep, then fine-tune the fittest network."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evo.algorithms import ECS
from evo.budget import Budget
from evo.callbacks.base import Callback
from evo.encodings.filter_bits import FilterBits
from evo.evaluation import Evaluator
from evo.fitness.cascade import Cascade
from evo.fitness.subset_finetune import SubsetFineTune
from evo.recipes.compression import FINETUNING, Compression, check_tuning, expect, tune
from evo.run import Run
from evo.search import search
from evo.seeding import Seed
from evo.stopping import Convergence
from evo.task import Task
from evo.training import EpochReport, Recipe


def ecs(
    task: Task,
    *,
    encoding: FilterBits | None = None,
    fitness: SubsetFineTune | Cascade | None = None,
    algorithm: ECS | None = None,
    budget: Budget | None = None,
    evaluator: Evaluator | None = None,
    seeds: Sequence[Seed] | None = None,
    finetuning: Recipe | None = None,
    tries: int = 5,
    out: str | Path | None = None,
    seed: int = 0,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    convergence: Convergence | None = None,
    reuse: bool = True,
    callbacks: Sequence[Callback] = (),
    on_epoch: Callable[[EpochReport], None] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Compression:
    """Compress `task`'s network: Algorithm 1, then fine-tuning on all training images.

    The fitness trades error for size, so its optimum may be too small to recover. Therefore up to `tries` individuals are
    fine-tuned, from the fittest along the Pareto front towards larger ones, until one is as accurate as the original, as
    far as the validation images can tell: within one standard error of the difference. If none is, the most accurate of
    them wins. Test images play no part.

    Args:
        task: network and data.
        encoding, fitness, algorithm, budget, evaluator, seeds, out, seed, reuse, callbacks, source: see `evo.search`;
            defaults are the paper's, scaled down. Of a cascade, the last fidelity is a `SubsetFineTune`.
        max_evaluations, max_seconds, convergence: when the search ends early, see `evo.search`.
        finetuning: of the winner; default ten epochs.
        tries: individuals to fine-tune at most.
        on_epoch: of the fine-tuning, see `evo.training.train`.

    Raises:
        EvoError: what `evo.search` raises, or `evo.recipes.compression.tune`; wrong settings before any work.
    """
    encoding, fitness, finetuning = encoding or FilterBits(), fitness or SubsetFineTune(), finetuning or FINETUNING
    expect("fitness", fitness.fidelities[-1] if isinstance(fitness, Cascade) else fitness, SubsetFineTune)
    check_tuning(finetuning, tries, task)
    run = search(
        task,
        encoding=encoding,
        fitness=fitness,
        algorithm=algorithm or ECS(),
        budget=budget,
        evaluator=evaluator,
        seeds=seeds,
        out=out,
        seed=seed,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        convergence=convergence,
        reuse=reuse,
        callbacks=callbacks,
        source=source,
    )
    return tune(run, task, _candidates(run, tries), finetuning, until_original=True, on_epoch=on_epoch)


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
