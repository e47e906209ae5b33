"""Data in memory, training and fine-tuning, batch-norm recalibration."""

from evo.training.appraisal import Appraisal, ConnectionAppraisal, appraisals, check_appraisal
from evo.training.connections import sparsity
from evo.training.data import Samples, balanced_subset, load_samples, split
from evo.training.dead_units import slice_dead_units
from evo.training.hooks import Hook
from evo.training.inference import error_rate, recalibrate
from evo.training.loop import EpochReport, finetune, train
from evo.training.magnitude_pruning import MagnitudePruning
from evo.training.penalty import WeightedL1
from evo.training.recipe import Recipe
from evo.training.straight_through import StraightThrough

__all__ = [
    "Appraisal",
    "ConnectionAppraisal",
    "EpochReport",
    "Hook",
    "MagnitudePruning",
    "Recipe",
    "Samples",
    "StraightThrough",
    "WeightedL1",
    "appraisals",
    "balanced_subset",
    "check_appraisal",
    "error_rate",
    "finetune",
    "load_samples",
    "recalibrate",
    "slice_dead_units",
    "sparsity",
    "split",
    "train",
]
