"""Agreement with the original network, for which no labels are needed."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

import evo
from evo.errors import SettingsError
from evo.fitness import Fitness, Objective
from evo.settings import Settings


class Agreement(Settings, Fitness):
    """Share of validation images on which candidate and original predict the same class, plus λ · share of weights gone.

    Nothing is trained; batch normalisation stays as it was. Objectives: `score` (maximised), `disagreement` and `params`
    (minimised).
    """

    # Runs beside each other share results of equal versions: to be changed with the code.
    version: ClassVar[str | None] = "1"

    images: Annotated[int, Field(ge=1, description="validation images at most")] = 500
    lam: Annotated[float, Field(ge=0, description="λ, what removing everything is worth")] = 0.3

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """`score` first, for algorithms that go by one objective; `params` is a cost, which evo knows."""
        return Objective("score", True), Objective("disagreement", False), Objective("params", False)

    def __call__(self, candidate: evo.Candidate) -> dict[str, float]:
        """Compare the predictions of the two networks."""
        network, val = candidate.task.network, candidate.task.val
        images = val.x[: self.images]
        # Both are networks of their own: nothing that is done to them reaches another evaluation.
        original, small = network.build(network.full).eval(), candidate.build().eval()
        with torch.no_grad():
            differs = float((original(images).argmax(1) != small(images).argmax(1)).double().mean())
        saved = 1 - candidate.costs["params"] / network.cost_of(network.full)["params"]
        return {"score": 1 - differs + self.lam * saved, "disagreement": differs}

    def describe(self) -> dict[str, Any]:
        """Return what identifies it in a run folder."""
        return {"name": "agreement", **self.to_dict()}

    def check(self, task: evo.Task) -> None:
        """Refuse more images than there are."""
        if self.images > len(task.val):
            raise SettingsError(f"Agreement: images is {self.images}, but there are {len(task.val)} validation images")
