import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate, generator
from evo.fitness import FITNESSES, Fitness, measure
from evo.network import COSTS
from evo.testing import FitnessContract, small_task
from evo.training import EpochReport, Recipe, balanced_subset, error_rate, recalibrate, train

TASK = small_task()


class TestSubsetFineTune(FitnessContract):
    @pytest.fixture
    def fitness(self) -> Fitness:
        return evo.SubsetFineTune(images=48, epochs=1, batch_size=16, shift=1, flip=True)


class TestWithoutTraining(FitnessContract):
    @pytest.fixture
    def fitness(self) -> Fitness:
        return evo.SubsetFineTune(epochs=0, recalibrate=False, val_images=20, removed="eq6")


@st.composite
def structures(draw: st.DrawFn) -> Blueprint:
    masks = {}
    for group in TASK.network.groups:
        bits = draw(st.lists(st.booleans(), min_size=group.size, max_size=group.size).filter(any))
        masks[group.name] = np.array(bits)
    return Blueprint.from_masks(masks)


def removed_by_counting(blueprint: Blueprint, variant: str) -> float:
    """ECS eq. 4, 6, 7 and the exact share, weight by weight of the network conv-conv-linear-linear."""
    kept = blueprint.masks
    # name, weights per pair of channels, fate of inputs, fate of outputs, whether outputs can be removed
    image, classes = np.array([True]), np.ones(3, dtype=bool)
    layers = [
        (9, image, kept["0"], True),
        (9, kept["0"], kept["4"], True),
        (1, np.repeat(kept["4"], 4), kept["9"], True),
        (1, kept["9"], classes, False),
    ]
    gone = total = 0
    for kernel, inputs, outputs, prunable in layers:
        if variant == "eq4":
            for output in outputs:
                total += prunable
                gone += prunable and not output
            continue
        for output in outputs:
            for source in inputs:
                for _ in range(kernel):
                    total += 1
                    if variant == "weights":
                        gone += not (source and output)
                    elif variant == "eq6":
                        gone += not output
                    else:
                        gone += not source and not output
    return gone / total


@settings(max_examples=25)
@given(structures(), st.sampled_from(["weights", "eq4", "eq6", "eq7"]))
def test_removed_equals_counting_weights_one_by_one(blueprint: Blueprint, variant: str) -> None:
    counts = TASK.network.counts(blueprint)
    assert float(TASK.network.costs.removed(counts, variant)) == pytest.approx(
        removed_by_counting(blueprint, variant), abs=1e-12
    )


@pytest.mark.parametrize("variant", ["weights", "eq4", "eq6", "eq7"])
def test_nothing_removed_is_zero(variant: str) -> None:
    assert float(TASK.network.costs.removed(TASK.network.counts(TASK.network.full), variant)) == 0.0


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown variant 'eq5'"):
        TASK.network.costs.removed(TASK.network.counts(TASK.network.full), "eq5")


def half(task: evo.Task) -> Blueprint:
    return Blueprint.from_masks({group.name: np.arange(group.size) % 2 == 0 for group in task.network.groups})


def test_fitness_is_accuracy_plus_lambda_removed(digits_task: evo.Task) -> None:
    fitness = evo.SubsetFineTune(images=200, epochs=1, batch_size=50, lam=0.7)
    candidate = Candidate(digits_task, half(digits_task), 3)
    values = fitness(candidate)
    # The same by hand: a balanced subset of the run, sliced, recalibrated, tuned, judged.
    chosen = balanced_subset(digits_task.train.y, 200, generator(3, "train subset"))
    subset = digits_task.train.take(chosen)
    recipe = Recipe(epochs=1, batch_size=50)
    model = recalibrate(digits_task.network.build(candidate.blueprint), subset, recipe)
    train(model, subset, recipe, candidate.rng("fine-tuning"))
    error = error_rate(model, digits_task.val)
    full = digits_task.network.cost_of(digits_task.network.full)["weights"]
    removed = 1 - candidate.costs["weights"] / full
    assert values == {"error": error, "fitness": pytest.approx(1 - error + 0.7 * removed, abs=1e-12)}
    assert 0 < error < 0.5


def test_with_patience_the_best_epoch_on_the_images_it_is_judged_by_counts(digits_task: evo.Task) -> None:
    settings = {"epochs": 6, "batch_size": 50, "lr": 0.5, "schedule": "constant"}
    fitness = evo.SubsetFineTune(images=200, val_images=100, patience=6, recalibrate=False, **settings)
    candidate = Candidate(digits_task, half(digits_task), 3)
    subset, judged = (
        part.take(balanced_subset(part.y, images, generator(3, f"{name} subset")))
        for part, images, name in ((digits_task.train, 200, "train"), (digits_task.val, 100, "val"))
    )
    reports: list[EpochReport] = []
    rng = candidate.rng("fine-tuning")
    train(candidate.build(), subset, Recipe(**settings), rng, on_epoch=reports.append, val=judged)
    assert fitness(candidate)["error"] == reports[-1].best_error
    assert reports[-1].best_error != reports[-1].error


def test_objectives_include_every_cost() -> None:
    fitness = evo.SubsetFineTune()
    assert [objective.name for objective in fitness.objectives] == ["fitness", "error", *COSTS]
    assert [objective.maximize for objective in fitness.objectives] == [True] + [False] * (1 + len(COSTS))
    values = measure(evo.SubsetFineTune(epochs=0), Candidate(TASK, half(TASK), 0))
    assert {name: values[name] for name in COSTS} == TASK.network.cost_of(half(TASK))


def test_all_candidates_of_a_run_are_tuned_on_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    class Watching(evo.SubsetFineTune):
        def __call__(self, candidate: Candidate) -> dict[str, float]:
            from evo.fitness import subset_finetune

            seen.append(subset_finetune._subset(candidate.task.train, self.images, candidate.seed, "train").x)
            return super().__call__(candidate)

    fitness = Watching(images=30, epochs=0)
    for blueprint, seed in ((TASK.network.full, 0), (half(TASK), 0), (half(TASK), 1)):
        fitness(Candidate(TASK, blueprint, seed))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_recalibration_matters_after_slicing(digits_task: evo.Task) -> None:
    candidate = Candidate(digits_task, half(digits_task), 0)
    errors = [evo.SubsetFineTune(epochs=0, recalibrate=on)(candidate)["error"] for on in (True, False)]
    assert errors[0] != errors[1]


def test_a_subset_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(evo.EvoError, match="batch_size 64 is larger than the 10 images"):
        evo.SubsetFineTune(images=10, batch_size=64).check(TASK)
    evo.SubsetFineTune(images=10, batch_size=64, epochs=0).check(TASK)


@pytest.mark.parametrize(
    ("appraisal", "sentence"),
    [
        ({}, r"^SubsetFineTune: appraisal: 1 appraisals in 2 steps are too few for the patience of 20"),
        ({"patience": 1, "layers": ["nothing"]}, r"^SubsetFineTune: layers: unknown layer 'nothing'; known are: "),
    ],
)
def test_an_appraisal_that_no_candidate_could_be_tuned_with_is_refused(
    appraisal: dict[str, object], sentence: str
) -> None:
    with pytest.raises(evo.EvoError, match=sentence):
        evo.SubsetFineTune(images=30, batch_size=15, appraisal=appraisal).check(TASK)


def test_is_in_the_catalogue_under_its_name() -> None:
    fitness = evo.SubsetFineTune(lam=0.5)
    described = fitness.describe()
    assert FITNESSES[described["name"]] is evo.SubsetFineTune
    assert described["lam"] == 0.5
    assert described["batch_size"] == 128
