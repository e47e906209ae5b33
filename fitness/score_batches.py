"""The labelled batches that zero-shot scores look at: the same for every candidate of a run."""

import functools
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from evo.candidate import Candidate, generator
from evo.errors import SettingsError
from evo.fitness.gradients import Batch
from evo.settings import Settings
from evo.task import Task
from evo.training import Samples, balanced_subset

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ScoreSettings(Settings):
    """What every zero-shot score is set by: its batches, and where and how it computes."""

    batches: Annotated[int, Field(ge=1, description="batches of training images (B)")] = 2
    batch_size: Annotated[int, Field(ge=2, description="images per batch, of all classes equally many")] = 32
    device: Annotated[str, Field(description="torch device to compute on, e.g. cpu or cuda")] = "cpu"
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="type of weights and images; bfloat16 is faster on processors made for it and less precise"),
    ] = "float32"

    def draw(self, candidate: Candidate, *, channels_last: bool = True) -> tuple[Batch, ...]:
        """Return the batches of the candidate's run, in the order of memory that is asked for."""
        return _drawn(
            candidate.task.train,
            self.batches,
            self.batch_size,
            candidate.seed,
            torch.device(self.device),
            DTYPES[self.dtype],
            channels_last,
        )

    def refuse_too_few_images(self, task: Task) -> None:
        """Raise SettingsError if the training images do not fill the batches."""
        wanted = self.batches * self.batch_size
        if wanted > len(task.train):
            raise SettingsError(
                f"{type(self).__name__}: {self.batches} batches of batch_size {self.batch_size} need {wanted} images, but "
                f"there are {len(task.train)} to train on"
            )


@functools.lru_cache(maxsize=4)  # a worker draws the batches of its run once
def _drawn(
    samples: Samples, batches: int, size: int, seed: int, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> tuple[Batch, ...]:
    """Return batches without a common image, each of equally many images of every class up to one, where the data allow."""
    rng = generator(seed, "score batches")
    left = np.arange(len(samples))
    drawn = []
    for _ in range(batches):
        chosen = balanced_subset(samples.y[torch.from_numpy(left)], size, rng)
        part = samples.take(left[chosen])
        left = np.delete(left, chosen)
        order = torch.channels_last if channels_last and part.x.dim() == 4 else torch.contiguous_format
        drawn.append((part.x.to(device, dtype).contiguous(memory_format=order), part.y.to(device)))
    return tuple(drawn)
