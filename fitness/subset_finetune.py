"""ECS's fitness: error after a short fine-tuning on a fixed part of the training images, against what was removed."""

import functools
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from evo.candidate import Candidate, generator
from evo.errors import SettingsError, unknown_name
from evo.fitness.base import Fitness, Objective
from evo.network import COSTS
from evo.task import Task
from evo.training import Recipe, Samples, balanced_subset, check_appraisal, error_rate, recalibrate, train

OBJECTIVES = ("fitness", "error", *COSTS)


@functools.lru_cache(maxsize=4)  # a worker draws the subsets of its run once
def _subset(samples: Samples, images: int, seed: int, name: str) -> Samples:
    """Return the run's class-balanced subset of `samples`, the same for every candidate."""
    if images >= len(samples):
        return samples
    return samples.take(balanced_subset(samples.y, images, generator(seed, f"{name} subset")))


class SubsetFineTune(Recipe, Fitness):
    """f(b) = 1 − E(b) + λ · removed(b), maximised and positive (ECS eq. 4, 6, 7).

    E is the top-1 error in [0, 1] on `task.val` after fine-tuning the sliced network on one class-balanced subset of
    `task.train`, the same for every candidate. Objectives: `fitness` (maximised), `error` and every cost (minimised), or those
    that `compare_by` names.
    """

    images: Annotated[int, Field(ge=2, description="training images of the subset (10,000 in the paper)")] = 10_000
    lam: Annotated[float, Field(ge=0, description="λ, what removing everything is worth in units of error")] = 0.9
    removed: Annotated[
        Literal["weights", "eq4", "eq6", "eq7"],
        Field(
            description="how removal counts: exact share of weights gone, share of filters (eq. 4), filters by their "
            "original size (eq. 6), weights without input and output (eq. 7)"
        ),
    ] = "weights"
    recalibrate: Annotated[
        bool, Field(description="recompute batch-norm statistics on the subset before fine-tuning")
    ] = True
    val_images: Annotated[
        int | None, Field(ge=1, description="judge on this many class-balanced validation images; default all")
    ] = None
    compare_by: Annotated[
        tuple[str, ...] | None,
        Field(
            min_length=1,
            description="objectives: of `fitness`, `error` and the costs; algorithms for one objective go by the first. "
            "Default all, in this order",
        ),
    ] = None

    @field_validator("compare_by")
    @classmethod
    def _check_compare_by(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in OBJECTIVES:
                raise ValueError(unknown_name("objective", name, OBJECTIVES))
        if names is not None and len(set(names)) < len(names):
            raise ValueError("name every objective once")
        return names

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """`fitness` first, then `error` and the costs; or those of `compare_by`."""
        return tuple(Objective(name, name == "fitness") for name in self.compare_by or OBJECTIVES)

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Slice, recalibrate, fine-tune, and measure the error."""
        subset = _subset(candidate.task.train, self.images, candidate.seed, "train")
        judged = _subset(candidate.task.val, self.val_images or len(candidate.task.val), candidate.seed, "val")
        network = candidate.task.network
        model = candidate.build()
        if self.recalibrate:
            recalibrate(model, subset, self)
        teacher = network.build(network.full) if self.distill else None
        train(model, subset, self, candidate.rng("fine-tuning"), teacher=teacher, val=judged)
        error = error_rate(model, judged, device=self.device)
        removed = float(network.costs.removed(network.counts(candidate.blueprint), self.removed))
        return {"fitness": 1 - error + self.lam * removed, "error": error}

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        return {"name": "subset_finetune", **self.to_dict()}

    def check(self, task: Task) -> None:
        """Refuse a subset smaller than one batch, and an appraisal that cannot remove anything."""
        available = min(self.images, len(task.train))
        if self.epochs and available < self.batch_size:
            raise SettingsError(
                f"SubsetFineTune: batch_size {self.batch_size} is larger than the {available} images to tune on"
            )
        if self.appraisal is not None:
            whole = task.network.build(task.network.full)
            check_appraisal(self.appraisal, whole, self.steps(available), "SubsetFineTune")
