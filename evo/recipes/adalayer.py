"""AdaLayerNet (Zhu 2025): filters and bits per layer by a closed form, evolved further if asked to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evo.algorithms import Algorithm, RandomSearch
from evo.blueprint import Blueprint
from evo.budget import Budget
from evo.callbacks.base import Callback
from evo.encodings.budgeted import limits_of
from evo.encodings.filter_bits import FilterBits
from evo.encodings.layer_policy import LayerPolicy
from evo.errors import EvaluatorError, SettingsError
from evo.evaluation import Evaluator, LocalEvaluator
from evo.fitness.subset_finetune import SubsetFineTune
from evo.folder import folder_for
from evo.importance import FilterSelection
from evo.importance.contributions import contributions, perturbations
from evo.policy import Policy, closed_form, layer_table, uniform
from evo.recipes.compression import FINETUNING, Compression, check_tuning, expect, tune
from evo.run import Run
from evo.search import check, search
from evo.stopping import Convergence
from evo.task import Task
from evo.training import EpochReport, Hook, Recipe, WeightedL1

CONTRIBUTIONS = "contributions"
"""Folder in that of the run: the run in which the layers' contributions to accuracy were measured."""

COMPARED = ("error", "bytes", "macs")
"""What the policies of a search are compared by unless told otherwise."""


@dataclass(frozen=True)
class PolicyCompression(Compression):
    """What `adalayer` hands back: besides the network, why it is like that.

    Attributes:
        policy: of the closed form.
        policy_layers: of the individual that won: `evo.policy.layer_table` with the closed form's A, F, R and I; what
            `evo.report.policy` draws.
    """

    policy: Policy
    policy_layers: pd.DataFrame


def adalayer(
    task: Task,
    *,
    encoding: LayerPolicy | None = None,
    fitness: SubsetFineTune | None = None,
    algorithm: Algorithm | None = None,
    budget: Budget | None = None,
    evaluator: Evaluator | None = None,
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
) -> PolicyCompression:
    """Compress `task`'s network: contributions of the layers, closed form, evolution, training with few bits (eq. 1 to 6).

    Args:
        task: network and data.
        encoding: what filters and bits a layer may have, and the settings of the closed form.
        fitness: how policies are judged; unless it says `compare_by`, by their error, bytes and multiply-accumulates.
        algorithm: how the closed form is evolved, such as `NSGA2()`; default not at all: it is what is trained.
        budget: what no policy may exceed; default that of γ = 0.5. Bytes count bits.
        finetuning: of the winner, through its rounded weights, with the penalty of eq. 5; default ten epochs.
        tries: individuals to fine-tune: the most accurate of those that have neither more bytes nor more multiply-accumulates
            than the closed form, which is one of them. The one with the lowest validation error wins.
        evaluator, out, seed, max_evaluations, max_seconds, convergence, reuse, callbacks, source: see `evo.search`. The
            contributions are a run of their own in the folder "contributions" of this one.
        on_epoch: of the fine-tuning, see `evo.training.train`.

    Raises:
        EvoError: what `evo.search` raises, or `evo.recipes.compression.tune`; wrong settings before any work.
    """
    encoding, fitness = encoding or LayerPolicy(), _comparing(fitness or SubsetFineTune())
    algorithm = algorithm or RandomSearch(evaluations=1, batch=1)
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
    expect("encoding", encoding, LayerPolicy)
    check_tuning(finetuning, tries, task)
    if encoding.initial != "closed_form":
        raise SettingsError(f"encoding.initial: got {encoding.initial!r}, this recipe starts from the 'closed_form'")
    if "error" not in {objective.name for objective in fitness.objectives}:
        raise SettingsError("fitness.compare_by: this recipe needs the objective 'error'")
    folder = folder_for(out)
    # Contributions of the layers to accuracy: A of eq. 1.
    if encoding.contributions is None:
        contributed = measure_contributions(task, encoding, evaluator, folder / CONTRIBUTIONS, fitness.device, seed)
        encoding = encoding.model_copy(update={"contributions": contributed})
    policy = _closed_form(task, encoding, budget)
    # The closed form (eq. 1 to 3) within the budget (eq. 6), and what becomes of it.
    run = search(
        task,
        encoding=encoding,
        fitness=fitness,
        algorithm=algorithm,
        budget=budget,
        evaluator=evaluator,
        out=folder,
        seed=seed,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        convergence=convergence,
        reuse=reuse,
        callbacks=callbacks,
        source=source,
    )

    # Training through the rounded weights (eq. 4) with the penalty on unimportant layers (eq. 5).
    rows, eta = _no_larger(run, tries), encoding.closed_form.eta
    tuned = tune(run, task, rows, finetuning, hooks=lambda model: [penalty(policy, eta)], on_epoch=on_epoch)
    winner = run.blueprint(tuned.id)
    layers = layer_table(task.network, task.network.counts(winner), winner.bits)
    return PolicyCompression(
        **vars(tuned), policy=policy, policy_layers=layers.join(policy.layers[["A", "F", "R", "I"]])
    )


