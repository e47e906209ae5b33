"""Data in memory, training and fine-tuning, batch-norm recalibration."""

from evo.training.data import Samples, balanced_subset, load_samples, split
from evo.training.inference import error_rate, recalibrate
from evo.training.loop import EpochReport, finetune, train
from evo.training.recipe import Recipe

__all__ = [
    "EpochReport",
    "Recipe",
    "Samples",
    "balanced_subset",
    "error_rate",
    "finetune",
    "load_samples",
    "recalibrate",
    "split",
    "train",
]
