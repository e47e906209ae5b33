import math

import numpy as np
import pytest
import torch

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.fitness import FITNESSES, Fitness
from evo.fitness.proxies import CLOSED_FORMS, PROXIES, score
from evo.testing import FitnessContract, small_task

TASK = small_task()
HALF = Blueprint.from_masks({group.name: np.arange(group.size) % 2 == 0 for group in TASK.network.groups})
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU"))]


# One that differentiates twice, one that needs no labels, one that builds nothing; of one channel per group, images cannot
# always be told apart by their ReLUs.
@pytest.mark.parametrize("proxy", ["grasp", "synflow", "zen", "log_weights"])
@pytest.mark.parametrize("device", DEVICES)
class TestZeroShot(FitnessContract):
    @pytest.fixture
    def fitness(self, proxy: str, device: str) -> Fitness:
        return evo.ZeroShot(proxy=proxy, batch_size=12, device=device)


@pytest.mark.parametrize("proxy", PROXIES)
def test_is_the_score_of_the_untrained_candidate(proxy: str) -> None:
    fitness = evo.ZeroShot(proxy=proxy, batch_size=16)
    candidate = Candidate(TASK, HALF, 2)
    expected = score(TASK.network.untrained(HALF, 2), fitness.draw(candidate), proxy, seed=2)
    assert fitness(candidate)["score"] == pytest.approx(expected, rel=1e-6)


def test_closed_forms_build_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(evo.Network, "untrained", refuse)
    monkeypatch.setattr(evo.Network, "build", refuse)
    found = {}
    for proxy in CLOSED_FORMS:
        fitness = evo.ZeroShot(proxy=proxy, batch_size=1000, device="no such device")
        fitness.check(TASK)
        found[proxy] = fitness(Candidate(TASK, HALF, 0))["score"]
    costs = TASK.network.cost_of(HALF)
    layers = [3 * 9, 3 * 4 * 9, 4 * 4 * 6, 6 * 3]
    resolutions = [1, 16 / 64, 1 / 64, 1 / 64]  # of images of 8 × 8
    assert found == {
        "params": costs["params"],
        "macs": costs["macs"],
        "log_weights": pytest.approx(sum(map(math.log, layers))),
        "capacity": pytest.approx(sum(r**0.2 * math.log(n) for r, n in zip(resolutions, layers, strict=True))),
    }


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(evo.EvoError, match="unknown proxy 'zenn'; did you mean 'zen'"):
        evo.ZeroShot(proxy="zenn")
    with pytest.raises(evo.EvoError, match="proxy zico compares the gradients of batches and needs two"):
        evo.ZeroShot(proxy="zico", batches=1)
    with pytest.raises(evo.EvoError, match="ZeroShot: 1 batches of batch_size 97 need 97 images, but there are 96"):
        evo.ZeroShot(proxy="snip", batches=1, batch_size=97).check(TASK)


def test_the_description_names_every_proxy() -> None:
    said = evo.ZeroShot.model_fields["proxy"].description
    assert said is not None
    assert all(f'"{name}"' in said for name in PROXIES)


def test_is_in_the_catalogue_under_its_name() -> None:
    described = evo.ZeroShot(proxy="snip").describe()
    assert FITNESSES[described["name"]] is evo.ZeroShot
    assert described["proxy"] == "snip"
