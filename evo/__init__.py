"""Evolutionary search that makes trained convolutional networks smaller and faster.

A `Task` is a trained network with data. An encoding (`FilterBits`, `ChannelVector`, `LayerPolicy`) turns genomes into
structures, a fitness (`SubsetFineTune`, or your own function under `@evo.fitness`) judges the networks built from them,
an algorithm (`ECS`, `FGA`, `NSGA2`, `NSGA3`, `RandomSearch`) proposes new genomes, `seeds` are what it begins with, a
`Budget` bounds their costs, an evaluator (`LocalEvaluator`, `RayEvaluator`) does the work, `Convergence` may end it, and
`search` returns a `Run`: a history, a Pareto front, and networks to build, fine-tune, `save` and `load`. `evo.recipes`
has whole systems of the literature.
"""

from typing import TYPE_CHECKING

from evo import seeds
from evo.algorithms import ECS, FGA, NSGA2, NSGA3, RandomSearch, toolbox
from evo.blueprint import Blueprint
from evo.budget import Budget
from evo.candidate import Candidate
from evo.compare import Comparison, compare
from evo.encodings.channel_vector import ChannelVector
from evo.encodings.filter_bits import FilterBits
from evo.encodings.layer_policy import LayerPolicy
from evo.errors import EvoError
from evo.evaluation import LocalEvaluator, RayEvaluator
from evo.fitness.cascade import Cascade
from evo.fitness.latency import WithLatency
from evo.fitness.score_of_frame import ScoreOfFrame
from evo.fitness.subset_finetune import SubsetFineTune
from evo.fitness.zero_shot import ZeroShot
from evo.network import Network
from evo.network.checkpoint import load, save
from evo.network.formats import save_onnx, save_pt2
from evo.run import Run
from evo.search import search
from evo.stopping import Convergence
from evo.task import Task
from evo.training import error_rate, finetune

if TYPE_CHECKING:
    # At run time `evo.fitness` is the package, which can be called like this decorator.
    from evo.fitness.base import fitness as fitness

__version__ = "0.1.0"

__all__ = [
    "ECS",
    "FGA",
    "NSGA2",
    "NSGA3",
    "Blueprint",
    "Budget",
    "Candidate",
    "Cascade",
    "ChannelVector",
    "Comparison",
    "Convergence",
    "EvoError",
    "FilterBits",
    "LayerPolicy",
    "LocalEvaluator",
    "Network",
    "RandomSearch",
    "RayEvaluator",
    "Run",
    "ScoreOfFrame",
    "SubsetFineTune",
    "Task",
    "WithLatency",
    "ZeroShot",
    "compare",
    "error_rate",
    "finetune",
    "fitness",
    "load",
    "save",
    "save_onnx",
    "save_pt2",
    "search",
    "seeds",
    "toolbox",
]
