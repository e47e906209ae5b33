"""AdaLayerNet from the network to the packed file: what it measures, keeps, evolves and trains."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import evo
from evo.errors import EvaluatorError, SettingsError
from evo.evaluation import LocalEvaluator
from evo.importance import FilterSelection
from evo.policy import AdaLayer, closed_form, measured_contributions
from evo.quantization import represent
from evo.recipes.adalayer import PolicyCompression, adalayer, measure_contributions, uniform_compression
from evo.training import EpochReport, Recipe, Samples, train

HERE = LocalEvaluator(workers=0)
TUNING = Recipe(epochs=1, batch_size=50, lr=0.02)
FITNESS = evo.SubsetFineTune(images=100, batch_size=50, epochs=1, val_images=100)
BUDGET = evo.Budget(bytes=0.14)


@pytest.fixture(scope="module")
def compressed(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> PolicyCompression:
    folder = tmp_path_factory.mktemp("adalayer") / "run"
    return adalayer(digits_task, fitness=FITNESS, budget=BUDGET, evaluator=HERE, finetuning=TUNING, out=folder)


def test_the_closed_form_is_trained_within_the_budget(digits_task: evo.Task, compressed: PolicyCompression) -> None:
    network = digits_task.network
    limits = BUDGET.bind(network.costs)
    (row,) = compressed.run.history.index
    structure = compressed.run.blueprint(row)
    assert network.counts(structure).tolist() == compressed.policy.counts.tolist()
    assert structure.bits == compressed.policy.bits
    costs = network.cost_of(structure)
    assert costs["bytes"] == compressed.run.history.loc[row, "bytes"] <= limits.maxima[0]
    expected = closed_form(
        network, measured_contributions(digits_task, FilterSelection(network, "l1")), AdaLayer(), limits
    )
    pd.testing.assert_frame_equal(compressed.policy.layers, expected.layers)
    assert compressed.policy_layers["kept_bytes"].to_list() == expected.layers["kept_bytes"].to_list()
    assert {"A", "F", "R", "I"} <= set(compressed.policy_layers)


def test_its_weights_lie_on_their_grids_and_its_file_packs_them(
    digits_task: evo.Task, compressed: PolicyCompression
) -> None:
    for name, bits in compressed.policy.bits.items():
        assert represent(compressed.model.get_parameter(f"{name}.weight").detach(), bits) is not None
    file = compressed.run.folder / f"tuned-{compressed.id}.evo"
    loaded = evo.load(file, model=digits_task.network.build(digits_task.network.full))
    torch.testing.assert_close(loaded.state_dict(), compressed.model.state_dict(), rtol=0, atol=0)
    assert file.stat().st_size < compressed.run.costs.costs(compressed.run.costs.sizes)["bytes"]
    assert compressed.tuned.loc[compressed.id, "error"] == evo.error_rate(loaded, digits_task.val)


def test_contributions_are_the_same_wherever_they_are_measured(digits_task: evo.Task, folder: Path) -> None:
    encoding = evo.LayerPolicy()
    expected = measured_contributions(digits_task, FilterSelection(digits_task.network, "l1"))
    assert measure_contributions(digits_task, encoding, LocalEvaluator(workers=2), folder) == expected
    rows = evo.Run(folder).history
    assert len(rows) == 4, "the whole network and one for each group"
    assert rows["worker"].nunique() > 0
    assert measure_contributions(digits_task, encoding, HERE, folder) == expected, "and need not be measured again"


def test_a_contribution_that_cannot_be_measured_is_an_error(digits_task: evo.Task, folder: Path) -> None:
    with pytest.raises(EvaluatorError, match=r"^every one of the first 4 evaluations failed.*nowhere"):
        measure_contributions(digits_task, evo.LayerPolicy(), HERE, folder, device="nowhere")


def test_evolution_starts_from_the_closed_form_and_ends_no_larger(digits_task: evo.Task, folder: Path) -> None:
    found = adalayer(
        digits_task,
        fitness=FITNESS,
        algorithm=evo.NSGA2(generations=2, population=4),
        budget=BUDGET,
        evaluator=HERE,
        finetuning=TUNING,
        tries=2,
        out=folder,
    )
    history = found.run.history
    first = history.iloc[0]
    assert found.run.counts(history.index[0]).tolist() == found.policy.counts.tolist()
    assert len(history) == 8
    limit = BUDGET.bind(digits_task.network.costs).maxima[0]
    assert (history["bytes"] <= limit).all()
    tuned = history.loc[found.tuned.index]
    assert (tuned["bytes"] <= first["bytes"]).all()
    assert (tuned["macs"] <= first["macs"]).all()
    assert tuned["error"].min() <= first["error"]


def test_killed_in_training_and_called_again_it_ends_with_the_same_weights(
    digits_task: evo.Task, compressed: PolicyCompression, folder: Path
) -> None:
    recipe = TUNING.model_copy(update={"epochs": 2.0})
    arguments: dict[str, Any] = {"fitness": FITNESS, "budget": BUDGET, "evaluator": HERE, "finetuning": recipe}

    def killed(report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adalayer(digits_task, out=folder, on_epoch=killed, **arguments)
    reports: list[EpochReport] = []
    resumed = adalayer(digits_task, out=folder, on_epoch=reports.append, **arguments)
    assert [report.epoch for report in reports] == [2]
    whole = adalayer(digits_task, out=folder.with_name("whole"), **arguments)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_the_penalty_makes_unimportant_layers_lighter(
    digits_task: evo.Task, compressed: PolicyCompression, folder: Path
) -> None:
    encoding = evo.LayerPolicy(
        closed_form=AdaLayer(eta=0.2), contributions=compressed.run.settings["encoding"]["contributions"]
    )
    heavy = adalayer(
        digits_task, encoding=encoding, fitness=FITNESS, budget=BUDGET, evaluator=HERE, finetuning=TUNING, out=folder
    )
    assert heavy.policy.counts.tolist() == compressed.policy.counts.tolist()
    least = str(heavy.policy.layers["I"].idxmin())
    norms = [found.model.get_parameter(f"{least}.weight").abs().sum() for found in (heavy, compressed)]
    assert norms[0] < 0.8 * norms[1]
    assert not (folder / "contributions").exists(), "known contributions are not measured"


def test_uniform_compression_is_within_the_same_budget(digits_task: evo.Task, folder: Path) -> None:
    found = uniform_compression(
        digits_task, bits=6, budget=BUDGET, fitness=FITNESS, evaluator=HERE, finetuning=TUNING, out=folder
    )
    structure = found.run.blueprint(found.id)
    assert set(structure.bits.values()) == {6}
    assert digits_task.network.cost_of(structure)["bytes"] <= BUDGET.bind(digits_task.network.costs).maxima[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoding": evo.LayerPolicy(initial="random")}, "encoding.initial: got 'random', this recipe starts from"),
        ({"encoding": evo.ChannelVector()}, "encoding: expected a LayerPolicy, got ChannelVector"),
        ({"fitness": evo.ScoreOfFrame(batch_size=8)}, "fitness: expected a SubsetFineTune, got ScoreOfFrame"),
        ({"fitness": evo.SubsetFineTune(compare_by=("bytes",), batch_size=8)}, "fitness.compare_by: this recipe needs"),
        (
            {"encoding": evo.LayerPolicy(closed_form=AdaLayer(p_max=0.2)), "budget": evo.Budget(bytes=0.1)},
            r"budget: bytes ≤ .* is not met by the closed form with gamma .*, p_max 0\.2",
        ),
        ({"tries": 0}, "tries: expected at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused(
    digits_task: evo.Task, folder: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        adalayer(digits_task, **{"fitness": FITNESS, "evaluator": HERE, "out": folder, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": {"bytes": 0.1}}, r"^budget: expected a Budget, got dict$"),
        ({"bits": 33}, r"^LayerPolicy: got .*bits is a range"),
        ({"select": "l9"}, r"^LayerPolicy\.select: got 'l9'"),
        ({"free": ("nothing",)}, r"unknown coupling group 'nothing'"),
    ],
)
def test_uniform_compression_that_cannot_work_is_refused(
    digits_task: evo.Task, folder: Path, changes: dict[str, Any], sentence: str
) -> None:
    common: dict[str, Any] = {"bits": 6, "budget": BUDGET, "fitness": FITNESS, "evaluator": HERE, "out": folder}
    with pytest.raises(SettingsError, match=sentence):
        uniform_compression(digits_task, **{**common, **changes})


def test_an_objective_is_named_once_and_known() -> None:
    with pytest.raises(SettingsError, match=r"unknown objective 'eror'; did you mean 'error'\?"):
        evo.SubsetFineTune(compare_by=("eror",))
    with pytest.raises(SettingsError, match="name every objective once"):
        evo.SubsetFineTune(compare_by=("error", "error"))


@pytest.fixture(scope="module")
def six_layers(digits: Samples) -> evo.Task:
    """A network with room to be compressed, trained on digits."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [*block(1, 8), *block(8, 16), nn.MaxPool2d(2), *block(16, 32), *block(32, 32), nn.MaxPool2d(2)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    training, val, test = (digits.take(np.arange(*ends)) for ends in ((0, 700), (700, 1100), (1100, 1797)))
    train(model, training, Recipe(epochs=15, batch_size=50), np.random.default_rng(0))
    return evo.Task(model, training, val, test=test)


