"""What every recipe ends with: some individuals of a search are fine-tuned, and the best of them is handed back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from evo.errors import SettingsError
from evo.export import finetuned, training_file
from evo.folder import claimed
from evo.importing import describe
from evo.network.checkpoint import load, save
from evo.network.origin import origin_of
from evo.run import Run
from evo.task import Task
from evo.training import EpochReport, Hook, Recipe, check_appraisal, error_rate

FINETUNING = Recipe(epochs=10)
"""How recipes fine-tune unless told otherwise."""


@dataclass(frozen=True)
class Compression:
    """What a recipe hands back.

    Attributes:
        run: the search.
        id: the individual that won.
        model: its network, fine-tuned, in evaluation mode.
        layers: ECS's table of it, see `CostModel.table`.
        tuned: one row per individual that was fine-tuned: its id, params, macs and error on the validation images.
        original_error: of the whole network on the validation images, in [0, 1].
    """

    run: Run
    id: int
    model: nn.Module
    layers: pd.DataFrame
    tuned: pd.DataFrame
    original_error: float

    @property
    def remarks(self) -> tuple[str, ...]:
        """What else a user wants to know, in lines."""
        return ()


def expect(name: str, part: object, kind: type) -> None:
    """Raise SettingsError unless `part`, an argument called `name`, is of this kind."""
    if not isinstance(part, kind):
        raise SettingsError(f"{name}: expected a {kind.__name__}, got {type(part).__name__}")


def check_tuning(recipe: Recipe, tries: int = 1, task: Task | None = None) -> None:
    """Raise SettingsError for a fine-tuning that cannot work, as far as can be told before a search, or without the task."""
    expect("finetuning", recipe, Recipe)
    if tries < 1:
        raise SettingsError(f"tries: expected at least 1, got {tries}")
    try:
        torch.empty(0, device=recipe.device)
    except Exception as error:  # what torch raises differs by device
        raise SettingsError(f"finetuning.device: {recipe.device!r} cannot be used ({describe(error)})") from None
    if task is not None:
        check_appraising(recipe, task)


def check_appraising(recipe: Recipe, task: Task) -> None:
    """Raise SettingsError for an appraisal that cannot work in a fine-tuning on these images, whatever the machine."""
    if recipe.appraisal is not None:
        whole = task.network.build(task.network.full)
        check_appraisal(recipe.appraisal, whole, recipe.steps(len(task.train)), "finetuning")


def as_accurate(error: float, original: float, images: int) -> bool:
    """Say whether an error rate is as low as the original's as far as so many images can tell.

    They can tell no less than one standard error of the difference of two such rates: of 360 images, with one or two wrong,
    that is an image or two. It is what Breiman et al. (CART, 1984) allow the smaller of two trees.
    """
    variance = sum(rate * (1 - rate) / images for rate in (error, original))
    return error - original <= math.sqrt(variance)


def tune(
    run: Run,
    task: Task,
    rows: Sequence[int],
    recipe: Recipe,
    *,
    until_original: bool = False,
    hooks: Callable[[nn.Module], Sequence[Hook]] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Compression:
    """Fine-tune individuals on all training images; the one with the lowest error on the validation images wins.

    Every network is kept in the run's folder as `tuned-<id>.evo`. Called again, it is read from there if it is of the same
    structure and was tuned by the same recipe; killed in between, its training goes on after the last finished epoch.

    Args:
        run: where they are from.
        task: network and data.
        rows: their ids, at least one, in the order to try them; of equally good ones the first wins.
        recipe: how to fine-tune.
        until_original: stop at the first that is as accurate as the original network, see `as_accurate`.
        hooks: makes what takes part in the training of a network; the same whenever it is called for this run.
        on_epoch: see `evo.training.train`.

    Raises:
        SettingsError: the training fails.
        NetworkError: a file in the folder is damaged, or holds a training by another recipe that was not finished.
        RunFolderError: another process is writing to the folder.
    """
    original_error = error_rate(task.network.build(task.network.full), task.val, device=recipe.device)
    models: dict[int, nn.Module] = {}
    errors: dict[int, float] = {}
    with claimed(run.folder):
        for row in rows:
            models[row] = _tuned(run, task, row, recipe, hooks, on_epoch)
            errors[row] = error_rate(models[row], task.val, device=recipe.device)
            if until_original and as_accurate(errors[row], original_error, len(task.val)):
                break
    winner = min(errors, key=errors.__getitem__)
    tuned = run.history.loc[list(errors), ["params", "macs"]].assign(error=pd.Series(errors))
    return Compression(run, winner, models[winner], run.layers(winner), tuned, original_error)


def _tuned(
    run: Run,
    task: Task,
    row: int,
    recipe: Recipe,
    hooks: Callable[[nn.Module], Sequence[Hook]] | None,
    on_epoch: Callable[[EpochReport], None] | None,
) -> nn.Module:
    """Return the network of an individual, fine-tuned now or by an earlier process."""
    file = run.folder / f"tuned-{row}.evo"
    if file.exists():
        kept = load(file, task.network.build(task.network.full))
        origin = origin_of(kept)
        # The structure too: the file may be left of a search that was deleted, where the id was another individual's.
        if (origin.blueprint, origin.provenance.get("finetuning")) == (run.blueprint(row), recipe.to_dict()):
            return kept
    model = finetuned(run, task, row, recipe, training_file(file), on_epoch, hooks)
    save(model, file)
    training_file(file).unlink(missing_ok=True)
    return model
