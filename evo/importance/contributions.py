"""What the layers contribute to accuracy: what is lost when one alone loses filters (AdaLayerNet, A of eq. 1)."""

from collections.abc import Mapping, Sequence

import numpy as np

from evo.blueprint import Blueprint
from evo.importance.filters import free_groups
from evo.importance.selection import FilterSelection
from evo.network import CouplingGroup, Network


def perturbations(
    network: Network, selection: FilterSelection, share: float = 0.5, free: Sequence[str] = ("*",)
) -> dict[str, Blueprint]:
    """Return structures in which one free coupling group alone has lost a share of its filters, by the group's name.

    A group that cannot lose any (of one filter, for instance) has none.
    """
    found = {}
    for index in np.flatnonzero(free_groups(network, free)).tolist():
        group, counts = network.groups[index], network.costs.sizes.copy()
        counts[index] = kept_channels(group, share)
        if counts[index] < group.size:
            found[group.name] = Blueprint.from_masks(selection.masks(counts))
    return found


def contributions(original: float, errors: Mapping[str, float]) -> dict[str, float]:
    """Return A of AdaLayerNet eq. 1 in [0, 1]: how much accuracy is lost with a perturbed group, the largest loss being 1.

    A group without which the network does better contributes 0; so do all of them if none loses anything.

    Args:
        original: error of the whole network, in [0, 1].
        errors: of the networks of `perturbations`, by the group's name.
    """
    losses = {name: max(0.0, error - original) for name, error in errors.items()}
    largest = max(losses.values(), default=0.0)
    return {name: loss / largest if largest else 0.0 for name, loss in losses.items()}


def kept_channels(group: CouplingGroup, share: float, least: int = 1) -> int:
    """Return the channels that a group keeps when a share of them goes: rounded, then the next legal number that is enough.

    Args:
        group: whose channels they are.
        share: in [0, 1].
        least: channels that it keeps at least; all, if it has fewer.
    """
    return group.legal_count(max(min(least, group.size), round((1 - share) * group.size)))
