"""Synaptic pruning (Ahmadi and Mahboobi Esfanjani 2025): weak connections go while the network learns, dead units after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evo.algorithms import RandomSearch
from evo.callbacks.base import Callback
from evo.encodings.filter_bits import FilterBits
from evo.evaluation import Evaluator, LocalEvaluator
from evo.fitness.subset_finetune import SubsetFineTune
from evo.network.origin import origin_of
from evo.recipes.compression import FINETUNING, Compression, check_tuning, expect, tune
from evo.search import search
from evo.task import Task
from evo.training import Appraisal, EpochReport, Recipe, appraisals, error_rate, slice_dead_units
from evo.training.connections import connections_left

AS_IT_IS = SubsetFineTune(epochs=0, recalibrate=False)
"""Judges the network by the error that it begins with."""


@dataclass(frozen=True)
class SynapticCompression(Compression):
    """What `synaptic` hands back: a compression whose table `tuned` also tells what is left of the connections.

    Its columns besides `params`, `macs` and `error` on the validation images: `connections`, weights that are not 0;
    `pruned`, the share of the original's connections that are gone, with their units or alone; `sparsity`, the share of 0
    among the weights that are left; `dead_units`, how many have been cut out.

    Attributes:
        history: one row per appraisal and layer, see `ConnectionAppraisal.history`; of very many, some.
    """

    history: pd.DataFrame

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is gone."""
        left = self.tuned.loc[self.id]
        return (f"connections: {left['pruned']:.1%} removed, {left['dead_units']:.0f} dead units cut out",)


def appraised(finetuning: Recipe, appraisal: Appraisal | None = None) -> Recipe:
    """Return how to train with connections appraised as said, as `finetuning` says, or by default."""
    return finetuning.model_copy(update={"appraisal": appraisal or finetuning.appraisal or Appraisal()})


def synaptic(
    task: Task,
    *,
    appraisal: Appraisal | None = None,
    finetuning: Recipe | None = None,
    evaluator: Evaluator | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    reuse: bool = True,
    callbacks: Sequence[Callback] = (),
    on_epoch: Callable[[EpochReport], None] | None = None,
    source: Mapping[str, Any] | None = None,
) -> SynapticCompression:
    """Compress `task`'s network: train it while every connection is appraised, then cut out the units that died of it.

    No structure is searched for: the run holds one individual, the whole network, and `tuned-0.evo` in its folder is that
    after training. Removed connections are zeros among the weights. They make the network simpler and its compressed file
    smaller, but dense hardware multiplies by zeros as it does by other numbers: faster are the units that are gone alone.

    Args:
        task: network and data. The network may be untrained; then this is its training.
        appraisal: when a connection goes; default that of `finetuning`, or else `Appraisal()`.
        finetuning: how to train; default ten epochs. With `patience` the best epoch is kept, with the connections it had.
        evaluator: where the original's error is measured; default this machine.
        out, seed, reuse, callbacks, source: see `evo.search`.
        on_epoch: of the training, see `evo.training.train`.

    Raises:
        EvoError: what `evo.search` raises, or `evo.recipes.compression.tune`; wrong settings before any work.
    """
    finetuning = finetuning or FINETUNING
    expect("finetuning", finetuning, Recipe)
    if appraisal is not None:
        expect("appraisal", appraisal, Appraisal)
    finetuning = appraised(finetuning, appraisal)
    check_tuning(finetuning, task=task)
    network = task.network
    run = search(
        task,
        encoding=FilterBits(),
        fitness=AS_IT_IS,
        algorithm=RandomSearch(evaluations=1, batch=1),
        evaluator=evaluator or LocalEvaluator(),
        seeds=[network.full],
        out=out,
        seed=seed,
        reuse=reuse,
        callbacks=callbacks,
        source=source,
    )
    made = tune(
        run, task, [0], finetuning, on_epoch=on_epoch or (lambda _: None)
    )  # reports put errors into the history
    small = slice_dead_units(made.model, task.train.x[:2], network)
    blueprint = origin_of(small).blueprint
    assert blueprint is not None
    counts, costs = network.counts(blueprint), network.cost_of(blueprint)
    (connections, weights), (_, before) = map(connections_left, (small, network.build(network.full)))
    tuned = pd.DataFrame(
        {
            "params": costs["params"],
            "macs": costs["macs"],
            "error": error_rate(small, task.val, device=finetuning.device),
            "connections": connections,
            "pruned": 1 - connections / before,
            "sparsity": 1 - connections / weights,
            "dead_units": int(network.channels - counts.sum()),
        },
        index=[made.id],
    )
    layers = network.costs.table(counts)
    return SynapticCompression(run, made.id, small, layers, tuned, made.original_error, history=appraisals(small))
