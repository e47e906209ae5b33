"""What a search finds in a network of the zoo."""

import numpy as np
import torch
from torch import nn

import evo
from evo.blueprint import Blueprint
from tests.network.zoo.counting import count


def searched(model: nn.Module, shape: tuple[int, ...], whole: tuple[str, ...] | None = ("fc",)) -> list[str]:
    """Return the names of the coupling groups of `model`, once a random candidate has exactly the costs it should have.

    Args:
        model: an untrained network.
        shape: of one image, without the batch.
        whole: names of the layers that cannot be searched, None if it does not matter which.
    """
    network = evo.Network.analyse(model, torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)))
    assert whole is None or tuple(entry.name for entry in network.frozen) == whole
    rng = np.random.default_rng(0)
    masks = {}
    for group in network.groups:
        masks[group.name] = rng.random(group.size) < 0.5
        masks[group.name][0] = True
    blueprint = Blueprint.from_masks(masks)
    counts = count(network.build(blueprint), shape)
    costs = network.cost_of(blueprint)
    assert {name: costs[name] for name in ("params", "weights", "macs", "feature_maps")} == {
        "params": counts.params,
        "weights": counts.weights,
        "macs": counts.macs,
        "feature_maps": counts.outputs,
    }
    return [group.name for group in network.groups]
