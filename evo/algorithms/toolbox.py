"""A ready DEAP toolbox, so that DEAP's own algorithms and a user's home-made loop run on our parts unchanged."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from deap import base, tools

from evo.budget import Budget
from evo.encodings.base import Encoding
from evo.encodings.budgeted import bind_within
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.evaluation import Evaluator, Job, LocalEvaluator, Outcome, Session
from evo.fitness.base import Fitness
from evo.fitness.cascade import Cascade
from evo.task import Task


class Toolbox(base.Toolbox):  # type: ignore[misc]
    """DEAP's toolbox with `individual`, `population`, `mate`, `mutate`, `select`, `evaluate` and `map` registered.

    Structures that were already measured are looked up. An evaluation that fails scores infinitely badly in every objective,
    since DEAP's loops have no other word for it. Use it as a context manager, or `close` it, to release the workers.
    """

    def __init__(
        self,
        task: Task,
        encoding: Encoding,
        fitness: Fitness,
        evaluator: Evaluator,
        seed: int,
        budget: Budget | None = None,
    ) -> None:
        super().__init__()
        if isinstance(fitness, Cascade):
            raise SettingsError(
                "toolbox: a Cascade leaves most individuals without a fitness, which DEAP's loops cannot do; take its last "
                "fidelity"
            )
        fitness.check(task)
        self._objectives = fitness.objectives
        weights = tuple(objective.weight for objective in fitness.objectives)
        self._space = bind_within(encoding, task, weights, budget)
        self._open: Callable[[], Session] = lambda: evaluator.open(
            Job(task, fitness, seed, evaluator.threads, evaluator.timeout, evaluator.memory)
        )
        self._session: Session | None = None
        self._known: dict[str, tuple[float, ...]] = {}
        rng = np.random.default_rng(seed)
        self.register("individual", lambda: self._space.initial(1, rng)[0])
        self.register("population", tools.initRepeat, list, self.individual)
        self.register("mate", self._space.mate, rng=rng)
        self.register("mutate", self._space.mutate, rng=rng)
        self.register("select", tools.selTournament, tournsize=3)
        self.register("evaluate", self._evaluate)
        self.register("map", self._map)

    def _map(self, function: Any, *iterables: Iterable[Any]) -> list[Any]:
        """Map `evaluate` over individuals on the evaluator's workers, and any other function here."""
        if getattr(function, "func", function) != self._evaluate:
            return list(map(function, *iterables))
        blueprints = [self._space.decode(individual) for individual in iterables[0]]
        missing = {blueprint.key: blueprint for blueprint in blueprints if blueprint.key not in self._known}
        if missing:
            self._session = self._session or self._open()
            for outcome in self._session.run(list(missing.values())):
                self._known[outcome.key] = self._values(outcome)
        return [self._known[blueprint.key] for blueprint in blueprints]

    def _evaluate(self, individual: Individual) -> tuple[float, ...]:
        values: tuple[float, ...] = self._map(self._evaluate, [individual])[0]
        return values

    def _values(self, outcome: Outcome) -> tuple[float, ...]:
        if outcome.status == "ok":
            return tuple(outcome.objectives.values())
        return tuple(-objective.weight * float("inf") for objective in self._objectives)

    def close(self) -> None:
        """Release the workers."""
        if self._session:
            self._session.close()
            self._session = None

    def __enter__(self) -> "Toolbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def toolbox(
    task: Task,
    encoding: Encoding,
    fitness: Fitness,
    evaluator: Evaluator | None = None,
    *,
    budget: Budget | None = None,
    seed: int = 0,
) -> Toolbox:
    """Return a DEAP toolbox for `task`; `individual.fitness.values` are the objectives in the fitness's order.

    With a budget, `individual`, `population`, `mate` and `mutate` make only what is within it.

    `toolbox.register` replaces any of its parts, e.g. the selection (tournament of three).

    Raises:
        SettingsError: the parts do not fit together, or not even the smallest candidate is within the budget.
    """
    return Toolbox(task, encoding, fitness, evaluator or LocalEvaluator(), seed, budget)