@pytest.mark.slow
def test_the_closed_form_is_more_accurate_than_uniform_compression_of_equal_bytes(
    six_layers: evo.Task, folder: Path
) -> None:
    """The paper's ordering, on scikit-learn's digits: test errors of three seeds each."""
    assert six_layers.test is not None
    errors: dict[str, list[float]] = {"closed form": [], "4": [], "6": [], "8": []}
    for seed in range(3):
        common: dict[str, Any] = {
            "budget": evo.Budget(bytes=0.03),
            "fitness": evo.SubsetFineTune(epochs=0, images=100, batch_size=50),
            "finetuning": Recipe(epochs=4, batch_size=50, lr=0.02),
            "evaluator": HERE,
            "seed": seed,
        }
        found = adalayer(six_layers, out=folder / f"closed-{seed}", **common)
        errors["closed form"].append(evo.error_rate(found.model, six_layers.test))
        for bits in (4, 6, 8):
            alike = uniform_compression(six_layers, bits=bits, out=folder / f"uniform-{bits}-{seed}", **common)
            errors[str(bits)].append(evo.error_rate(alike.model, six_layers.test))
    worst = max(errors.pop("closed form"))
    assert worst < min(min(values) for values in errors.values())


@pytest.mark.slow
def test_evolution_finds_policies_that_dominate_the_closed_form(six_layers: evo.Task, folder: Path) -> None:
    found = adalayer(
        six_layers,
        fitness=evo.SubsetFineTune(epochs=2, images=700, batch_size=50, lr=0.02),
        algorithm=evo.NSGA2(generations=8, population=16),
        budget=evo.Budget(bytes=0.03),
        finetuning=TUNING,
        out=folder,
    )
    names = ["error", "bytes", "macs"]
    history = found.run.history
    first = history[names].iloc[0]
    dominating = (history[names] <= first).all(axis=1) & (history[names] < first).any(axis=1)
    assert dominating.sum() >= 3
    assert dominating[found.id]
    assert (history.loc[found.id, names] < first).all(), "in all three objectives"
