"""Networks as files of other programs, `.pt2` of `torch.export` and ONNX, each checked by opening it again."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from evo.errors import NetworkError, SettingsError
from evo.network import evaluating
from evo.network.checkpoint import replacing

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3
"""Largest accepted difference between the outputs of a network and of its file, relative to the largest output."""

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Format:
    """How a traced network is written and how a file is opened again, as a function from inputs to outputs."""

    name: str
    judge: str
    write: Callable[[ExportedProgram, Path], None]
    open: Callable[[Path], Callable[[Inputs], Sequence[Tensor]]]


def save_pt2(model: nn.Module, inputs: Tensor | Inputs, path: str | Path) -> str:
    """Write `model` to a file of `torch.export`, check it, and return what was found, as a sentence.

    The file is opened again by `torch.export.load`, which needs neither evo nor the network's code, and has to compute the
    same as `model` on `inputs`, on other inputs of their shape and on other batch sizes; only then does it get its name. Where
    the network fixes the batch size, so does the file, and the sentence says so.

    Args:
        model: takes one tensor or several, returns one or several, also in tuples, lists or dicts; computed in evaluation mode.
        inputs: real inputs, shape (N, …); a tuple if the network takes several.
        path: the file, ending in .pt2.

    Raises:
        SettingsError: `path` ends in something else.
        NetworkError: `torch.export` cannot express the network, the file computes something else, or it cannot be written.
    """
    check_pt2(Path(path))
    return _save(_Format("torch.export", "torch.export.load", _write_pt2, _open_pt2), model, inputs, Path(path))


def save_onnx(model: nn.Module, inputs: Tensor | Inputs, path: str | Path) -> str:
    """Write `model` to an ONNX file, check it by onnxruntime, and return what was found, as a sentence.

    In everything else as `save_pt2`. The file calls its inputs `input`, or `input_0`, `input_1`, … if there are several, and
    its outputs likewise.

    Raises:
        SettingsError: a package that this takes is not installed.
        NetworkError: ONNX cannot express the network, the file computes something else, or it cannot be written.
    """
    check_onnx()
    return _save(_Format("ONNX", "onnxruntime", _write_onnx, _open_onnx), model, inputs, Path(path))


def check_pt2(path: Path) -> None:
    """Raise SettingsError if `torch.export.load` would not open a file of this name."""
    if path.suffix != ".pt2":
        raise SettingsError(f"{path}: torch.export.load opens files ending in .pt2 only; call it {path.stem}.pt2")


def check_onnx() -> None:
    """Raise SettingsError if a package that writing and checking ONNX takes is not installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f"ONNX needs {' and '.join(missing)}; install with: pip install 'evo-arch[onnx]'")


def _save(kind: _Format, model: nn.Module, inputs: Tensor | Inputs, path: Path) -> str:
    """Write, check and name the file: for batches of any size if that goes, else for those of `inputs`."""
    model = getattr(model, "_orig_mod", model)  # the network inside what torch.compile returns
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    with evaluating(model), _silence(), replacing(path) as part:
        try:
            size, difference = _try(kind, model, given, part, dynamic=True)
            return (
                f"{path}: {kind.judge} agrees with the network on batches of any size, "
                f"{size} and others tried (largest relative difference {difference:.1e})"
            )
        except NetworkError as error:
            obstacle = error
        try:
            size, difference = _try(kind, model, given, part, dynamic=False)
        except NetworkError as error:
            raise NetworkError(f"{path}: {error}") from error.__cause__
        return (
            f"{path}: {kind.judge} agrees with the network on batches of exactly {size} "
            f"(largest relative difference {difference:.1e}); for any size: {obstacle}"
        )


def _try(kind: _Format, model: nn.Module, given: Inputs, part: Path, *, dynamic: bool) -> tuple[int, float]:
    """Write the file one way and check it; return the batch size of `given` and the largest difference found.

    Raises:
        NetworkError: why it is not to be had this way.
    """
    sizes = {len(x) if x.dim() else 0 for x in given}
    if dynamic and (len(sizes) != 1 or 0 in sizes):
        raise NetworkError("the inputs have no common batch dimension")
    size = max(sizes)
    checks = [given, _shuffled(given)]
    if dynamic:
        checks += [_resized(given, size + 1), _resized(given, 1), _resized(given, 2 * size + 3)]
    shapes = tuple({0: torch.export.Dim("batch")} for _ in given) if dynamic else None
    try:
        # An example of one would be taken for a constant by the tracer; few keep tracing cheap.
        program = torch.export.export(model, _resized(given, 2) if dynamic else given, dynamic_shapes=shapes)
        program.example_inputs = None  # else the file would hold the user's data
        kind.write(program, part)
    except OSError:
        raise
    except Exception as error:  # the tracers' own errors have no common base
        raise NetworkError(f"{kind.name} cannot express this network ({_first_line(error)})") from error
    expected = [tree_leaves(model(*inputs)) for inputs in checks]
    try:
        run = kind.open(part)
        found = [run(inputs) for inputs in checks]
    except Exception as error:  # likewise
        raise NetworkError(f"{kind.judge} cannot run the file ({_first_line(error)})") from error
    difference = max(_difference(mine, theirs) for mine, theirs in zip(expected, found, strict=True))
    if not difference <= _tolerance(expected[0]):
        raise NetworkError(
            f"{kind.judge} computes something else, outputs differ by up to {difference:.2g} of the largest"
        )
    return size, difference


def _write_pt2(program: ExportedProgram, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)


def _open_pt2(path: Path) -> Callable[[Inputs], Sequence[Tensor]]:
    network = torch.export.load(path).module()
    return lambda inputs: tree_leaves(network(*inputs))


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    torch.onnx.export(
        program,
        (),
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=_names("input", len(program.graph_signature.user_inputs)),
        output_names=_names("output", len(program.graph_signature.user_outputs)),
    )


def _open_onnx(path: Path) -> Callable[[Inputs], Sequence[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> list[Tensor]:
        names = _names("input", len(inputs))
        arrays = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return [torch.as_tensor(array) for array in arrays]

    return run


def _names(what: str, count: int) -> list[str]:
    return [what] if count == 1 else [f"{what}_{index}" for index in range(count)]


def _shuffled(inputs: Inputs) -> Inputs:
    """Return inputs that no file has seen, with the values of `inputs`: legal ones, be they pixels or indices."""
    generator = torch.Generator().manual_seed(0)
    return tuple(x.flatten()[torch.randperm(x.numel(), generator=generator)].view(x.shape) for x in inputs)


def _resized(inputs: Inputs, size: int) -> Inputs:
    """Return a batch of `size` with the rows of `inputs`, over and over if need be."""
    return tuple(x[torch.arange(size) % len(x)] for x in inputs)


def _difference(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference of any output relative to its largest value; infinite if their shapes differ."""
    if [tensor.shape for tensor in mine] != [tensor.shape for tensor in theirs]:
        return float("inf")
    differences = [0.0]
    for one, other in zip(mine, theirs, strict=True):
        scale = float(one.double().abs().max()) or 1.0
        differences.append(float((one.double() - other.double()).abs().max()) / scale)
    return max(differences, key=lambda value: float("inf") if value != value else value)


def _tolerance(outputs: Sequence[Tensor]) -> float:
    """Return the accepted difference: more for numbers that are rounded more coarsely than to single precision."""
    return max([TOLERANCE, *(8 * torch.finfo(tensor.dtype).eps for tensor in outputs if tensor.is_floating_point())])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporters think aloud, in four ways, from the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
