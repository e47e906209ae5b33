"""From an individual of a run to files that other programs use."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evo.errors import EvoError, NetworkError, SettingsError
from evo.importing import describe
from evo.network.checkpoint import save
from evo.run import Run
from evo.task import Task
from evo.training import Recipe, error_rate, finetune

ONNX_PACKAGES = ("onnx", "onnxscript")
TOLERANCE = 1e-3
"""Largest accepted difference between a network's outputs and those of its ONNX file, relative to the largest output."""


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        model: the network, fine-tuned if that was asked for.
        path: where it is saved.
        costs: by name, (of the original, of the network).
        errors: top-1 error in [0, 1] by the name of the images, likewise.
        onnx: a sentence about the ONNX file, empty if there is none.
    """

    model: nn.Module
    path: Path
    costs: dict[str, tuple[int, int]]
    errors: dict[str, tuple[float, float]]
    onnx: str


def export(
    run: Run,
    task: Task,
    row: int,
    out: Path,
    *,
    finetuning: Recipe | None = None,
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
        onnx: a second file, for ONNX.
        on_epoch: see `evo.finetune`.

    Raises:
        SettingsError: packages for ONNX are missing; before any work.
        SettingsError: it cannot be fine-tuned like this.
        NetworkError: a file cannot be written, or ONNX cannot express the network.
        RunFolderError: there is no such individual.
    """
    if onnx is not None:
        check_onnx()
    for path in filter(None, (out, onnx)):
        if path.is_dir():
            raise NetworkError(f"{path}: is a folder, expected a file name")
    blueprint = run.blueprint(row)
    original, model = task.network.build(task.network.full), task.network.build(blueprint)
    if finetuning is not None:
        try:
            finetune(model, task, seed=int(run.settings["seed"]), on_epoch=on_epoch, **finetuning.to_dict())
        except Exception as error:  # e.g. no such device, or a loss that becomes NaN
            raise SettingsError(f"fine-tuning: {describe(error)}") from error
    save(model, out)
    before, after = task.network.cost_of(task.network.full), task.network.cost_of(blueprint)
    sets = {"val": task.val} | ({} if task.test is None else {"test": task.test})
    return Exported(
        model=model,
        path=out,
        costs={name: (before[name], after[name]) for name in before},
        errors={name: (error_rate(original, part), error_rate(model, part)) for name, part in sets.items()},
        onnx="" if onnx is None else save_onnx(model, task.val.x[:64], onnx),
    )


def check_onnx() -> None:
    """Raise SettingsError if a package that writing ONNX takes is not installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f"ONNX needs {' and '.join(missing)}; install with: pip install 'evo-arch[onnx]'")


def save_onnx(model: nn.Module, inputs: Tensor, path: Path) -> str:
    """Write `model` to an ONNX file that takes batches of any size, check it, and return what was found, as a sentence.

    Args:
        model: in evaluation mode.
        inputs: real inputs, shape (N, …), N ≥ 2, to trace and to compare with.
        path: the file.

    Raises:
        NetworkError: the exporter cannot express the network, or the file computes something else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _silence():
            torch.onnx.export(
                model.eval(),
                (inputs,),
                str(path),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["input"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except OSError as error:
        raise NetworkError(f"{path}: cannot be written ({error})") from None
    except Exception as error:  # the exporter's own errors have no common base
        first = (str(error).strip().splitlines() or [""])[0]
        raise NetworkError(f"{path}: ONNX cannot express this network ({type(error).__name__}: {first})") from error
    return _compare(model, inputs, path)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporter thinks aloud, in four ways, from the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compare(model: nn.Module, inputs: Tensor, path: Path) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return f"{path}: not compared with the network, onnxruntime is not installed"
    import onnxruntime

    with torch.no_grad():
        expected = model(inputs).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": inputs.numpy()})
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise NetworkError(f"{path}: onnxruntime computes something else, outputs differ by up to {difference:.2g}")
    return f"{path}: onnxruntime agrees with the network on {len(inputs)} images (largest difference {difference:.1e})"


def same_task(run: Run, task: Task) -> None:
    """Raise EvoError if `task` is not the one that `run` was made with."""
    before = run.settings["task"]
    for name, digest in task.describe().items():
        if before.get(name) != digest:
            what = "the network" if name == "network" else f"the data set {name!r}"
            raise EvoError(f"{run.folder}: {what} is not what it was when the search began")
