"""Where candidates are evaluated: in this process, in processes of this machine, or on a Ray cluster."""

from evo.evaluation.base import Evaluator, Job, Outcome, Screening, Session, evaluate
from evo.evaluation.local import LocalEvaluator
from evo.evaluation.ray import RayEvaluator
from evo.plugins import Registry, subclass_of

EVALUATORS: Registry[type[Evaluator]] = Registry(
    "evaluator", "evo.evaluators", {"local": LocalEvaluator, "ray": RayEvaluator}, subclass_of(Evaluator)
)

__all__ = [
    "EVALUATORS",
    "Evaluator",
    "Job",
    "LocalEvaluator",
    "Outcome",
    "RayEvaluator",
    "Screening",
    "Session",
    "evaluate",
]