def uniform_compression(
    task: Task,
    *,
    bits: int,
    budget: Budget,
    select: str = "l1",
    free: tuple[str, ...] = ("*",),
    fitness: SubsetFineTune | None = None,
    evaluator: Evaluator | None = None,
    finetuning: Recipe | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Compression:
    """Compress `task`'s network in the way that AdaLayerNet is compared with: all layers alike, within the same budget.

    Args:
        task: network and data.
        bits: of every layer's weights.
        budget: what decides which share of the filters goes.
        select, free: see `LayerPolicy`.
        fitness, evaluator, out, seed: see `evo.search`.
        finetuning: see `adalayer`; without the penalty.
        on_epoch: of the fine-tuning, see `evo.training.train`.

    Raises:
        EvoError: what `evo.search` raises, or `evo.recipes.compression.tune`; wrong settings before any work.
    """
    encoding = LayerPolicy(initial="random", bits=(bits, bits), select=select, free=free)
    fitness, finetuning = _comparing(fitness or SubsetFineTune()), finetuning or FINETUNING
    algorithm, evaluator = RandomSearch(evaluations=1, batch=1), evaluator or LocalEvaluator()
    check(
        task,
        encoding=encoding,
        fitness=fitness,
        algorithm=algorithm,
        budget=budget,
        evaluator=evaluator,
        seed=seed,
        max_evaluations=None,
    )
    check_tuning(finetuning, task=task)
    policy = uniform(task.network, bits, limits_of(encoding, task.network, budget), free=free)
    run = search(
        task,
        encoding=encoding,
        fitness=fitness,
        algorithm=algorithm,
        budget=budget,
        evaluator=evaluator,
        seeds=[policy.blueprint(FilterSelection(task.network, select, samples=task.train))],
        out=folder_for(out),
        seed=seed,
    )
    return tune(run, task, [int(str(run.best.name))], finetuning, on_epoch=on_epoch)


def measure_contributions(
    task: Task, encoding: LayerPolicy, evaluator: Evaluator, folder: Path, device: str = "cpu", seed: int = 0
) -> dict[str, float]:
    """Return A of eq. 1 by coupling group: what `evo.policy.measured_contributions` does, by an evaluator and in a run folder.

    Args:
        task: network and data.
        encoding: which filters a perturbed layer loses, and how many.
        evaluator: where the perturbed networks are measured, each as a candidate of its own.
        folder: of the run; one that is there is taken over or continued.
        device: torch device to measure on.
        seed: of the run; it makes no difference to the result.

    Raises:
        EvaluatorError: one of them cannot be measured.
        EvoError: what `evo.search` raises.
    """
    chosen = FilterSelection(task.network, encoding.select, samples=task.train)
    structures = perturbations(task.network, chosen, encoding.closed_form.perturb, encoding.free)
    if not structures:
        return {}
    seeds: list[Blueprint] = [task.network.full, *structures.values()]
    run = search(
        task,
        encoding=FilterBits(),
        fitness=SubsetFineTune(epochs=0, recalibrate=False, device=device, compare_by=("error",)),
        algorithm=RandomSearch(evaluations=len(seeds), batch=len(seeds)),
        evaluator=evaluator,
        seeds=seeds,
        out=folder,
        seed=seed,
    )
    rows = run.history
    for name, (_, row) in zip(["the whole network", *structures], rows.iterrows(), strict=True):
        if row["status"] != "ok":
            raise EvaluatorError(f"{name}: its contribution to accuracy cannot be measured ({row['reason']})")
    original, *errors = rows["error"].to_list()
    return contributions(original, dict(zip(structures, errors, strict=True)))


def penalty(policy: Policy, eta: float) -> Hook:
    """Return the penalty of eq. 5: η on the absolute weights of every layer, the more the less important it is."""
    unimportance = 1 - policy.layers["I"]
    return WeightedL1(eta, {name: float(unimportance[name]) for name in policy.bits})


def _comparing(fitness: SubsetFineTune) -> SubsetFineTune:
    """Return the fitness, comparing by `COMPARED` unless it says otherwise."""
    expect("fitness", fitness, SubsetFineTune)
    return fitness if fitness.compare_by else fitness.model_copy(update={"compare_by": COMPARED})


def _closed_form(task: Task, encoding: LayerPolicy, budget: Budget | None) -> Policy:
    """Return the policy that the encoding begins with."""
    limits = None if budget is None else limits_of(encoding, task.network, budget)
    return closed_form(
        task.network,
        encoding.contributions or {},
        encoding.closed_form,
        limits,
        free=encoding.free,
        min_channels=encoding.min_channels,
    )


def _no_larger(run: Run, tries: int) -> list[int]:
    """Return the most accurate individuals that are no larger than the first, the closed form, in bytes and operations."""
    history = run.history
    first = history.iloc[0]
    measured = history[(history["status"] == "ok") & ~history["cached"]]
    fitting = measured[(measured["bytes"] <= first["bytes"]) & (measured["macs"] <= first["macs"])]
    if fitting.empty:
        raise EvaluatorError(
            f"the closed form, individual {history.index[0]}, could not be evaluated ({first['reason']})"
        )
    return [int(row) for row in fitting.sort_values(["error", "bytes"], kind="stable").index[:tries]]
