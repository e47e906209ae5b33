"""FNP's fitness: how trainable a frame of random weights is, told from the gradients of a few batches."""

import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from evo.candidate import Candidate
from evo.fitness.base import Fitness, Objective
from evo.fitness.gradients import GradientRatio, seeded
from evo.fitness.proxies import finite
from evo.fitness.score_batches import DTYPES, ScoreSettings
from evo.network import COSTS
from evo.network.costs import RESOLUTION
from evo.task import Task


class ScoreOfFrame(ScoreSettings, Fitness):
    """How trainable a frame of random weights is, less log(1 + θ / θ_b), maximised (FNP eq. 8 to 11, made robust).

    The score is Σ over layers of r^resolution · log(‖g‖^gradient · Σ over weights of min(E|g| / σ, cap)). g are the gradients
    of the loss, one per batch, in training mode; E, σ and the root mean square ‖g‖ are over the batches; r is the layer's
    number of output positions as a share of the largest; θ and θ_b are the parameters of the candidate and of the whole
    network. Layers are the convolutional and linear ones. Only the widths of a candidate matter, and not which channels it
    keeps or with how many bits. Objectives: `score` (maximised) and every cost (minimised).

    As printed (`literal`: no cap, and neither r nor ‖g‖) a few weights whose gradients agree by chance decide the sum, and
    candidates rank differently when rounding changes. A weight whose σ is 0 is left out of the printed sum; here it counts
    as the cap. `benchmarks/proxies.py` has what each part is worth on networks that were trained.
    """

    batches: Annotated[int, Field(ge=2, description="batches of training images, one gradient each (B of FNP)")] = 2
    cap: Annotated[float, Field(gt=0, description="most that one weight counts for, unless literal")] = 10.0
    resolution: Annotated[
        float, Field(ge=0, description="how much more layers of high resolution count, unless literal; 0 is not at all")
    ] = RESOLUTION
    gradient: Annotated[
        float,
        Field(ge=0, description="how much the size of a layer's gradients counts, unless literal; 0 is not at all"),
    ] = 1.0
    literal: Annotated[bool, Field(description="the score as FNP eq. 8 to 11 print it")] = False
    signed: Annotated[bool, Field(description="σ of g, as in ZiCo's public code, in place of |g| (FNP eq. 9)")] = False
    penalty: Annotated[bool, Field(description="subtract log(1 + θ / θ_b) (FNP eq. 11)")] = True
    reference: Annotated[
        bool,
        Field(description="channels-first, sums in float64 with NumPy: slower, to compare with other programs"),
    ] = False

    @model_validator(mode="after")
    def _exact_or_fast(self) -> Self:
        if self.reference and self.dtype != "float32":
            raise ValueError(f"reference is for exact comparisons and takes dtype float32, not {self.dtype}")
        return self

    @property
    def ratio(self) -> GradientRatio:
        """The score without its penalty, of any network."""
        if self.literal:
            return GradientRatio.printed(signed=self.signed, reference=self.reference)
        return GradientRatio(
            "capped", self.cap, self.resolution, self.gradient, signed=self.signed, reference=self.reference
        )

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """`score` first, then the costs."""
        return (Objective("score", True), *(Objective(name, False) for name in COSTS))

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Make the candidate with the run's random weights and score it on the run's batches."""
        network, device = candidate.task.network, torch.device(self.device)
        batches = self.draw(candidate, channels_last=not self.reference)
        model = network.untrained(candidate.blueprint, candidate.seed, device=device, dtype=DTYPES[self.dtype])
        if self.reference:
            model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        with seeded(device, candidate.seed):
            score = self.ratio(model, batches)
        if self.penalty:
            whole = int(network.costs.costs(network.costs.sizes, ["params"])["params"])
            score -= math.log1p(candidate.costs["params"] / whole)
        return {"score": finite(score, "score of the frame")}

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        return {"name": "score_of_frame", **self.to_dict()}

    def check(self, task: Task) -> None:
        """Refuse batches that the training images do not fill."""
        self.refuse_too_few_images(task)
