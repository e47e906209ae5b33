from pathlib import Path
from typing import Any

import pytest
import torch

import evo
from evo.errors import SettingsError
from evo.recipes.compression import Compression, as_accurate
from evo.recipes.ecs import ecs
from evo.training import Recipe

RECIPE = Recipe(epochs=3, batch_size=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ecs") / "run"


@pytest.fixture(scope="module")
def result(digits_task: evo.Task, folder: Path) -> Compression:
    return compress(digits_task, folder, tries=3)


TUNED = evo.SubsetFineTune(images=200, batch_size=50)


def compress(
    task: evo.Task, folder: Path, tries: int, fitness: evo.SubsetFineTune | evo.Cascade = TUNED
) -> Compression:
    return ecs(
        task,
        fitness=fitness,
        algorithm=evo.ECS(generations=3, population=8),
        evaluator=evo.LocalEvaluator(workers=0),
        finetuning=RECIPE,
        tries=tries,
        out=folder,
    )


def test_the_winner_is_what_its_row_says_tuned(digits_task: evo.Task, result: Compression) -> None:
    parameters = sum(parameter.numel() for parameter in result.model.parameters())
    assert parameters == result.run.history.loc[result.id, "params"]
    again = evo.finetune(digits_task.network.build(result.run.blueprint(result.id)), digits_task, **RECIPE.to_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))
    assert [result.layers.loc["total", "kept_weights"]] == [result.run.history.loc[result.id, "weights"]]


def test_it_is_the_first_that_is_as_accurate_or_else_the_most_accurate(
    digits_task: evo.Task, result: Compression
) -> None:
    errors: Any = result.tuned["error"]
    good = [row for row, error in errors.items() if as_accurate(error, result.original_error, len(digits_task.val))]
    assert result.id == (good[0] if good else errors.idxmin())
    assert len(errors) == 3 or good == [errors.index[-1]]


@pytest.mark.parametrize(
    ("wrong", "original", "images", "expected"),
    [
        (1, 1, 360, True),
        (2, 1, 360, True),
        (4, 1, 360, False),
        (1, 2, 360, True),
        (1, 0, 360, False),
        (0, 0, 360, True),
        (0, 360, 360, True),
        (360, 0, 360, False),
        (70, 60, 10_000, True),
        (72, 60, 10_000, False),
    ],
)
def test_images_tell_no_less_than_their_standard_error(wrong: int, original: int, images: int, expected: bool) -> None:
    assert as_accurate(wrong / images, original / images, images) is expected


def test_tries_go_from_the_fittest_to_larger_ones_of_the_front(result: Compression) -> None:
    assert str(result.tuned.index[0]) == str(result.run.best.name)
    assert result.tuned["params"].is_monotonic_increasing
    front = result.run.pareto(["params", "error"])
    assert set(result.tuned.index[1:]) <= set(front.index)


def test_the_search_is_continued_not_repeated(digits_task: evo.Task, result: Compression, folder: Path) -> None:
    one = compress(digits_task, folder, tries=1)
    assert list(one.tuned.index) == [result.run.best.name]
    assert one.run.history.equals(result.run.history)


def test_every_network_that_was_tuned_is_kept(digits_task: evo.Task, result: Compression, folder: Path) -> None:
    files = {row: folder / f"tuned-{row}.evo" for row in result.tuned.index}
    assert set(folder.glob("tuned-*")) == set(files.values())
    original = digits_task.network.build(digits_task.network.full)
    for row, file in files.items():
        model = evo.load(file, original)
        assert evo.error_rate(model, digits_task.val) == result.tuned.loc[row, "error"]


def test_the_fitness_may_be_the_end_of_a_cascade(digits_task: evo.Task, tmp_path: Path) -> None:
    untuned = evo.SubsetFineTune(images=50, epochs=0)
    found = compress(digits_task, tmp_path, 1, evo.Cascade([untuned, TUNED], promote=[0.3]))
    assert found.id == found.run.best.name
    assert found.run.generations["screened"].sum() > found.run.generations["evaluated"].sum()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fitness": evo.ScoreOfFrame()}, r"^fitness: expected a SubsetFineTune, got ScoreOfFrame$"),
        (
            {"fitness": evo.Cascade([evo.SubsetFineTune(), evo.ScoreOfFrame()], promote=[0.5])},
            r"^fitness: expected a SubsetFineTune, got ScoreOfFrame$",
        ),
        ({"tries": 0}, r"^tries: expected at least 1, got 0$"),
        ({"finetuning": Recipe(device="gpu")}, r"^finetuning\.device: 'gpu' cannot be used \(RuntimeError: "),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    digits_task: evo.Task, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        ecs(digits_task, out=tmp_path / "run", **settings)
    assert not list(tmp_path.iterdir())
