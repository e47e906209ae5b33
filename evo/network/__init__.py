"""Surgery on trained networks: coupling groups, proofs, exact costs, building candidates, and a zoo."""

from evo.network.costs import COSTS, CostModel, LayerCost, Width
from evo.network.groups import CouplingGroup, Cut, Frozen
from evo.network.modes import evaluating
from evo.network.surgery import ChannelMap, Network, restored

__all__ = [
    "COSTS",
    "ChannelMap",
    "CostModel",
    "CouplingGroup",
    "Cut",
    "Frozen",
    "LayerCost",
    "Network",
    "Width",
    "evaluating",
    "restored",
]
