"""When a search stops before its algorithm has had all of its generations, and what it says about it."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from evo.errors import SettingsError
from evo.fitness.base import Objective
from evo.front import Criteria, Values, non_dominated
from evo.settings import Settings

Rule = Literal["max_evaluations", "max_seconds", "convergence"]

_OPTIONS: dict[Rule, str] = {"max_evaluations": "max_evaluations=…", "convergence": "convergence.tolerance=…"}


@dataclass(frozen=True)
class Stop:
    """Why a search stopped.

    Attributes:
        rule: which argument of `evo.search` did it.
        reason: a sentence without a beginning: "stopped: …".
    """

    rule: Rule
    reason: str

    @property
    def option(self) -> str:
        """The key that has to change for the search to go on; "" if it does so as it is."""
        return _OPTIONS.get(self.rule, "")

    def to_dict(self) -> dict[str, str]:
        """Return it as plain values for JSON."""
        return asdict(self)


class Convergence(Settings):
    """Stop when the front has stopped growing: its hypervolume, as a share of the box between an ideal and a reference point.

    The rule looks at finished generations alone, so that an interrupted search stops where an uninterrupted one does. Of
    both fronts that it compares, the hypervolume is taken in one box, that of `Run.hypervolume` at the later one's time.
    """

    generations: Annotated[int, Field(ge=1, description="over how many generations the growth is measured")] = 5
    tolerance: Annotated[
        float,
        Field(gt=0, le=1, description="stop when the hypervolume has grown by less, as a share of the whole box"),
    ] = 1e-3
    objectives: Annotated[
        tuple[str, ...] | None,
        Field(
            description="objectives and costs that the front is drawn over; default all objectives of the fitness or, if "
            "they are more than four, `error` (else the first) and `params`"
        ),
    ] = None
    reference: Annotated[
        dict[str, float] | None,
        Field(
            description="by name, the worst value that counts; default what the original network costs, and of any other "
            "objective the worst measured, which is a bad measure if a few are enormous"
        ),
    ] = None

    def criteria(self, objectives: Sequence[Objective]) -> Criteria:
        """Return what the front is drawn over, given the objectives of the fitness.

        Raises:
            SettingsError: `objectives` or `reference` name what is not there.
        """
        try:
            criteria = Criteria.of_volume(objectives, self.objectives)
            criteria.check_corner(self.reference or {}, "reference")
        except SettingsError as error:
            raise SettingsError(f"convergence: {error}") from None
        return criteria


class ConvergenceWatch:
    """Knows the front after every generation, and whether it has stopped growing.

    Attributes:
        stop: why the search stops after the last generation; None if it goes on, as it does while the front dominates
            nothing at all.
    """

    def __init__(self, rule: Convergence, objectives: Sequence[Objective], original: Mapping[str, int]) -> None:
        """Begin before the first generation.

        Args:
            rule: when it has.
            objectives: of the fitness.
            original: costs of the original network.
        """
        self.stop: Stop | None = None
        self._rule = rule
        self._criteria = rule.criteria(objectives)
        self._original = original
        self._front: Values = np.empty((0, len(self._criteria.chosen)))
        self._extremes = self._front  # the best and the worst values so far
        self._fronts: deque[Values] = deque(maxlen=rule.generations + 1)

    def end_generation(self, measured: Iterable[Mapping[str, Any]]) -> None:
        """Take in the costs and objectives of what a generation has measured, failures left out."""
        listed = [[float(values[name]) for name in self._criteria.names] for values in measured]
        if listed:
            values = np.vstack([self._front, self._criteria.minimised(np.array(listed))])
            # In an order of its own: in that in which results came, the hypervolume might differ in its last bits.
            self._front = np.unique(values[non_dominated(values)], axis=0)
            values = np.vstack([self._extremes, values])
            self._extremes = np.stack([values.min(0), values.max(0)])
        self._fronts.append(self._front)
        self.stop = self._judge()

    def _judge(self) -> Stop | None:
        rule = self._rule
        if len(self._fronts) <= rule.generations or not len(self._fronts[0]):
            return None
        box = self._criteria.box(self._extremes, self._original, rule.reference)
        before, now = box.hypervolume(self._fronts[0]), box.hypervolume(self._front)
        if now == 0 or now - before >= rule.tolerance:
            return None
        span = f"{rule.generations} generation{'s' if rule.generations > 1 else ''}"
        return Stop(
            "convergence",
            f"over {span}, the hypervolume of {', '.join(self._criteria.names)} has grown by {max(0.0, now - before):.2g} "
            f"to {now:.4g}, less than convergence.tolerance = {rule.tolerance:g}",
        )
