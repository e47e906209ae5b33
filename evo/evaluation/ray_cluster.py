"""What a Ray cluster has to offer at the moment."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from evo.errors import EvaluatorError

REFRESH = 3.0  # seconds between looks; a node that died stays listed for up to 15


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: its hexadecimal name.
        slots: evaluations that it can do at once.
        resources: all that it has, busy or not, by Ray's names.
    """

    id: str
    slots: int
    resources: Mapping[str, float]

    @property
    def name(self) -> str:
        """How outcomes name it, without the host name."""
        return self.id[:8]


def slots(offered: Mapping[str, float], request: Mapping[str, float]) -> int:
    """Return how many evaluations a node has room for.

    Args:
        offered: the node's resources.
        request: what one evaluation takes; shares of GPUs do not span two of them.
    """
    room = []
    for name, amount in request.items():
        found = offered.get(name, 0.0)
        if name == "GPU" and amount < 1:
            room.append(math.floor(found) * math.floor(1 / amount + 1e-9))
        else:
            room.append(math.floor(found / amount + 1e-9))
    return min(room)


class Cluster:
    """The nodes that can evaluate, looked up every few seconds."""

    def __init__(self, request: Mapping[str, float]) -> None:
        """Begin to look.

        Args:
            request: what one evaluation takes, by Ray's names; everything above 0.
        """
        self._request = request
        self._nodes: list[Node] = []
        self._read = -math.inf

    def nodes(self) -> list[Node]:
        """Return those with at least one slot."""
        if time.monotonic() - self._read > REFRESH:
            listed = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            offers = [(node["NodeID"], node["Resources"]) for node in listed]
            found = [Node(name, slots(resources, self._request), resources) for name, resources in offers]
            self._nodes = [node for node in found if node.slots]
            self._read = time.monotonic()
        return self._nodes

    def check(self) -> None:
        """Raise EvaluatorError if no node has a slot."""
        if not self.slots():
            raise EvaluatorError(
                "RayEvaluator: no node of the cluster offers what one evaluation takes "
                f"({', '.join(f'{amount:g} {name}' for name, amount in self._request.items())})"
            )

    def look_again(self) -> None:
        """Forget what was seen: a node that was listed is gone."""
        self._read = -math.inf
        time.sleep(REFRESH / 10)  # the cluster itself may not know yet

    def slots(self, *, without: Node | None = None) -> int:
        """Return how many evaluations fit the nodes at once, leaving one of them out."""
        return sum(node.slots for node in self.nodes() if without is None or node.id != without.id)

    def largest(self) -> Node | None:
        """Return the node with the most memory."""
        return max(self.nodes(), key=lambda node: (node.resources.get("memory", 0.0), node.id), default=None)
