"""Measured latency as an objective, beside those of any other fitness."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from evo.candidate import Candidate
from evo.errors import SettingsError
from evo.fitness.base import Fitness, Objective
from evo.fitness.cascade import Cascade
from evo.network.latency import available, latency
from evo.settings import Settings
from evo.task import Task

LATENCY = "latency_ms"
"""The objective's name: median wall time of a forward pass of one batch, in milliseconds, minimised."""


class LatencySettings(Settings):
    """How the latency of a candidate is measured."""

    batch: Annotated[int, Field(ge=1, description="inputs per forward pass")] = 1
    threads: Annotated[int, Field(ge=1, description="torch threads of the passes")] = 1
    warmup: Annotated[int, Field(ge=1, description="passes before the first that counts")] = 10
    repeats: Annotated[int, Field(ge=20, description="most passes to measure")] = 1000
    seconds: Annotated[float, Field(gt=0, description="time after which no further pass begins")] = 2.0
    tolerance: Annotated[float, Field(gt=0, description="relative error of the median to stop at")] = 0.02
    device: Annotated[str, Field(description="torch device to measure on, e.g. cpu or cuda")] = "cpu"


class WithLatency(Fitness):
    """Another fitness and one objective more: `latency_ms`, the median wall time of a forward pass, minimised.

    The candidate is measured as it is built, with the weights it was cut with, which do not matter here. Unlike everything
    else a candidate is judged by, the figure is of a machine at a moment: a second run with the same seed measures, and
    may choose, differently, so that runs with it are not the same bit for bit. Candidates that are evaluated at the same
    time disturb each other; measure with a single worker, or leave processors free and give each worker a machine alike.
    """

    repeatable = False

    def __init__(self, judge: Fitness, **settings: Any) -> None:
        """Take the other fitness and the fields of `LatencySettings`.

        Raises:
            SettingsError: a setting is wrong, or `judge` has the objective already or is a cascade.
        """
        if isinstance(judge, Cascade):
            raise SettingsError("WithLatency: a Cascade is not measured as a whole; give its last fidelity the latency")
        if any(objective.name == LATENCY for objective in judge.objectives):
            raise SettingsError(f"WithLatency: {type(judge).__name__} has an objective {LATENCY!r} already")
        self.judge = judge
        self.settings = LatencySettings(**settings)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Those of the other fitness, then `latency_ms`."""
        return (*self.judge.objectives, Objective(LATENCY, False))

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        """Judge the candidate, then measure a copy of its own on inputs of the validation images' shape."""
        values = self.judge(candidate)
        measured = latency(candidate.build(), candidate.task.val.x[:1], **self.settings.to_dict())
        return {**values, LATENCY: measured.median}

    def describe(self) -> dict[str, Any]:
        """Return what the other fitness says of itself, and the settings as `latency`."""
        return {**self.judge.describe(), "latency": self.settings.to_dict()}

    def check(self, task: Task) -> None:
        """Refuse what the other fitness refuses, and a device that is not there."""
        self.judge.check(task)
        available(self.settings.device)
