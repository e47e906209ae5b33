"""Structures to evaluate."""

from collections.abc import Callable

import numpy as np
import pytest

import evo
from evo.blueprint import Blueprint

Structures = Callable[[int], list[Blueprint]]


@pytest.fixture
def structures(task: evo.Task) -> Structures:
    """Return so many different ones, the same at every call."""

    def draw(count: int) -> list[Blueprint]:
        rng = np.random.default_rng(0)
        found: dict[str, Blueprint] = {}
        while len(found) < count:
            masks = {group.name: np.append(True, rng.random(group.size - 1) < 0.5) for group in task.network.groups}
            blueprint = Blueprint.from_masks(masks)
            found[blueprint.key] = blueprint
        return list(found.values())

    return draw
