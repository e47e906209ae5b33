"""Data in memory, fine-tuning, batch-norm recalibration."""

from evo.training.data import Samples, balanced_subset, load_samples, split
from evo.training.training import Recipe, error_rate, finetune, recalibrate, train

__all__ = [
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
