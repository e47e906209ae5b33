"""What is perturbed to measure contributions to accuracy, and how losses become contributions."""

import pytest
import torch
from torch import nn

import evo
from evo.importance import FilterSelection
from evo.importance.contributions import contributions, perturbations


def test_contributions_are_losses_as_shares_of_the_largest() -> None:
    assert contributions(0.1, {"a": 0.5, "b": 0.2, "c": 0.1, "d": 0.05}) == pytest.approx(
        {"a": 1.0, "b": 0.25, "c": 0.0, "d": 0.0}
    )


def test_one_group_alone_loses_its_weakest_filters(digits_task: evo.Task) -> None:
    network = digits_task.network
    found = perturbations(network, FilterSelection(network, "l1"), share=0.25, free=["0", "9"])
    assert {name: tuple(structure.counts.values()) for name, structure in found.items()} == {
        "0": (6, 12, 16),
        "9": (8, 12, 12),
    }
    norms = torch.from_numpy(network.tensor("0.weight")).abs().flatten(1).sum(1)
    assert set((~found["0"].masks["0"]).nonzero()[0].tolist()) == set(norms.argsort()[:2].tolist())


def test_a_group_that_cannot_lose_that_few_is_not_perturbed() -> None:
    network = evo.Network.analyse(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.rand(2, 4), multiple=4
    )
    assert list(perturbations(network, FilterSelection(network, "l1"), share=0.5)) == ["1"], "4 of 6"
    assert not perturbations(network, FilterSelection(network, "l1"), share=0.2), "5 would be 6"
