"""The search: asks the algorithm, evaluates what is new, writes every result down, tells the algorithm."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from evo.algorithms import Algorithm, SteadyState
from evo.budget import Budget
from evo.callbacks.base import Callback, check_callbacks, followed
from evo.encodings.base import Encoding
from evo.encodings.budgeted import bind_within, limits_of
from evo.errors import SettingsError
from evo.evaluation import Evaluator, Job, LocalEvaluator
from evo.fitness.base import Fitness
from evo.fitness.cascade import Cascade
from evo.folder import check_same, claimed, describe_search, folder_for, open_history
from evo.loop import Loop, Rules
from evo.records import COLUMNS
from evo.reuse import Peers, identity
from evo.run import Run
from evo.seeding import Seed, Seeds, encoded
from evo.stopping import Convergence, ConvergenceWatch
from evo.task import Task


def search(
    task: Task,
    *,
    encoding: Encoding,
    fitness: Fitness,
    algorithm: Algorithm,
    budget: Budget | None = None,
    evaluator: Evaluator | None = None,
    seeds: Sequence[Seed] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    convergence: Convergence | None = None,
    reuse: bool = True,
    callbacks: Sequence[Callback] = (),
    source: Mapping[str, Any] | None = None,
) -> Run:
    """Search for small networks and return the run; every result is in its folder before the search moves on.

    If the folder holds a search with the same task, settings and seed, that search is continued, and a finished one is
    returned as it is. The result is the same, bit for bit, as if it had never been interrupted.

    Args:
        task: network and data.
        encoding: how genomes become networks.
        fitness: what is better; of a `Cascade`, every generation's promising structures alone come to its last fidelity.
        algorithm: how genomes are proposed.
        budget: costs that no candidate may exceed; what does is drawn again, without being built or evaluated.
        evaluator: where evaluations happen; default all processors of this machine.
        seeds: structures to begin with, before any that the encoding draws, and sources of such, see `evo.seeds`; default
            those of the search that the folder holds, or none. An encoding of channel numbers takes these alone, and selects
            the filters itself. What sources make is brought within encoding and budget, once; repetitions, and what is more
            than the individuals to begin with, are left out. With `RandomSearch` and as many evaluations, they alone are
            measured.
        out: the run's folder; default a new one under "runs".
        seed: of everything random, ≥ 0.
        max_evaluations: stop before the generation (asynchronous: the evaluation) that would exceed this number of
            evaluations, of a cascade by its last fidelity; look-ups do not count.
        max_seconds: begin no further generation (asynchronous: no further evaluation) after so much time; what runs is
            finished. The time is that of this process: a search that is continued has as long again.
        convergence: stop when the front has stopped growing. Why a search stopped, `Run.stopped` says; with other rules it
            can always be continued.
        reuse: take what runs in folders beside this one have measured of the same task, by the same fitness and seed,
            instead of measuring it again; it counts as evaluated. A fitness of your own takes part if it has a `version`.
            See `evo.reuse.identity`.
        callbacks: what follows the search, see `evo.callbacks`; it makes no difference to the result.
        source: where task and fitness can be had again, for `evo resume`; noted in run.toml.

    Raises:
        SettingsError: the parts do not fit together, a structure among the seeds cannot be expressed or exceeds the budget,
            there are more of these than individuals to begin with, a source of seeds cannot make any, nothing that is drawn
            is within the budget, or `max_evaluations` is too few for the first generation.
        RunFolderError: the folder belongs to another search, is damaged, or is being written by another process.
        EvaluatorError: no worker can be had, or every evaluation failed, of a whole generation or 20.
        CallbackError: a callback raised something; the search can be continued.
    """
    evaluator = evaluator or LocalEvaluator()
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
    weights = tuple(objective.weight for objective in fitness.objectives)
    space = bind_within(encoding, task, weights, budget)
    folder = folder_for(out)
    start = Seeds.of(seeds, folder)
    settings = describe_search(task, encoding, fitness, algorithm, budget, evaluator, seed, source)
    check_same(folder, settings | start.described())  # now: the seeds of another search make no sense here
    if start.pending:
        start = start.made(space, task, algorithm.places, seed, evaluator.map)
    settings |= start.described()
    individuals = encoded(start.structures, space, task.network)
    own = [individual for individual in space.seeds if individual not in individuals]
    individuals += own[: max(0, algorithm.places - len(individuals))]
    algorithm = algorithm.model_copy()
    algorithm.start(space, fitness.objectives, seed, individuals)
    if max_evaluations is not None:
        settings["max_evaluations"] = max_evaluations
    if max_seconds is not None:
        settings["max_seconds"] = max_seconds
    if convergence is not None:
        settings["convergence"] = convergence.model_dump(mode="json", exclude_none=True)
    settings["reuse"] = reuse
    judged_by = identity(settings, task, fitness)
    with claimed(folder), ExitStack() as opened:
        history = opened.enter_context(closing(open_history(folder, task, fitness, settings)))
        peers = opened.enter_context(closing(Peers(folder, judged_by, ask=reuse)))
        job = Job(task, fitness, seed, evaluator.threads, evaluator.timeout, evaluator.memory)
        original = task.network.cost_of(task.network.full)
        watch = None if convergence is None else ConvergenceWatch(convergence, fitness.objectives, original)
        rules = Rules(max_evaluations, max_seconds, watch)
        run = Run(folder, task)
        with followed(run, callbacks):
            Loop(task, fitness, algorithm, space, history, peers, rules, callbacks, lambda: evaluator.open(job)).run()
    return run


def check(
    task: Task,
    *,
    encoding: Encoding,
    fitness: Fitness,
    algorithm: Algorithm,
    budget: Budget | None,
    evaluator: Evaluator,
    seed: int,
    max_evaluations: int | None,
    max_seconds: float | None = None,
    convergence: Convergence | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Raise SettingsError, in one sentence, for arguments of `search` that cannot work; it does this before all else."""
    for name, value, kind in (
        ("task", task, Task),
        ("encoding", encoding, Encoding),
        ("fitness", fitness, Fitness),
        ("algorithm", algorithm, Algorithm),
        ("evaluator", evaluator, Evaluator),
        *([] if budget is None else [("budget", budget, Budget)]),
        *([] if convergence is None else [("convergence", convergence, Convergence)]),
    ):
        if not isinstance(value, kind):
            hint = (
                "; decorate the function with @evo.fitness(maximize=…)" if kind is Fitness and callable(value) else ""
            )
            article = "an" if kind.__name__[0] in "AE" else "a"
            raise SettingsError(f"{name}: expected {article} {kind.__name__}, got {type(value).__name__}{hint}")
    if type(seed) is not int or seed < 0:
        raise SettingsError(f"seed: expected a whole number ≥ 0, got {seed!r}")
    if max_evaluations is not None and (type(max_evaluations) is not int or max_evaluations < 1):
        raise SettingsError(f"max_evaluations: expected a whole number ≥ 1, got {max_evaluations!r}")
    if max_seconds is not None and (type(max_seconds) not in (int, float) or not 0 < max_seconds < math.inf):
        raise SettingsError(f"max_seconds: expected a number of seconds > 0, got {max_seconds!r}")
    check_callbacks(callbacks)
    for objective in fitness.objectives:
        if objective.name in {*COLUMNS, "genome", "structure"} or not objective.name:
            raise SettingsError(
                f"fitness: an objective cannot be called {objective.name!r}, a column of the history is"
            )
    algorithm.check(fitness.objectives)
    if convergence is not None:
        convergence.criteria(fitness.objectives)
    if isinstance(fitness, Cascade) and isinstance(algorithm, SteadyState) and algorithm.asynchronous:
        raise SettingsError(
            "algorithm.asynchronous: a Cascade promotes a share of every generation, and an asynchronous search has no "
            "generations; leave one of the two out"
        )
    fitness.check(task)
    if budget is not None:
        limits_of(encoding, task.network, budget)
