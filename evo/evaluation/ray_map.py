"""Many calls of one function, by tasks of a Ray cluster."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import ray

from evo.errors import EvaluatorError
from evo.evaluation.base import Tries
from evo.evaluation.calls import Answer, Calls
from evo.evaluation.ray_cluster import Cluster
from evo.evaluation.ray_tasks import Tasks, cannot_run, loss
from evo.evaluation.ray_worker import stored

LOOK = 1.0  # seconds between looks at how many slots there are


def map_by_tasks(calls: Calls, request: Mapping[str, float], retries: int) -> list[Any]:
    """Return what the function returns for every item, in their order; Ray is running.

    Args:
        calls: the function, and what it takes; in the object store once, and once on every node.
        request: what a call takes of a node, by Ray's names.
        retries: further tries of a call whose worker dies; a lost node counts less.

    Raises:
        EvoError: the function raised it.
        EvaluatorError: it raised something else, cannot be sent, or is lost each time; or no node has that much.
    """
    cluster = Cluster(request)
    cluster.check()
    reference = stored(calls)
    remote = Tasks(request, calls.threads, announce=False).calling
    tries = Tries(retries)
    waiting = deque(range(len(calls.items)))
    under_way: dict[Any, int] = {}
    values: dict[int, Any] = {}
    try:
        while len(values) < len(calls.items):
            while waiting and len(under_way) < math.ceil(1.25 * max(1, cluster.slots())):
                number = waiting.popleft()
                under_way[remote.remote([reference], number)] = number
            for handle in ray.wait(list(under_way), num_returns=1, timeout=LOOK)[0]:
                number = under_way.pop(handle)
                try:
                    answer: Answer = ray.get(handle)
                except ray.exceptions.RayError as error:
                    _forgive(error, str(number), calls, tries)
                    waiting.appendleft(number)
                    continue
                values[number] = answer.result()
    finally:
        for handle in under_way:
            ray.cancel(handle, force=True)
    return [values[number] for number in range(len(calls.items))]


def _forgive(error: Exception, key: str, calls: Calls, tries: Tries) -> None:
    """Raise EvaluatorError unless a call that was lost may be tried again."""
    verdict = loss(error)
    if verdict is None:
        raise cannot_run(error) from error
    reason, fault = verdict
    if fault == "memory":
        fault = "crash"  # it has no machine to itself the next time
    if not tries.again(key, fault):
        raise EvaluatorError(f"{calls.name}: {tries.reason(fault, reason)}") from error
