import subprocess
import sys

import numpy as np
import torch

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate, generator


def smaller(task: evo.Task) -> Blueprint:
    return Blueprint.from_masks({group.name: np.arange(group.size) < 3 for group in task.network.groups})


def test_costs_are_those_of_the_network_it_builds(task: evo.Task) -> None:
    candidate = Candidate(task, smaller(task), 0)
    model = candidate.build()
    assert candidate.costs["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert not model.training


def test_every_build_is_a_network_of_its_own(task: evo.Task) -> None:
    candidate = Candidate(task, task.network.full, 0)
    one, other = candidate.build(), candidate.build()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert all(bool(parameter.any()) for name, parameter in other.named_parameters() if name.endswith("weight"))


def test_randomness_depends_on_seed_structure_and_purpose_alone(task: evo.Task) -> None:
    small, full = smaller(task), task.network.full

    def draw(blueprint: Blueprint, seed: int, purpose: str = "") -> float:
        return float(Candidate(task, blueprint, seed).rng(purpose).random())

    assert draw(small, 0) == draw(small, 0)
    assert len({draw(small, 0), draw(small, 1), draw(full, 0), draw(small, 0, "order"), draw(small, 0, "noise")}) == 5
    candidate = Candidate(task, small, 0)
    assert candidate.rng().random() == candidate.rng().random(), "asking again starts anew"


def test_names_are_kept_apart() -> None:
    draws = [generator(0, *names).random() for names in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("é",))]
    assert len(set(draws)) == 5


def test_keys_and_generators_are_the_same_in_every_process() -> None:
    program = (
        "import numpy as np; from evo.blueprint import Blueprint; from evo.candidate import generator;"
        "key = Blueprint.from_masks({'b': np.arange(9) < 4, 'a': np.ones(3, bool)}).key;"
        "print(key, generator(5, key, 'purpose').integers(2**62))"
    )
    key = Blueprint.from_masks({"b": np.arange(9) < 4, "a": np.ones(3, dtype=bool)}).key
    result = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "3"}, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [key, str(generator(5, key, "purpose").integers(2**62))]
