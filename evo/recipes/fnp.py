"""FNP (Li et al.): find channel numbers with a zero-shot score, choose filters by their neighbours, fine-tune once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evo.algorithms import FGA
from evo.budget import Budget
from evo.callbacks.base import Callback
from evo.encodings.channel_vector import ChannelVector
from evo.evaluation import Evaluator, LocalEvaluator
from evo.fitness.base import Fitness
from evo.fitness.score_of_frame import ScoreOfFrame
from evo.recipes.compression import FINETUNING, Compression, check_tuning, expect, tune
from evo.search import check, search
from evo.seeding import Seed
from evo.stopping import Convergence
from evo.task import Task
from evo.training import EpochReport, Recipe


def fnp(
    task: Task,
    *,
    encoding: ChannelVector | None = None,
    fitness: Fitness | None = None,
    algorithm: FGA | None = None,
    budget: Budget | None = None,
    evaluator: Evaluator | None = None,
    seeds: Sequence[Seed] | None = None,
    finetuning: Recipe | None = None,
    tries: int = 1,
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
    """Compress `task`'s network: preprocess, search, select weights, fine-tune (FNP section 3).

    Args:
        task: network and data.
        encoding: γ and λ of the importance matrix, how channel numbers are varied, and how filters are chosen. The paper has
            one λ per network (Table 13): VGG-16 0.5, ResNet-56 10, ResNet-110 5, GoogLeNet 20, ResNet-50 0.4. With
            `initial="capacity"` the search starts from what a closed form finds in place of V*: a closed form for all
            candidates, a score of gradients for the promising, training for the best.
        fitness, algorithm, evaluator, seeds, out, seed, max_evaluations, max_seconds, convergence, reuse, callbacks, source:
            see `evo.search`; the defaults are the paper's, with the robust score.
        budget: θ, what no candidate may exceed; default as many parameters as V*, the network of the importance matrix,
            has. With a budget and without γ, V* is the largest network within it.
        finetuning: of the winner; default ten epochs.
        tries: individuals to fine-tune, those with the best scores; the one with the lowest validation error wins. The
            paper fine-tunes one.
        on_epoch: of the fine-tuning, see `evo.training.train`.

    Raises:
        EvoError: what `evo.search` raises, or `evo.recipes.compression.tune`; wrong settings before any work.
    """
    encoding, fitness, algorithm = encoding or ChannelVector(), fitness or ScoreOfFrame(), algorithm or FGA()
    evaluator, finetuning = evaluator or LocalEvaluator(), finetuning or FINETUNING
    check(
        task,
        encoding=encoding,
        fitness=fitness,
        algorithm=algorithm,
        budget=budget,
        evaluator=evaluator,
        seed=seed,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        convergence=convergence,
        callbacks=callbacks,
    )
    expect("encoding", encoding, ChannelVector)
    check_tuning(finetuning, tries, task)
    # Preprocess: V*, the channels that the importance matrix leaves (Algorithm 1).
    if budget is None:
        space = encoding.model_copy(update={"initial": "importance_matrix"}).bind(task, (1.0,))
        costs = task.network.costs.costs(space.counts(space.start), ["params"])
        budget = Budget(params=int(costs["params"]))
    # Search: mutations of V* and of the best (Algorithm 2), each within θ, by the score of the frame (eq. 8 to 11).
    run = search(
        task,
        encoding=encoding,
        fitness=fitness,
        algorithm=algorithm,
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
    # Select weights: the encoding has kept the filters that its `select` chooses. Fine-tune.
    fittest = [int(row) for row in run.ranked().index[:tries]]
    return tune(run, task, fittest, finetuning, on_epoch=on_epoch)
