"""Fitness functions: from a candidate to named numbers."""

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from evo.candidate import Candidate
from evo.errors import SettingsError
from evo.network import COSTS
from evo.task import Task


@dataclass(frozen=True)
class Objective:
    """A named number with a direction."""

    name: str
    maximize: bool

    @property
    def weight(self) -> float:
        """DEAP's weight: +1 to maximise, −1 to minimise."""
        return 1.0 if self.maximize else -1.0


class Fitness(ABC):
    """What decides which candidate is better.

    Attributes:
        repeatable: the same candidate has the same numbers every time; False for what is measured of a machine.
        version: names the state of the code of a fitness that is not evo's own, and is changed with it by its author. Runs
            beside each other share results of equal version, settings, task and seed; None shares nothing.
    """

    repeatable: ClassVar[bool] = True
    version: ClassVar[str | None] = None

    @property
    @abstractmethod
    def objectives(self) -> tuple[Objective, ...]:
        """At least one; the first is the one that single-objective algorithms use."""

    @abstractmethod
    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        """Return a number for every objective; costs (`evo.network.COSTS`) may be left out.

        It has to depend on the candidate alone: take randomness from `candidate.rng()`.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what identifies the fitness in a run folder: its name and all settings, as plain values."""

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raise SettingsError if `task` cannot be judged by this fitness; called before any work starts."""


class FunctionFitness(Fitness):
    """A user's function as a fitness; made by the decorator `evo.fitness`."""

    def __init__(
        self,
        function: Callable[[Candidate], Mapping[str, float]],
        maximize: Sequence[str],
        minimize: Sequence[str],
        version: str | None,
    ) -> None:
        self.function = function
        self.version = version  # type: ignore[misc]
        self._objectives = (
            *(Objective(name, True) for name in maximize),
            *(Objective(name, False) for name in minimize),
        )
        self.name = f"{function.__module__}:{function.__qualname__}"
        self.__doc__ = function.__doc__

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Those to maximise, then those to minimise."""
        return self._objectives

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        """Call the user's function."""
        return self.function(candidate)

    def describe(self) -> dict[str, Any]:
        """Return name, objectives, version if there is one, and a hash of its source: an edited function is another one."""
        return {
            "name": self.name,
            **({} if self.version is None else {"version": self.version}),
            "source": _source_digest(self.function),
            "maximize": [objective.name for objective in self.objectives if objective.maximize],
            "minimize": [objective.name for objective in self.objectives if not objective.maximize],
        }

    def check(self, task: Task) -> None:
        """Accept every task."""


def _source_digest(function: Callable[..., object]) -> str:
    """Return a hexadecimal hash of the function's own lines; "" where they cannot be had, as in an interpreter."""
    try:
        lines = inspect.getsource(function)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def fitness(
    *, maximize: str | Sequence[str] = (), minimize: str | Sequence[str] = (), version: str | None = None
) -> Callable[[Callable[[Candidate], Mapping[str, float]]], FunctionFitness]:
    """Make a fitness of a function from a candidate to a dictionary of numbers.

    Args:
        maximize: names of objectives to maximise; the first of these is what single-objective algorithms use.
        minimize: names of objectives to minimise. Names of costs ("params", "macs", …) need not be returned.
        version: of the function and all that it uses, e.g. "2"; a search then takes over what runs beside it have measured with
            the same version. Change it with the code. Default: nothing is taken over.

    Raises:
        SettingsError: no objective, or one named twice.
    """
    up = (maximize,) if isinstance(maximize, str) else tuple(maximize)
    down = (minimize,) if isinstance(minimize, str) else tuple(minimize)
    names = (*up, *down)
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"fitness: name every objective once, in maximize or minimize; got {up} and {down}")

    def decorate(function: Callable[[Candidate], Mapping[str, float]]) -> FunctionFitness:
        return FunctionFitness(function, up, down, version)

    return decorate


class UnusableError(ValueError):
    """A fitness returned something that is not a finite number for each of its objectives."""


def measure(judge: Fitness, candidate: Candidate) -> dict[str, float]:
    """Return all objectives of `candidate` as finite floats, in the order of `judge.objectives`.

    Raises:
        UnusableError: the fitness returned something else; the message says what.
    """
    returned = judge(candidate)
    if not isinstance(returned, Mapping):
        raise UnusableError(f"the fitness returned {type(returned).__name__}, expected a dictionary of numbers")
    values: dict[str, float] = {}
    value: Any
    for objective in judge.objectives:
        name = objective.name
        if name in COSTS:
            value = candidate.costs[name]
            if returned.get(name, value) != value:
                raise UnusableError(
                    f"objective {name!r} is {returned[name]!r}, but {name!r} is the exact cost, {value}; use another name"
                )
        elif name in returned:
            value = returned[name]
        else:
            raise UnusableError(f"the fitness returned {sorted(map(str, returned))}, without its objective {name!r}")
        try:
            values[name] = float(value)
        except Exception:  # what an object says that is asked to be a number
            raise UnusableError(f"objective {name!r} is {value!r}, expected a number") from None
        if not math.isfinite(values[name]):
            raise UnusableError(f"objective {name!r} is {values[name]}, expected a finite number")
    return values
