"""From an individual of a run to files that other programs use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from evo.errors import EvoError, NetworkError, SettingsError
from evo.importing import describe
from evo.network.checkpoint import save
from evo.network.formats import check_onnx, check_pt2, save_onnx, save_pt2
from evo.network.origin import annotate
from evo.run import Run
from evo.task import Task
from evo.training import Recipe, error_rate, finetune


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
    on_epoch: Callable[[int, float], None] | None = None,
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
        on_epoch: see `evo.finetune`.

    Raises:
        SettingsError: packages for ONNX are missing, or `pt2` has another ending; before any work.
        SettingsError: it cannot be fine-tuned like this.
        NetworkError: a file cannot be written, or the network cannot be expressed in its format.
        RunFolderError: there is no such individual.
    """
    check_files(out, pt2, onnx)
    blueprint = run.blueprint(row)
    original, model = task.network.build(task.network.full), task.network.build(blueprint)
    annotate(model, **run.provenance(row))
    if finetuning is not None:
        try:
            finetune(model, task, seed=int(run.settings["seed"]), on_epoch=on_epoch, **finetuning.to_dict())
        except Exception as error:  # e.g. no such device, or a loss that becomes NaN
            raise SettingsError(f"fine-tuning: {describe(error)}") from error
        annotate(model, finetuning=finetuning.to_dict())
    save(model, out)
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


def check_files(out: Path, pt2: Path | None, onnx: Path | None) -> None:
    """Raise if these cannot be the files of an export: what can be known before any work.

    Raises:
        SettingsError: packages for ONNX are missing, or `pt2` does not end in .pt2.
        NetworkError: one of them is a folder, or they are not different files.
    """
    if onnx is not None:
        check_onnx()
    if pt2 is not None:
        check_pt2(pt2)
    files = [path for path in (out, pt2, onnx) if path is not None]
    for path in files:
        if path.is_dir():
            raise NetworkError(f"{path}: is a folder, expected a file name")
    if len({path.resolve() for path in files}) < len(files):
        raise NetworkError(f"{files[-1]}: is to be two files at once, give each its own name")


def same_task(run: Run, task: Task) -> None:
    """Raise EvoError if `task` is not the one that `run` was made with."""
    before = run.settings["task"]
    for name, digest in task.describe().items():
        if before.get(name) != digest:
            what = "the network" if name == "network" else f"the data set {name!r}"
            raise EvoError(f"{run.folder}: {what} is not what it was when the search began")
