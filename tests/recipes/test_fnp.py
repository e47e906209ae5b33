"""FNP from end to end, on digits."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evo
from evo.callbacks import Progress
from evo.encodings.channel_vector import ChannelVector
from evo.encodings.filter_bits import FilterBits
from evo.errors import SettingsError
from evo.evaluation import local
from evo.importance import FilterSelection, importance_matrix
from evo.network.origin import annotate
from evo.recipes.compression import Compression
from evo.recipes.fnp import fnp
from evo.training import EpochReport, Recipe
from tests.interruptions import Watch

RECIPE = Recipe(epochs=2, batch_size=50)
GAMMA = 0.4


def compress(task: evo.Task, folder: Path, **settings: Any) -> Compression:
    parts: dict[str, Any] = {
        "encoding": ChannelVector(gamma=GAMMA),
        "fitness": evo.ScoreOfFrame(batch_size=8),
        "algorithm": evo.FGA(generations=2, population=6, parents=3),
        "evaluator": evo.LocalEvaluator(workers=0),
        "finetuning": RECIPE,
    }
    return fnp(task, out=folder, **{**parts, **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fnp") / "run"


@pytest.fixture(scope="module")
def result(digits_task: evo.Task, folder: Path) -> Compression:
    return compress(digits_task, folder)


@pytest.fixture
def copied(result: Compression, folder: Path, tmp_path: Path) -> Path:
    """The finished compression, to go on from."""
    return shutil.copytree(folder, tmp_path / "run")


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_no_candidate_exceeds_the_parameters_of_the_preprocessed_network(
    digits_task: evo.Task, result: Compression
) -> None:
    network = digits_task.network
    preprocessed = importance_matrix(network, GAMMA, ChannelVector().lam)
    params = int(network.costs.costs(preprocessed, ["params"])["params"])
    assert result.run.settings["budget"] == {"params": params}
    assert len(result.run.history) == 6 + 2 * 6
    assert result.run.history["params"].max() <= params < int(network.cost_of(network.full)["params"])
    assert result.run.generations["rejected"].sum() > 0
    first = result.run.history.query("generation == 0").index
    far = np.array([np.abs(result.run.counts(row) - preprocessed).max() for row in first])
    assert far.max() <= ChannelVector().perturb, "the first population consists of mutations of V*"


def test_the_winner_has_the_best_score_and_the_filters_that_its_neighbours_choose(
    digits_task: evo.Task, result: Compression
) -> None:
    measured = result.run.history.query("status == 'ok'")
    assert measured.loc[result.id, "score"] == measured["score"].max()
    assert list(result.tuned.index) == [result.id]
    chosen = FilterSelection(digits_task.network, "knn").masks(result.run.counts(result.id))
    masks = result.run.blueprint(result.id).masks
    assert chosen.keys() == masks.keys()
    assert all((chosen[name] == mask).all() for name, mask in masks.items())


def test_the_model_is_that_structure_fine_tuned(digits_task: evo.Task, result: Compression) -> None:
    assert sum(parameter.numel() for parameter in result.model.parameters()) == result.tuned.loc[result.id, "params"]
    again = evo.finetune(digits_task.network.build(result.run.blueprint(result.id)), digits_task, **RECIPE.to_dict())
    assert same_weights(again, result.model)
    assert not result.model.training
    assert result.tuned.loc[result.id, "error"] == evo.error_rate(again, digits_task.val)
    original = digits_task.network.build(digits_task.network.full)
    assert result.original_error == evo.error_rate(original, digits_task.val)


def test_a_finished_compression_is_handed_back_and_another_recipe_tunes_again(
    digits_task: evo.Task, result: Compression, copied: Path
) -> None:
    reports: list[Progress | EpochReport] = []
    again = compress(digits_task, copied, callbacks=[Watch(reports.append)], on_epoch=reports.append)
    assert not reports
    assert again.id == result.id
    assert same_weights(again.model, result.model)
    assert again.tuned.equals(result.tuned)
    longer: list[EpochReport] = []
    other = compress(digits_task, copied, finetuning=Recipe(epochs=3, batch_size=50), on_epoch=longer.append)
    assert [report.epoch for report in longer] == [1, 2, 3]
    assert not same_weights(other.model, result.model)
    assert {entry.name for entry in copied.glob("tuned-*")} == {f"tuned-{result.id}.evo"}


def test_a_file_of_another_structure_under_its_name_is_not_handed_back(
    digits_task: evo.Task, result: Compression, copied: Path
) -> None:
    other = annotate(digits_task.network.build(digits_task.network.full), finetuning=RECIPE.to_dict())
    evo.save(other, copied / f"tuned-{result.id}.evo")
    assert same_weights(compress(digits_task, copied).model, result.model)


def test_of_several_tries_the_lowest_validation_error_wins(digits_task: evo.Task, copied: Path) -> None:
    best = compress(digits_task, copied, tries=4, finetuning=Recipe(epochs=0.2, batch_size=50))
    scores = best.run.history.query("status == 'ok' and not cached")["score"]
    assert list(best.tuned.index) == list(scores.sort_values(ascending=False, kind="stable").index[:4])
    errors: Any = best.tuned["error"]
    assert best.id == errors.idxmin()
    assert len(set(errors)) > 1
    assert evo.error_rate(best.model, digits_task.val) == errors.min()


def test_an_own_budget_takes_the_place_of_gamma(digits_task: evo.Task, tmp_path: Path) -> None:
    network = digits_task.network
    made = compress(
        digits_task,
        tmp_path / "run",
        encoding=ChannelVector(select="l1"),
        budget=evo.Budget(macs=0.5, params=0.7),
        finetuning=Recipe(epochs=0),
        max_evaluations=13,
    )
    assert made.run.settings["budget"] == {"params": 0.7, "macs": 0.5}
    original = network.cost_of(network.full)
    assert len(made.run.history) == 12, "the third round would exceed the evaluations"
    assert made.run.history["macs"].max() <= 0.5 * original["macs"]
    assert made.run.history["params"].max() <= 0.7 * original["params"]
    assert made.run.history["macs"].max() > 0.4 * original["macs"], "V* is as large as the budget lets it"
    assert same_weights(made.model, made.run.build(made.id)), "no epochs, no change"


def interrupt_search(progress: Progress) -> None:
    if progress.generation == 1 and progress.pending == 3:
        raise KeyboardInterrupt


def interrupt_tuning(report: EpochReport) -> None:
    raise KeyboardInterrupt


def test_interrupted_and_called_again_it_ends_the_same(
    digits_task: evo.Task, result: Compression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "BATCH_SECONDS", 0.0)  # results one by one, to interrupt between them
    folder = tmp_path / "run"
    interruptions: list[dict[str, Any]] = [
        {"callbacks": [Watch(interrupt_search)]},
        {"on_epoch": interrupt_tuning},
    ]
    for interruption in interruptions:
        with pytest.raises(KeyboardInterrupt):
            compress(digits_task, folder, **interruption)
    assert (folder / f"tuned-{result.id}.evo.training").exists()
    epochs: list[int] = []
    again = compress(digits_task, folder, on_epoch=lambda report: epochs.append(report.epoch))
    assert epochs == [2]
    assert again.id == result.id
    assert again.run.history["score"].equals(result.run.history["score"])
    assert same_weights(again.model, result.model)
    assert not list(folder.glob("*.training"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"encoding": FilterBits()}, r"^encoding: expected a ChannelVector, got FilterBits$"),
        (
            {"callbacks": [print]},
            r"^callbacks: expected objects of subclasses of evo\.callbacks\.Callback, got a builtin",
        ),
        ({"finetuning": {"epochs": 3}}, r"^finetuning: expected a Recipe, got dict$"),
        ({"tries": 0}, r"^tries: expected at least 1, got 0$"),
        ({"finetuning": Recipe(device="gpu")}, r"^finetuning\.device: 'gpu' cannot be used \(RuntimeError: "),
        ({"budget": evo.Budget(params=2)}, r"^budget: params ≤ 2 .* cannot be met"),
        ({"fitness": evo.ScoreOfFrame}, r"^fitness: expected a Fitness, got "),
        ({"encoding": ChannelVector(free=("nothing.*",))}, "'nothing.*'"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    digits_task: evo.Task, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        compress(digits_task, tmp_path / "run", **settings)
    assert not list(tmp_path.iterdir())
