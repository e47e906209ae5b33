"""The search: asks the algorithm, evaluates what is new, writes every result down, tells the algorithm."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from evo.algorithms import Algorithm
from evo.blueprint import Blueprint
from evo.budget import Budget
from evo.encodings.base import Encoding, GenomeSpace
from evo.encodings.budgeted import Budgeted, bind_within
from evo.encodings.individual import Individual
from evo.errors import EvaluatorError, SettingsError
from evo.evaluation import Evaluator, Job, LocalEvaluator, Outcome, Session
from evo.fitness.base import Fitness
from evo.folder import claimed, describe_search, open_history
from evo.history import COLUMNS, History, Row
from evo.network import COSTS
from evo.run import Run, pack_structure
from evo.task import Task


@dataclass(frozen=True)
class Progress:
    """How far a search is, for a display.

    Attributes:
        generation: finished generations.
        generations: how many there will be.
        asked: individuals of the current generation.
        pending: those of them still to be evaluated.
        evaluated: evaluations of the whole run so far, failures included.
        failed: how many of these failed or timed out.
        cached: individuals that were looked up instead.
        best: the row with the best first objective: all its objectives and costs, and its `id`; None before the first.
        objective: name of that first objective.
        original: the costs of the unpruned network.
        seconds: since this search (or its resumption) started.
        seconds_left: an estimate; None before the first generation is done.
        drawn: genomes drawn so far, if there is a budget.
        rejected: how many of these exceeded it.
    """

    generation: int
    generations: int
    asked: int
    pending: int
    evaluated: int
    failed: int
    cached: int
    best: Mapping[str, float] | None
    objective: str
    original: Mapping[str, int]
    seconds: float
    seconds_left: float | None
    drawn: int = 0
    rejected: int = 0


def search(
    task: Task,
    *,
    encoding: Encoding,
    fitness: Fitness,
    algorithm: Algorithm,
    budget: Budget | None = None,
    evaluator: Evaluator | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    max_evaluations: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Run:
    """Search for small networks and return the run; every result is in its folder before the search moves on.

    If the folder holds a search with the same task, settings and seed, that search is continued, and a finished one is
    returned as it is. The result is the same, bit for bit, as if it had never been interrupted.

    Args:
        task: network and data.
        encoding: how genomes become networks.
        fitness: what is better.
        algorithm: how genomes are proposed.
        budget: costs that no candidate may exceed; what does is drawn again, without being built or evaluated.
        evaluator: where evaluations happen; default all processors of this machine.
        out: the run's folder; default a new one under "runs".
        seed: of everything random, ≥ 0.
        max_evaluations: stop before the generation that would exceed this number of evaluations; look-ups do not count.
        progress: called after every evaluation and generation.
        source: where task and fitness can be had again, for `evo resume`; noted in run.toml.

    Raises:
        SettingsError: the parts do not fit together, nothing that is drawn is within the budget, or `max_evaluations` is too
            few for the first generation.
        RunFolderError: the folder belongs to another search, is damaged, or is being written by another process.
        EvaluatorError: no worker can be had, or all evaluations of the first generation failed.
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
    )
    weights = tuple(objective.weight for objective in fitness.objectives)
    space = bind_within(encoding, task.network, weights, budget)
    folder = Path(out) if out is not None else Path("runs") / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    settings = describe_search(task, encoding, fitness, algorithm, budget, evaluator, seed, source)
    if max_evaluations is not None:
        settings["max_evaluations"] = max_evaluations
    with claimed(folder):
        history = open_history(folder, task, fitness, settings)
        try:
            algorithm = algorithm.model_copy()
            algorithm.start(space, fitness.objectives, seed)
            job = Job(task, fitness, seed, evaluator.threads, evaluator.timeout)
            loop = _Loop(task, fitness, algorithm, space, history, max_evaluations, progress)
            loop.run(lambda: evaluator.open(job))
        finally:
            history.close()
    return Run(folder, task)


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
) -> None:
    """Raise SettingsError, in one sentence, for arguments of `search` that cannot work; it does this before all else."""
    for name, value, kind in (
        ("task", task, Task),
        ("encoding", encoding, Encoding),
        ("fitness", fitness, Fitness),
        ("algorithm", algorithm, Algorithm),
        ("evaluator", evaluator, Evaluator),
        *([] if budget is None else [("budget", budget, Budget)]),
    ):
        if not isinstance(value, kind):
            hint = (
                "; decorate the function with @evo.fitness(maximize=…)" if kind is Fitness and callable(value) else ""
            )
            article = "an" if kind.__name__[0] in "AE" else "a"
            raise SettingsError(f"{name}: expected {article} {kind.__name__}, got {type(value).__name__}{hint}")
    if not isinstance(seed, int) or seed < 0:
        raise SettingsError(f"seed: expected a whole number ≥ 0, got {seed!r}")
    if max_evaluations is not None and max_evaluations < 1:
        raise SettingsError(f"max_evaluations: expected at least 1, got {max_evaluations}")
    for objective in fitness.objectives:
        if objective.name in {*COLUMNS, "genome", "structure"} or not objective.name:
            raise SettingsError(
                f"fitness: an objective cannot be called {objective.name!r}, a column of the history is"
            )
    algorithm.check(fitness.objectives)
    fitness.check(task)
    if budget is not None:
        budget.bind(task.network.costs, task.network.fewest)


