"""The tasks that a Ray cluster is given, and what it means when one is lost."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evo.errors import EvaluatorError
from evo.evaluation.base import DIED, OUT_OF_MEMORY, Fault
from evo.evaluation.ray_cluster import Node
from evo.evaluation.ray_worker import announce_chunk, call, evaluate_chunk
from evo.importing import own_path

NODE_ID = "ray.io/node-id"  # the label that Ray gives every node


class Tasks:
    """Makes Ray's remote functions: where a task goes and what it takes there.

    A task that announces says when it begins, which costs a third more than the rest of a task.
    """

    def __init__(self, request: Mapping[str, float], threads: int, *, announce: bool) -> None:
        """Prepare tasks.

        Args:
            request: what one evaluation takes of a node, by Ray's names.
            threads: torch threads of an evaluation.
            announce: whether tasks say when they begin; those that have a node to themselves always do.
        """
        self._request = request
        self._announce = announce
        # Modules of the user's own are found where this process found them, if the node has them there.
        path = os.pathsep.join([*own_path(), "${PYTHONPATH}"])
        self._environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}}
        self.anywhere = self._make(announce)

    @property
    def calling(self) -> Any:
        """The remote function for a call of a map, on any node."""
        return self._remote(call, num_returns=1)

    def _make(self, announce: bool, whole: Node | None = None, **options: Any) -> Any:
        """Return a remote function that evaluates; its tasks take all processors of `whole`, if given, and no shared GPU."""
        if announce:
            return self._remote(announce_chunk, whole, num_returns="streaming", **options)
        return self._remote(evaluate_chunk, whole, num_returns=1, **options)

    def _remote(self, function: Callable[..., Any], whole: Node | None = None, **options: Any) -> Any:
        custom = {name: amount for name, amount in self._request.items() if name not in ("CPU", "GPU", "memory")}
        gpus = self._request.get("GPU", 0.0)
        return ray.remote(function).options(
            max_retries=0,
            num_cpus=self._request["CPU"] if whole is None else whole.resources["CPU"],
            num_gpus=gpus if whole is None else math.ceil(gpus),
            memory=self._request.get("memory"),
            resources=custom or None,
            runtime_env=self._environment,
            **options,
        )

    def preferring(self, node: Node) -> Any:
        """Return a remote function for `node`, or any other if that is lost."""
        return self._make(self._announce, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=True))

    def avoiding(self, node: Node) -> Any:
        """Return a remote function for all nodes but this; its tasks wait for ever if there is no other."""
        return self._make(self._announce, label_selector={NODE_ID: f"!{node.id}"})

    def only_on(self, node: Node, *, alone: bool) -> Any:
        """Return a remote function for `node`, with all of its processors if it is to be `alone` there."""
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
        return self._make(True, node if alone else None, scheduling_strategy=strategy)


def loss(error: Exception) -> tuple[str, Fault] | None:
    """Return how a try ended with an error of Ray's, and the fault; None if every try will end so."""
    # Some errors have two kinds, that of the cause included: a job lost on its way to the worker is a lost object.
    if isinstance(error, exceptions.NodeDiedError | exceptions.ObjectLostError | exceptions.LocalRayletDiedError):
        return "its node was lost", "node"
    if isinstance(error, exceptions.OutOfMemoryError):
        return OUT_OF_MEMORY, "memory"
    if isinstance(error, exceptions.WorkerCrashedError | exceptions.TaskCancelledError):
        return DIED, "crash"
    return None


def cannot_run(error: Exception) -> EvaluatorError:
    """Return what to tell a user whose tasks no worker can run."""
    cause = getattr(error, "cause", error)
    return EvaluatorError(
        f"Ray workers cannot run evaluations ({type(cause).__name__}: {' '.join(str(cause).split())}); "
        "the packages and modules of the search must be importable on every node"
    )
