import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.fitness import FITNESSES, Fitness, measure
from evo.network import COSTS
from evo.testing import FitnessContract, small_task
from evo.training import Samples

TASK = small_task()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU"))]


@pytest.mark.parametrize("device", DEVICES)
class TestScoreOfFrame(FitnessContract):
    @pytest.fixture
    def fitness(self, device: str) -> Fitness:
        return evo.ScoreOfFrame(batch_size=12, device=device)


class TestLiteral(FitnessContract):
    @pytest.fixture
    def fitness(self) -> Fitness:
        return evo.ScoreOfFrame(batches=3, batch_size=12, literal=True, signed=True, penalty=False, reference=True)


def half(task: evo.Task) -> Blueprint:
    return Blueprint.from_masks({group.name: np.arange(group.size) % 2 == 0 for group in task.network.groups})


def plain_gradients(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[NDArray[np.float64]]:
    """One backward pass, as anybody would write it."""
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    return [
        module.weight.grad.detach().cpu().numpy().ravel().astype(np.float64)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.grad is not None
    ]


def plain_score(candidate: Candidate, fitness: evo.ScoreOfFrame) -> float:
    """FNP eq. 8 to 11 in plain NumPy, on a plain copy of the candidate."""
    model = copy.deepcopy(candidate.task.network.untrained(candidate.blueprint, candidate.seed)).requires_grad_()
    layers = zip(*[plain_gradients(model, *batch) for batch in fitness.draw(candidate)], strict=True)
    positions = candidate.task.network.costs.positions
    score = 0.0
    for gradients, place in zip(map(np.stack, layers), positions / positions.max(), strict=True):
        deviation = np.std(gradients if fitness.signed else np.abs(gradients), axis=0)
        mean = np.mean(np.abs(gradients), axis=0)
        used = deviation > 0 if fitness.literal else mean > 0
        with np.errstate(divide="ignore"):
            ratios = mean[used] / deviation[used]
        if fitness.literal:
            score += np.log(np.sum(ratios))
            continue
        size = np.sqrt(np.mean(np.sum(gradients**2, axis=1)))
        total = np.sum(np.minimum(ratios, fitness.cap))
        score += place**fitness.resolution * np.log(size**fitness.gradient * total)
    share = candidate.costs["params"] / sum(
        tensor.numel() for tensor in candidate.task.network.build(candidate.task.network.full).parameters()
    )
    return float(score) - (math.log(1 + share) if fitness.penalty else 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cap": 5.0, "penalty": False},
        {"resolution": 0.0, "gradient": 0.0},
        {"resolution": 0.5, "gradient": 2.0},
        {"literal": True},
        {"literal": True, "signed": True, "penalty": False},
        {"batches": 4, "literal": True},
        {"batches": 3, "signed": True},
    ],
)
def test_equals_plain_numpy(settings: dict[str, object], device: str, digits_task: evo.Task) -> None:
    candidate = Candidate(digits_task, half(digits_task), 5)
    plain = plain_score(candidate, evo.ScoreOfFrame(batch_size=20, **settings))
    # The printed sum hangs on a few weights whose σ is next to nothing: agreement to all digits is not to be had of it.
    tolerance = 0.05 if settings.get("literal") else 1e-4
    assert evo.ScoreOfFrame(batch_size=20, device=device, **settings)(candidate)["score"] == pytest.approx(
        plain, abs=tolerance
    )
    reference = evo.ScoreOfFrame(batch_size=20, reference=True, **settings)(candidate)["score"]
    assert reference == pytest.approx(plain, abs=tolerance)


def test_bfloat16_is_near(digits_task: evo.Task) -> None:
    scores = np.array(
        [
            [
                evo.ScoreOfFrame(dtype=dtype, penalty=False)(Candidate(digits_task, blueprint, 0))["score"]
                for dtype in ("float32", "bfloat16")
            ]
            for blueprint in (digits_task.network.full, half(digits_task))
        ]
    )
    assert np.abs(scores[:, 0] - scores[:, 1]).max() < 0.5
    assert (scores[0] > scores[1]).all()


def test_only_the_widths_matter() -> None:
    other = Blueprint.from_masks({name: mask[::-1] for name, mask in half(TASK).masks.items()})
    bits = half(TASK).with_bits({"0": 4})
    fitness = evo.ScoreOfFrame(batch_size=16)
    scores = [fitness(Candidate(TASK, blueprint, 0)) for blueprint in (half(TASK), other, bits)]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0] != fitness(Candidate(TASK, half(TASK), 1))


def test_batches_are_balanced_apart_and_those_of_the_run() -> None:
    fitness = evo.ScoreOfFrame(batches=4, batch_size=24)
    drawn = fitness.draw(Candidate(TASK, half(TASK), 3))
    again = fitness.draw(Candidate(TASK, TASK.network.full, 3))
    other = fitness.draw(Candidate(TASK, half(TASK), 4))
    assert [batch.tolist() for _, batch in drawn] == [batch.tolist() for _, batch in again]
    assert not torch.equal(drawn[0][0], other[0][0])
    for images, labels in drawn:
        assert torch.bincount(labels).tolist() == [8, 8, 8]
        assert images.shape == (24, 1, 8, 8)
    # 4 × 24 are all of the 96 training images, each once, with its own label.
    rows = {
        tuple(image.flatten().tolist()): int(label) for image, label in zip(TASK.train.x, TASK.train.y, strict=True)
    }
    seen = [(tuple(image.flatten().tolist()), int(label)) for x, y in drawn for image, label in zip(x, y, strict=True)]
    assert dict(seen) == rows
    assert len(seen) == len(rows)


def test_objectives_include_every_cost() -> None:
    fitness = evo.ScoreOfFrame(batch_size=8)
    assert [objective.name for objective in fitness.objectives] == ["score", *COSTS]
    assert [objective.maximize for objective in fitness.objectives] == [True] + [False] * len(COSTS)
    values = measure(fitness, Candidate(TASK, half(TASK), 0))
    assert {name: values[name] for name in COSTS} == TASK.network.cost_of(half(TASK))


def test_penalty_is_that_of_the_parameters() -> None:
    candidate = Candidate(TASK, half(TASK), 0)
    with_it, without = (evo.ScoreOfFrame(batch_size=8, penalty=on)(candidate)["score"] for on in (True, False))
    share = candidate.costs["params"] / TASK.network.cost_of(TASK.network.full)["params"]
    assert without - with_it == pytest.approx(math.log(1 + share), abs=1e-9)


def test_a_score_that_is_not_finite_is_refused() -> None:
    broken = small_task()
    broken.train = Samples(broken.train.x * 1e38, broken.train.y)
    with pytest.raises(ValueError, match="the score 'score of the frame' is nan"):
        evo.ScoreOfFrame(batch_size=8)(Candidate(broken, broken.network.full, 0))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(evo.EvoError, match="2 batches of batch_size 64 need 128 images, but there are 96"):
        evo.ScoreOfFrame(batch_size=64).check(TASK)
    with pytest.raises(evo.EvoError, match="takes dtype float32, not bfloat16"):
        evo.ScoreOfFrame(reference=True, dtype="bfloat16")
    with pytest.raises(evo.EvoError, match="batches"):
        evo.ScoreOfFrame(batches=1)


def test_is_in_the_catalogue_under_its_name() -> None:
    described = evo.ScoreOfFrame(cap=50).describe()
    assert FITNESSES[described["name"]] is evo.ScoreOfFrame
    assert described["cap"] == 50
