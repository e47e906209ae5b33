"""OCNNA from end to end, on digits."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import evo
from evo.errors import RunFolderError, SettingsError
from evo.importance import ocnna_scores, structures
from evo.recipes import ocnna as module
from evo.recipes.ocnna import SCORES, OcnnaCompression, ocnna
from evo.training import EpochReport, Recipe

RECIPE = Recipe(epochs=1, batch_size=50)
IMAGES = 250
PERCENTILES = (0, 30, 80, 30)


def compress(task: evo.Task, folder: Path, **settings: Any) -> OcnnaCompression:
    parts: dict[str, Any] = {
        "k": PERCENTILES,
        "images": np.int64(IMAGES),
        "evaluator": evo.LocalEvaluator(workers=0),
        "finetuning": RECIPE,
    }
    return ocnna(task, out=folder, **{**parts, **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ocnna") / "run"


@pytest.fixture(scope="module")
def result(digits_task: evo.Task, folder: Path) -> OcnnaCompression:
    return compress(digits_task, folder)


@pytest.fixture
def copied(result: OcnnaCompression, folder: Path, tmp_path: Path) -> Path:
    """The finished compression, to go on from."""
    return shutil.copytree(folder, tmp_path / "run")


def test_every_percentile_is_measured_as_it_is_cut(digits_task: evo.Task, result: OcnnaCompression) -> None:
    network = digits_task.network
    scores = ocnna_scores(network, digits_task.train, images=IMAGES)
    assert all((scores[name] == own).all() for name, own in result.scores.items())
    expected = structures(network, scores, PERCENTILES)
    table = result.sensitivity
    assert table.columns.tolist() == ["k", "id", "params", "macs", "rpr", "error"]
    assert table["k"].tolist() == list(PERCENTILES)
    assert [result.run.blueprint(row) for row in table["id"]] == expected
    original = network.cost_of(network.full)["params"]
    np.testing.assert_allclose(table["rpr"], [network.cost_of(one)["params"] / original for one in expected])
    assert table["rpr"].iloc[0] == 1
    assert table["id"].iloc[1] == table["id"].iloc[3], "one structure, one measurement"
    assert table["error"].iloc[2] > table["error"].iloc[0]


def test_the_smallest_that_costs_little_is_tuned(digits_task: evo.Task, result: OcnnaCompression) -> None:
    table = result.sensitivity
    good = table[table["error"] <= result.original_error + 0.02]
    assert result.id == good.sort_values("params")["id"].iloc[0]
    assert result.tuned.columns.tolist() == ["params", "macs", "error", "rpr"]
    assert result.tuned["rpr"].tolist() == [result.tuned["params"].iloc[0] / table["params"].iloc[0]]
    again = evo.finetune(digits_task.network.build(result.run.blueprint(result.id)), digits_task, **RECIPE.to_dict())
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in result.model.state_dict().items())
    assert result.tuned["error"].iloc[0] == evo.error_rate(again, digits_task.val)


def test_any_loss_may_be_tolerated_or_none(digits_task: evo.Task, copied: Path, result: OcnnaCompression) -> None:
    assert compress(digits_task, copied, tolerance=1.0).id == result.sensitivity.loc[2, "id"]
    best = result.sensitivity.sort_values(["error", "params"]).iloc[0]
    chosen = compress(digits_task, copied, tolerance=0.0)
    errors = chosen.sensitivity.loc[chosen.sensitivity["id"] == chosen.id, "error"]
    assert errors.max() <= max(best["error"], chosen.original_error)


def test_a_finished_compression_is_handed_back_and_scores_are_not_computed_twice(
    digits_task: evo.Task, result: OcnnaCompression, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ocnna_scores", None)  # would raise if it were called
    reports: list[EpochReport] = []
    again = compress(digits_task, copied, on_epoch=reports.append)
    assert not reports
    assert again.id == result.id
    assert again.sensitivity.equals(result.sensitivity)
    for file in copied.glob("history*"):
        file.unlink()
    (copied / "run.toml").unlink()
    killed_early = compress(digits_task, copied)
    assert killed_early.sensitivity["params"].equals(result.sensitivity["params"])


def test_one_percentile_is_tuned_whatever_it_costs(digits_task: evo.Task, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("history*", "run.toml", "tuned*"))
    result = compress(digits_task, tmp_path / "run", k=90, free=("0", "4"))
    assert result.sensitivity["k"].tolist() == [90]
    assert result.run.counts(result.id).tolist()[2] == 16
    assert result.run.counts(result.id).tolist()[:2] == [1, 2]


def test_scores_of_something_else_are_refused(digits_task: evo.Task, copied: Path) -> None:
    with pytest.raises(
        RunFolderError, match=r"ocnna\.safetensors: scores of something else \(.*\); choose another folder$"
    ):
        compress(digits_task, copied, images=IMAGES - 1)
    scores = load_file(copied / SCORES)
    save_file(scores, copied / SCORES)
    with pytest.raises(RunFolderError, match="scores of something else"):
        compress(digits_task, copied)
    (copied / SCORES).write_bytes(b"damaged")
    with pytest.raises(RunFolderError, match=r"ocnna\.safetensors: damaged \(.*\); delete it"):
        compress(digits_task, copied)


def test_the_folder_of_another_search_is_refused_before_any_work(
    digits_task: evo.Task, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / SCORES).unlink()
    monkeypatch.setattr(module, "ocnna_scores", None)  # would raise if it were called
    with pytest.raises(RunFolderError, match=r"belongs to another search \(algorithm\.batch was 4, is now 1\)"):
        compress(digits_task, copied, k=40)
    assert not (copied / SCORES).exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"k": 101}, r"^k: a percentile lies between 0 and 100, got 101"),
        ({"k": "most"}, r"^k: expected percentiles between 0 and 100, got 'most'$"),
        ({"k": ()}, r"^k, tolerance: expected a percentile and a share ≥ 0, got \[\] and 0\.02$"),
        ({"tolerance": -0.1}, r"^k, tolerance: .* and -0\.1$"),
        ({"free": ("nothing",)}, r"'nothing'"),
        ({"free": "conv*"}, r"^free: got 'conv\*'; expected at least one pattern in a tuple"),
        ({"images": 1}, r"^images: a deviation takes at least 2 images, got 1 of 600 training images$"),
        ({"variance": 0.0}, r"^variance: expected a share"),
        ({"finetuning": {"epochs": 3}}, r"^finetuning: expected a Recipe, got dict$"),
        ({"fitness": evo.ScoreOfFrame()}, r"^fitness: expected a SubsetFineTune, got ScoreOfFrame$"),
        ({"fitness": evo.SubsetFineTune(compare_by=("fitness",))}, r"^fitness: .*error"),
        ({"evaluator": "ray"}, r"^evaluator: expected an Evaluator, got str$"),
        ({"seed": -1}, r"^seed: "),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    digits_task: evo.Task, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        compress(digits_task, tmp_path / "run", **settings)
    assert not list(tmp_path.iterdir())
