"""How many evaluations fit a node, and which requests make sense."""

from collections.abc import Mapping
from typing import Any

import pytest

import evo
from evo.errors import SettingsError
from evo.evaluation.ray_cluster import slots

GIB = 2**30


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"CPU": 1}, 8),
        ({"CPU": 3}, 2),
        ({"CPU": 0.1}, 80),
        ({"CPU": 1, "GPU": 1}, 2),
        ({"CPU": 1, "GPU": 2}, 1),
        ({"CPU": 1, "GPU": 0.25}, 8),
        ({"CPU": 0.5, "GPU": 0.25}, 8),
        ({"CPU": 1, "GPU": 0.4}, 4),  # two on each, not five on both together
        ({"CPU": 1, "GPU": 0.6}, 2),
        ({"CPU": 1, "memory": 5 * GIB}, 3),
        ({"CPU": 1, "tpu": 1}, 0),
        ({"CPU": 9}, 0),
    ],
)
def test_slots_of_a_node(request_: Mapping[str, float], expected: int) -> None:
    offered = {"CPU": 8.0, "GPU": 2.0, "memory": 16.0 * GIB, "node:10.0.0.1": 1.0}
    assert slots(offered, request_) == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_gpus": 1.5}, "RayEvaluator.num_gpus: got 1.5; an evaluation takes a share of one GPU, or whole ones"),
        ({"num_cpus": 0}, "RayEvaluator.num_cpus: got 0; input should be greater than 0"),
        (
            {"resources": {"GPU": 1}},
            "RayEvaluator.resources: got {'GPU': 1}; these are custom resources; "
            "for others there are num_cpus, num_gpus and memory",
        ),
        (
            {"resources": {"tpu": -1}},
            "RayEvaluator.resources: got {'tpu': -1}; an amount cannot be negative",
        ),
    ],
)
def test_requests_that_make_no_sense(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        evo.RayEvaluator(**settings)
    assert str(caught.value) == sentence
