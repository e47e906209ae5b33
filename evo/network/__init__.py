"""Surgery on trained networks: coupling groups, proofs, exact costs, building candidates, and a zoo."""

from evo.network.costs import COSTS, CostModel, LayerCost, Width
from evo.network.groups import CouplingGroup, Cut, Frozen, evaluating
from evo.network.surgery import Network

__all__ = ["COSTS", "CostModel", "CouplingGroup", "Cut", "Frozen", "LayerCost", "Network", "Width", "evaluating"]
