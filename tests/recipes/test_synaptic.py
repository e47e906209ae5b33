"""Synaptic pruning from end to end, on digits."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import evo
from evo.errors import SettingsError
from evo.export import write
from evo.network.origin import origin_of
from evo.recipes.synaptic import SynapticCompression, synaptic
from evo.training import Appraisal, EpochReport, Recipe, sparsity

RECIPE = Recipe(epochs=6, batch_size=50, lr=0.02)
APPRAISAL = Appraisal(threshold=0.9, every=2, patience=3)


def compress(task: evo.Task, folder: Path, **settings: Any) -> SynapticCompression:
    parts: dict[str, Any] = {
        "appraisal": APPRAISAL,
        "finetuning": RECIPE,
        "evaluator": evo.LocalEvaluator(workers=0),
    }
    return synaptic(task, out=folder, **{**parts, **settings})


@pytest.fixture(scope="module")
def result(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> SynapticCompression:
    return compress(digits_task, tmp_path_factory.mktemp("synaptic") / "run")


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def test_the_table_counts_what_is_left(digits_task: evo.Task, result: SynapticCompression) -> None:
    row = result.tuned.loc[result.id]
    assert row["params"] == sum(parameter.numel() for parameter in result.model.parameters())
    alive = sum(int((weight != 0).sum()) for weight in weights(result.model))
    original = sum(weight.numel() for weight in weights(digits_task.network.build(digits_task.network.full)))
    assert row["connections"] == alive
    assert row["pruned"] == pytest.approx(1 - alive / original)
    assert row["sparsity"] == pytest.approx(sparsity(result.model))
    assert 0.3 < row["sparsity"] < row["pruned"] < 1
    units = [weight.shape[0] for weight in weights(result.model)[:-1]]
    assert row["dead_units"] == 8 + 12 + 16 - sum(units) > 0
    assert list(result.layers["kept_filters"])[:-2] == units
    assert row["error"] == evo.error_rate(result.model, digits_task.val) < 0.5
    assert result.original_error == result.run.best["error"]


def test_the_model_is_the_trained_network_without_its_dead_units(
    digits_task: evo.Task, result: SynapticCompression
) -> None:
    network = digits_task.network
    settings = RECIPE.model_copy(update={"appraisal": APPRAISAL})
    whole = evo.finetune(network.build(network.full), digits_task, **settings.to_dict())
    with torch.no_grad():
        scores, expected = result.model(digits_task.val.x), whole(digits_task.val.x)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not result.model.training


def test_it_is_saved_and_loaded_with_its_zeros_and_its_history(
    digits_task: evo.Task, result: SynapticCompression, tmp_path: Path
) -> None:
    made = write(result.run, digits_task, result.id, result.model, tmp_path / "small.evo")
    assert made.costs["params"][1] == result.tuned.loc[result.id, "params"], "of the network, not of the individual"
    loaded = evo.load(tmp_path / "small.evo", model=digits_task.network.build(digits_task.network.full))
    assert same_weights(loaded, result.model)
    assert origin_of(loaded).blueprint == origin_of(result.model).blueprint
    assert evo.training.appraisals(loaded).equals(result.history)
    assert result.history["dead_units"].max() > 0
    assert result.history["error"].notna().any()


def test_interrupted_and_called_again_it_ends_the_same(
    digits_task: evo.Task, result: SynapticCompression, tmp_path: Path
) -> None:
    def interrupt(report: EpochReport) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compress(digits_task, tmp_path / "run", on_epoch=interrupt)
    epochs: list[int] = []
    again = compress(digits_task, tmp_path / "run", on_epoch=lambda report: epochs.append(report.epoch))
    assert epochs == [3, 4, 5, 6]
    assert same_weights(again.model, result.model)
    assert again.tuned.equals(result.tuned)
    assert again.history.equals(result.history)


def test_a_finished_one_is_handed_back_and_another_appraisal_trains_again(
    digits_task: evo.Task, result: SynapticCompression, tmp_path: Path
) -> None:
    folder = shutil.copytree(result.run.folder, tmp_path / "run")
    epochs: list[int] = []
    again = compress(digits_task, folder, on_epoch=lambda report: epochs.append(report.epoch))
    assert not epochs
    assert same_weights(again.model, result.model)
    milder = compress(
        digits_task,
        folder,
        appraisal=None,
        finetuning=RECIPE.model_copy(update={"appraisal": Appraisal(threshold=0.3, patience=5)}),
        on_epoch=lambda report: epochs.append(report.epoch),
    )
    assert len(epochs) == 6
    assert milder.tuned["connections"].iloc[0] > result.tuned["connections"].iloc[0]


def test_a_fitness_may_prune_connections_too(digits_task: evo.Task) -> None:
    fitness = evo.SubsetFineTune(images=200, epochs=2, batch_size=20, appraisal=APPRAISAL)
    assert evo.SubsetFineTune(**fitness.to_dict()) == fitness
    candidate = evo.Candidate(digits_task, digits_task.network.full, 0)
    dense = evo.SubsetFineTune(images=200, epochs=2, batch_size=20)
    assert fitness(candidate)["error"] != dense(candidate)["error"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"appraisal": {"threshold": 1}}, r"^appraisal: expected a Appraisal, got dict$"),
        ({"finetuning": {"epochs": 3}}, r"^finetuning: expected a Recipe, got dict$"),
        (
            {"appraisal": Appraisal(every=30)},
            r"^finetuning: appraisal: \d appraisals in \d+ steps are too few for the patience of 20; train longer, or lower",
        ),
        ({"appraisal": Appraisal(layers=["nothing"])}, r"^finetuning: layers: unknown layer 'nothing'; known are: "),
        ({"seed": -1}, r"^seed: expected a whole number ≥ 0, got -1$"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    digits_task: evo.Task, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        compress(digits_task, tmp_path / "run", **settings)
    assert not list(tmp_path.iterdir())
