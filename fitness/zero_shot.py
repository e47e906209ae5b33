"""Any zero-shot proxy as a fitness."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import nn

from evo.candidate import Candidate
from evo.fitness.base import Fitness, Objective
from evo.fitness.frame import Frame
from evo.fitness.gradients import Batch, seeded
from evo.fitness.proxies import CLOSED_FORMS, RATIOS, finite, proxy_named
from evo.fitness.score_batches import DTYPES, ScoreSettings
from evo.network import COSTS
from evo.task import Task


class CandidateFrame(Frame):
    """A candidate with random weights, made when it is looked at."""

    def __init__(self, candidate: Candidate, settings: ScoreSettings) -> None:
        self._candidate, self._settings = candidate, settings

    @cached_property
    def model(self) -> nn.Module:
        """The candidate with the run's random weights."""
        settings = self._settings
        return self._candidate.task.network.untrained(
            self._candidate.blueprint, self.seed, device=settings.device, dtype=DTYPES[settings.dtype]
        )

    @cached_property
    def batches(self) -> Sequence[Batch]:
        """The run's batches."""
        return self._settings.draw(self._candidate)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._candidate.seed

    @property
    def params(self) -> int:
        """The exact cost."""
        return self._candidate.costs["params"]

    @property
    def macs(self) -> int:
        """The exact cost."""
        return self._candidate.costs["macs"]

    @property
    def layer_sizes(self) -> NDArray[np.int64]:
        """The exact cost, layer by layer."""
        network = self._candidate.task.network
        return network.costs.weights(network.counts(self._candidate.blueprint))

    @property
    def layer_positions(self) -> NDArray[np.int64]:
        """Those of the original, which cutting channels does not change."""
        return self._candidate.task.network.costs.positions


class ZeroShot(ScoreSettings, Fitness):
    """A number that ranks untrained networks by how well they may do once trained, maximised (see `evo.fitness.proxies`).

    The network is the candidate with random weights, so that only its widths matter. "params", "macs", "log_weights" and
    "capacity" are formulas of the widths, for which nothing is built or run. Objectives: `score` (maximised) and every cost
    (minimised).
    """

    proxy: Annotated[
        str,
        Field(
            description='"sof" (robust), "sof_printed", "zico", "grad_norm", "snip", "grasp", "fisher", "synflow", "zen", '
            '"naswot", "params", "macs", "log_weights" or "capacity"'
        ),
    ] = "capacity"

    @field_validator("proxy")
    @classmethod
    def _known(cls, proxy: str) -> str:
        proxy_named(proxy)
        return proxy

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.proxy in RATIOS and self.batches < 2:
            raise ValueError(f"proxy {self.proxy} compares the gradients of batches and needs two at least")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """`score` first, then the costs."""
        return (Objective("score", True), *(Objective(name, False) for name in COSTS))

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Score the candidate; nothing is built for a formula."""
        proxy, frame = proxy_named(self.proxy), CandidateFrame(candidate, self)
        if self.proxy in CLOSED_FORMS:
            return {"score": finite(proxy(frame), self.proxy)}
        with seeded(torch.device(self.device), candidate.seed):
            return {"score": finite(proxy(frame), self.proxy)}

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        return {"name": "zero_shot", **self.to_dict()}

    def check(self, task: Task) -> None:
        """Refuse batches that the training images do not fill, unless none is needed."""
        if self.proxy not in CLOSED_FORMS:
            self.refuse_too_few_images(task)
