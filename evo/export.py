"""From an individual of a run to files that other programs use."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from evo.errors import EvoError, NetworkError, SettingsError
from evo.importing import describe
from evo.network.checkpoint import save
from evo.network.formats import check_onnx, check_pt2, save_onnx, save_pt2
from evo.network.origin import annotate, origin_of
from evo.run import Run
from evo.task import Task
from evo.training import EpochReport, Hook, Recipe, error_rate, finetune


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        model: the network, fine-tuned if that was asked for.
        path: where it is saved.
        costs: by name, (of the original, of the network).
        errors: top-1 error in [0, 1] by the name of the images, likewise.
        others: a sentence about every further file.
    """

    model: nn.Module
    path: Path
    costs: dict[str, tuple[int, int]]
    errors: dict[str, tuple[float, float]]
    others: tuple[str, ...] = ()


def export(
    run: Run,
    task: Task,
    row: int,
    out: Path,
    *,
    finetuning: Recipe | None = None,
    pt2: Path | None = None,
    onnx: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Exported:
    """Build the individual `row` of `run`, fine-tune it if asked to, save it, and measure it against the original.

    Args:
        run: where the individual is from.
        task: the run's task.
        row: id of the individual.
        out: file for `evo.save`.
        finetuning: how to fine-tune on all training images; default not at all.
        pt2: a second file, see `save_pt2`.
        onnx: another file, see `save_onnx`.
        on_epoch: of the fine-tuning, see `evo.training.train`. Its checkpoint is `training_file(out)`: after a crash the
            same export goes on from there, and when the network is saved the file is deleted.

    Raises:
        SettingsError: packages for ONNX are missing, or `pt2` has another ending; before any work.
        SettingsError: it cannot be fine-tuned like this.
        NetworkError: a file cannot be written, the network cannot be expressed in its format, or the checkpoint is of
            another fine-tuning.
        RunFolderError: there is no such individual.
    """
    check_files(out, pt2, onnx)
    if finetuning is None:
        model = _built(run, task, row)
    else:
        model = finetuned(run, task, row, finetuning, training_file(out), on_epoch)
    exported = write(run, task, row, model, out, pt2=pt2, onnx=onnx)
    if finetuning is not None:
        training_file(out).unlink(missing_ok=True)
    return exported


def write(
    run: Run,
    task: Task,
    row: int,
    model: nn.Module,
    out: Path,
    *,
    pt2: Path | None = None,
    onnx: Path | None = None,
) -> Exported:
    """Save `model`, which came of the individual `row` of `run`, and measure it against the original; see `export`."""
    save(model, out)
    # Its own: a recipe may have cut more out of it than the individual says.
    blueprint = origin_of(model).blueprint or run.blueprint(row)
    original = task.network.build(task.network.full)
    before, after = task.network.cost_of(task.network.full), task.network.cost_of(blueprint)
    sets = {"val": task.val} | ({} if task.test is None else {"test": task.test})
    images = task.val.x[:64]
    others = ([save_pt2(model, images, pt2)] if pt2 else []) + ([save_onnx(model, images, onnx)] if onnx else [])
    return Exported(
        model=model,
        path=out,
        costs={name: (before[name], after[name]) for name in before},
        errors={name: (error_rate(original, part), error_rate(model, part)) for name, part in sets.items()},
        others=tuple(others),
    )


def finetuned(
    run: Run,
    task: Task,
    row: int,
    recipe: Recipe,
    checkpoint: Path,
    on_epoch: Callable[[EpochReport], None] | None = None,
    hooks: Callable[[nn.Module], Sequence[Hook]] | None = None,
) -> nn.Module:
    """Return the network of the individual `row` of `run`, fine-tuned on all training images with the run's seed.

    Args:
        run: where the individual is from.
        task: the run's task.
        row: id of the individual.
        recipe: how to fine-tune.
        checkpoint, on_epoch: see `evo.training.train`.
        hooks: makes what takes part in the training of a network; default nothing.

    Raises:
        SettingsError: it cannot be fine-tuned like this.
        NetworkError: the checkpoint cannot be written, is damaged, or belongs to another training.
        RunFolderError: there is no such individual.
    """
    model, seed = _built(run, task, row), int(run.settings["seed"])
    try:
        party = [] if hooks is None else hooks(model)
        finetune(model, task, seed=seed, on_epoch=on_epoch, checkpoint=checkpoint, hooks=party, **recipe.to_dict())
    except EvoError as error:
        raise type(error)(f"fine-tuning: {error}") from error
    except Exception as error:  # e.g. no such device, or a loss that becomes NaN
        raise SettingsError(f"fine-tuning: {describe(error)}") from error
    return annotate(model, finetuning=recipe.to_dict())


def _built(run: Run, task: Task, row: int) -> nn.Module:
    """Return the network of an individual with a note of where it comes from; `run` may have been opened without a task."""
    return annotate(task.network.build(run.blueprint(row)), **run.provenance(row))


def training_file(out: Path) -> Path:
    """Return where the training of what will be `out` keeps its state until it is done."""
    return out.parent / f"{out.name}.training"  # `out` may be ".", which has no name


def check_files(out: Path, pt2: Path | None, onnx: Path | None) -> None:
    """Raise if these cannot be the files of an export: what can be known before any work.

    Raises:
        SettingsError: packages for ONNX are missing, or `pt2` does not end in .pt2.
        NetworkError: one of them is a folder, cannot be written, or is to be two files.
    """
    if onnx is not None:
        check_onnx()
    if pt2 is not None:
        check_pt2(pt2)
    files = [path for path in (out, pt2, onnx) if path is not None]
    for path in files:
        if path.is_dir():
            raise NetworkError(f"{path}: is a folder, expected a file name")
        # Missing folders will be made in the first one that is there.
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise NetworkError(f"{path}: cannot be written ({above} is not a folder)")
        if not os.access(above, os.W_OK):
            raise NetworkError(f"{path}: cannot be written (no permission to write in {above})")
    if len({path.resolve() for path in files}) < len(files):
        raise NetworkError(f"{files[-1]}: is to be two files at once, give each its own name")


def same_task(run: Run, task: Task) -> None:
    """Raise EvoError if `task` is not the one that `run` was made with."""
    before = run.settings["task"]
    for name, digest in task.describe().items():
        if before.get(name) != digest:
            what = "the network" if name == "network" else f"the data set {name!r}"
            raise EvoError(f"{run.folder}: {what} is not what it was when the search began")
