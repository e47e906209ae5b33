"""One fidelity of a cascade at work: what it has measured, what fails it, and whom it promotes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.evaluation import Outcome
from evo.fitness.base import Fitness, Objective
from evo.fitness.cascade import Cascade
from evo.front import non_dominated
from evo.history import History
from evo.ledger import HOPELESS, result_of
from evo.network import COSTS
from evo.promotion import ranking
from evo.records import SCREENED, Result, Row


class Screen:
    """A fidelity before the last, for one generation after the other.

    What it measures is on disk before it is used, and is never measured again: promotion depends on these numbers, the
    generation's structures and the front of what earlier generations promoted alone, so that an interrupted search promotes
    the same.

    Attributes:
        place: of the fidelity in its cascade, from 0.
        name: what reasons call it.
        front: what no other promoted structure is better than, by score and costs, all minimised, shape (N, M): what is
            promoted next should be an advance on it. None as long as nothing was, or if the score alone counts.
    """

    def __init__(self, cascade: Cascade, place: int, costs: Sequence[Objective], history: History) -> None:
        """Begin with nothing.

        Args:
            cascade: which has it.
            place: of the fidelity, from 0.
            costs: objectives that are exact costs, by which it ranks besides its own first objective.
            history: of the run.
        """
        self.place = place
        self.name = f"fidelity {place + 1} of {len(cascade.fidelities)} ({cascade.names[place]})"
        self._cascade = cascade
        self._first = cascade.fidelities[place].objectives[0]
        self._costs = costs
        self._history = history
        self.front: NDArray[np.float64] | None = None
        self._scores: dict[str, float] = {}
        self._failed = 0

    @property
    def hopeless(self) -> bool:
        """Whether so many of this generation have failed, and none has not, that the others will as well."""
        return not self._scores and self._failed >= HOPELESS

    def begin(self, rows: Sequence[Row]) -> tuple[list[Row], list[Result]]:
        """Begin with a generation's new structures, one row each.

        Returns:
            those that are still to be measured, and the results of those that have failed here before.
        """
        known = self._history.screened(self.place + 1, [row.key for row in rows])
        self._scores, self._failed = {}, 0
        return [row for row in rows if row.key not in known], self._note(known.values())

    def take(self, outcomes: Iterable[Outcome]) -> list[Result]:
        """Write what the evaluator returned, and return the results of those that have failed."""
        results = [result_of(outcome) for outcome in outcomes]
        self._history.screen(self.place + 1, results)
        return self._note(results)

    def promote(self, rows: Sequence[Row]) -> tuple[list[Row], list[Result]]:
        """Return those of the generation's rows that go on, in their order, and the results of the others.

        What has failed is in neither.
        """
        judged = [row for row in rows if row.key in self._scores]
        if not judged:
            return [], []
        columns = [[-self._first.weight * self._scores[row.key] for row in judged]]
        columns += [[-cost.weight * row.costs[cost.name] for row in judged] for cost in self._costs]
        values = np.array(columns, dtype=np.float64).T
        order = ranking(values, [row.key for row in judged], self.front)
        places = self._cascade.places(self.place, len(judged))
        others = [
            _verdict(judged[index].key, f"{self.name}: rank {rank} of {len(judged)}, {places} promoted")
            for rank, index in enumerate(order[places:], places + 1)
        ]
        if self._costs:
            promoted = values[order[:places]]
            points = np.unique(promoted if self.front is None else np.vstack([self.front, promoted]), axis=0)
            self.front = points[non_dominated(points)]
        return [judged[index] for index in sorted(order[:places])], others

    def state(self) -> Any:
        """Return what `restore` needs after an interruption, as JSON has it."""
        return None if self.front is None else self.front.tolist()

    def restore(self, state: Any) -> None:
        """Go on after the generations that a saved state has seen."""
        self.front = None if state is None else np.array(state, dtype=np.float64)

    def _note(self, results: Iterable[Result]) -> list[Result]:
        failures = []
        for result in results:
            if result.status == "ok":
                self._scores[result.key] = result.objectives[self._first.name]
            else:
                reason = f"{self.name}: {result.reason}"
                self._failed += 1
                failures.append(replace(_verdict(result.key, reason), status=result.status, log=result.log))
        return failures


def screens(fitness: Fitness, history: History, *, by_all: bool) -> list[Screen]:
    """Return the fidelities before the last, none of what is no cascade.

    Args:
        fitness: of the search.
        history: of the run.
        by_all: the algorithm compares by all objectives, so that a fidelity ranks by exact costs as well.
    """
    if not isinstance(fitness, Cascade):
        return []
    costs = [objective for objective in fitness.objectives if by_all and objective.name in COSTS]
    return [Screen(fitness, place, costs, history) for place in range(len(fitness.promote))]


def _verdict(key: str, reason: str) -> Result:
    """Return the result of a structure that does not go on; what it took belongs to the screening, not to its row."""
    return Result(key, SCREENED, reason, {}, 0, None, "", None, None, "")