class _Loop:
    """The search loop of one process."""

    def __init__(
        self,
        task: Task,
        fitness: Fitness,
        algorithm: Algorithm,
        space: GenomeSpace,
        history: History,
        max_evaluations: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._network = task.network
        self._groups = [(group.name, group.size) for group in task.network.groups]
        self._objectives = fitness.objectives
        self._algorithm = algorithm
        self._space = space
        self._history = history
        self._limit = max_evaluations
        self._progress = progress
        self._original = task.network.cost_of(task.network.full)
        self._began = time.monotonic()
        self._resumed_at = 0
        self._known: dict[str, Outcome] = {}
        self._written: dict[int, Outcome] = {}
        self._rows = 0
        self._evaluated = self._failed = self._cached = 0
        self._draws: dict[str, int] = {}
        self._drawn = self._rejected = 0
        self._best: dict[str, float] | None = None
        self._pending = 0
        self._asked: list[Individual] = []

    def run(self, open_session: Callable[[], Session]) -> None:
        """Continue from what the history holds until the algorithm or the limit ends it."""
        self._load()
        session: Session | None = None
        try:
            while (asked := self._algorithm.ask()) is not None:
                self._asked = asked
                self._count_draws()
                rows, blueprints = self._enter(asked)
                new = sum(not row.cached for row in rows)  # those that an interrupted process has measured included
                if self._limit is not None and self._evaluated + new > self._limit:
                    if not self._evaluated:
                        raise SettingsError(
                            f"max_evaluations: got {self._limit}, but the first generation alone takes {new}"
                        )
                    break
                if blueprints and session is None:
                    session = open_session()
                self._evaluate(rows, blueprints, session)
                self._finish(asked, rows)
        finally:
            if session is not None:
                session.close()

    def _count_draws(self) -> None:
        """Note how many genomes were drawn within a budget for the generation that was just asked for."""
        self._draws = self._space.tally() if isinstance(self._space, Budgeted) else {}
        self._drawn += self._draws.get("drawn", 0)
        self._rejected += self._draws.get("rejected", 0)

    def _load(self) -> None:
        """Take up what an earlier process left: the state after its last generation, and results written since."""
        state = self._history.meta("state")
        if state is not None:
            self._algorithm.restore(state["algorithm"])
            self._rows = state["rows"]
        self._resumed_at = self._algorithm.generation
        for number, key, status, reason, values in self._history.outcomes():
            outcome = Outcome(key, status, values, reason, 0.0, "")  # type: ignore[arg-type]
            if number >= self._rows:
                self._written[number] = outcome
            else:
                self._known.setdefault(key, outcome)
        statistics = self._history.generations()
        if "drawn" in statistics:
            self._drawn, self._rejected = (int(statistics[name].sum()) for name in ("drawn", "rejected"))
        frame = self._history.frame()
        finished = frame[frame.index < self._rows]
        self._cached = int(finished["cached"].sum())
        self._evaluated = len(finished) - self._cached
        self._failed = int(((finished["status"] != "ok") & ~finished["cached"]).sum())
        names = [*COSTS, *(objective.name for objective in self._objectives if objective.name not in COSTS)]
        for record in finished.loc[finished["status"] == "ok", names].reset_index().to_dict("records"):
            self._note_best({str(name): float(value) for name, value in record.items()})

    def _enter(self, asked: list[Individual]) -> tuple[list[Row], dict[str, Blueprint]]:
        """Give every individual its row; return the rows and, by key, the structures that nobody has measured yet."""
        rows = []
        first: set[str] = set()
        missing: dict[str, Blueprint] = {}
        blueprints = [self._space.decode(individual) for individual in asked]
        costs = self._network.costs.costs(self._network.counts(blueprints)) if blueprints else {}
        for index, (individual, blueprint) in enumerate(zip(asked, blueprints, strict=True)):
            individual.row = self._rows + index
            row = Row(
                id=individual.row,
                generation=self._algorithm.generation,
                operator=individual.operator,
                parents=individual.parents,
                genome=self._space.pack(individual),
                structure=pack_structure(blueprint.masks, self._groups),
                key=blueprint.key,
                costs={name: int(values[index]) for name, values in costs.items()},
                cached=blueprint.key in self._known or blueprint.key in first,
            )
            first.add(blueprint.key)
            rows.append(row)
            if not row.cached and row.id not in self._written:
                missing[row.key] = blueprint
        return rows, missing

    def _evaluate(self, rows: list[Row], blueprints: dict[str, Blueprint], session: Session | None) -> None:
        """Evaluate what is missing; write each result, and the rows that share it, as soon as it is there."""
        waiting: dict[str, list[Row]] = {}
        for row in rows:
            waiting.setdefault(row.key, []).append(row)
        self._pending = len(blueprints)
        for key in [key for key in waiting if key not in blueprints]:
            mine = waiting.pop(key)
            self._record(mine, self._known.get(key) or self._written[mine[0].id])
        self._report()
        if session is not None:
            for outcome in session.run(list(blueprints.values())):
                self._pending -= 1
                self._record(waiting.pop(outcome.key), outcome)
                self._report()

    def _record(self, rows: list[Row], outcome: Outcome) -> None:
        """Complete `rows`, which share a structure, and write those that are not on disk yet."""
        self._known.setdefault(outcome.key, outcome)
        for row in rows:
            row.status, row.reason = outcome.status, outcome.reason
            row.objectives = outcome.objectives
            if not row.cached:
                row.seconds, row.worker = outcome.seconds, outcome.worker
                self._evaluated += 1
                self._failed += outcome.status != "ok"
            else:
                self._cached += 1
            if outcome.status == "ok":
                self._note_best({"id": float(row.id), **row.costs, **outcome.objectives})
        self._history.add(row for row in rows if row.id not in self._written)

    def _note_best(self, values: dict[str, float]) -> None:
        first = self._objectives[0]
        if self._best is None or (values[first.name] - self._best[first.name]) * first.weight > 0:
            self._best = values

    def _finish(self, asked: list[Individual], rows: list[Row]) -> None:
        """Tell the algorithm and save its state."""
        for individual, row in zip(asked, rows, strict=True):
            if row.status == "ok":
                values = {**row.costs, **row.objectives}
                individual.fitness.values = tuple(float(values[objective.name]) for objective in self._objectives)
        if asked and self._evaluated == self._failed:
            raise EvaluatorError(
                f"every one of the first {self._evaluated} evaluations failed; the first: {rows[0].reason}"
            )
        generation = self._algorithm.generation
        cached = sum(row.cached for row in rows)
        failed = sum(row.status != "ok" and not row.cached for row in rows)
        counts = {"asked": len(rows), "evaluated": len(rows) - cached, "failed": failed, "cached": cached}
        statistics = {**counts, **self._draws, **self._algorithm.statistics(asked)}
        self._algorithm.tell(asked)
        self._rows += len(rows)
        state = {"algorithm": self._algorithm.state(), "rows": self._rows}
        self._history.finish_generation(generation, statistics, state)
        self._written.clear()
        self._report()

    def _report(self) -> None:
        if self._progress is None:
            return
        seconds = time.monotonic() - self._began
        done = self._algorithm.generation
        total = self._algorithm.rounds
        share = done - self._resumed_at + (1 - self._pending / max(1, len(self._asked)) if self._pending else 0)
        self._progress(
            Progress(
                generation=done,
                generations=total,
                asked=len(self._asked),
                pending=self._pending,
                evaluated=self._evaluated,
                failed=self._failed,
                cached=self._cached,
                best=self._best,
                objective=self._objectives[0].name,
                original=self._original,
                seconds=seconds,
                seconds_left=seconds * (total - self._resumed_at - share) / share if share else None,
                drawn=self._drawn,
                rejected=self._rejected,
            )
        )
