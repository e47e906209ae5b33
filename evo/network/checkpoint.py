"""Small networks in one file: safetensors weights, a JSON recipe that says how they came to be, and a seal over both."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from evo.blueprint import Blueprint
from evo.errors import EvoError, NetworkError, unknown_name
from evo.network.origin import Origin, origin_of, remember
from evo.network.template import fill, skeleton_of, tensors_of
from evo.network.zoo import ZOO
from evo.quantization import dequantize, pack, represent, unpack, weight_dim

FORMAT = "evo-network-2"

_UNSEALED = "0" * hashlib.sha256().digest_size * 2
_SCALES = ".scales"
_BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError, EvoError)
"""What reading a recipe raises that is not one."""

Original = nn.Module | Callable[[], nn.Module]


def save(model: nn.Module, path: str | Path) -> Path:
    """Write `model` to one safetensors file, which other tools can read too, and return its path.

    The weights of a layer that has bits are packed as its integers, with a scale per output channel, wherever these give the
    weights back bit for bit. Where they do not, because the layer has been trained since, its weights are written as they
    are: nothing is rounded here. `evo.quantization.quantize_` puts them back on the grid; `describe` tells which is which.

    The file bears a SHA-256 over all its bytes. That shows damage and careless edits; it is no signature.

    Raises:
        NetworkError: the file cannot be written, or a tensor is of a kind that safetensors does not know.
    """
    path = Path(path)
    model = getattr(model, "_orig_mod", model)  # the network inside what torch.compile returns
    origin = origin_of(model)
    blueprint = origin.blueprint or Blueprint(())
    try:
        tensors = {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors_of(model).items()
        }
        packed = _pack(model, blueprint.bits, tensors)
        recipe = {
            "sha256": _UNSEALED,
            "format": FORMAT,
            "class": type(model).__name__,
            "factory": origin.factory,
            "arguments": dict(origin.arguments),
            **(json.loads(blueprint.to_json()) if origin.blueprint else {"kept": None, "bits": {}}),
            "packed": packed,
            "provenance": {**origin.provenance, "evo": version("evo-arch"), "torch": str(torch.__version__)},
        }
        data = safetensors.torch.save(tensors, {"evo": json.dumps(recipe)})
    except (*_BROKEN, RuntimeError, safetensors.SafetensorError) as error:
        raise NetworkError(f"{path}: {type(model).__name__} cannot be written ({_line(error)})") from None
    start = data.index(_UNSEALED.encode())
    with replacing(path) as part, part.open("wb") as file:
        file.write(memoryview(data)[:start])
        file.write(_seal(data, _UNSEALED).encode())
        file.write(memoryview(data)[start + len(_UNSEALED) :])
    return path


def load(path: str | Path, model: Original | None = None) -> nn.Module:
    """Read a network that `save` wrote, in evaluation mode, as a plain module.

    Args:
        path: the file.
        model: the original network, or a function that makes one; its weights do not matter. Not needed for networks from
            the zoo. No other code is ever run because a file names it.

    Raises:
        NetworkError: the file is missing, damaged, altered or not of this kind, or `model` is not the network it was cut
            from.
    """
    path = Path(path)
    recipe, tensors, _ = _read(path)
    try:
        blueprint = None
        if recipe["kept"] is not None:
            blueprint = Blueprint.from_json(json.dumps({"kept": recipe["kept"], "bits": recipe["bits"]}))
        origin = Origin(recipe["factory"], tuple(recipe["arguments"].items()), blueprint, dict(recipe["provenance"]))
        _unpack(recipe["packed"], tensors)
    except (*_BROKEN, RuntimeError) as error:
        raise NetworkError(f"{path}: damaged, its recipe makes no sense ({_line(error)})") from None
    skeleton = skeleton_of(_original(path, origin, model))
    _check_fits(path, recipe, tensors, skeleton)
    return remember(fill(skeleton, tensors).eval(), origin)


def describe(path: str | Path) -> dict[str, Any]:
    """Return what a file says about the network in it, which is not built.

    Returns:
        format, class, factory and arguments; `kept` channels and `bits` as `Blueprint.to_json` has them; `packed`, by
        tensor name, how the weights are stored that are integers; `provenance`; `tensors` with dtype and shape as they are
        stored; `file_bytes`; `sha256`.

    Raises:
        NetworkError: the file is missing, damaged, altered or not of this kind.
    """
    path = Path(path)
    recipe, tensors, size = _read(path)
    stored = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in sorted(tensors.items())
    }
    return {**recipe, "tensors": stored, "file_bytes": size}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name that becomes `path` if the block succeeds: never half a file under the final name.

    Raises:
        NetworkError: a file cannot be written.
    """
    if not path.name:
        raise NetworkError(f"{path}: is a folder, expected a file name")
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise NetworkError(f"{path}: cannot be written ({_line(error)})") from None
    finally:
        if part.is_file():
            part.unlink()


def _pack(model: nn.Module, bits: Mapping[str, int], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Replace the weights of layers with bits by packed integers and scales; return what it takes to undo that."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    packed: dict[str, Any] = {}
    for layer, count in bits.items():
        weight, dim = weight_dim(model, layer)
        name = names[id(weight)]
        exact = None if name in packed else represent(tensors[name], count, dim)
        if exact is not None:
            shape, dtype = list(weight.shape), str(weight.dtype).removeprefix("torch.")
            packed[name] = {"bits": count, "dim": dim, "dtype": dtype, "shape": shape}
            tensors[name], tensors[name + _SCALES] = pack(exact[0], count), exact[1]
    return packed


def _unpack(packed: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    for name, entry in packed.items():
        integers = unpack(tensors[name], entry["bits"], tuple(entry["shape"]))
        dtype = getattr(torch, entry["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{name}: {entry['dtype']!r} is no type of numbers")
        tensors[name] = dequantize(integers, tensors.pop(name + _SCALES), dtype, entry["dim"])


def _seal(data: bytes, seal: str) -> str:
    """Return the SHA-256 of a whole file, in hexadecimal digits, as if `seal` in it were zeros."""
    end = 8 + int.from_bytes(data[:8], "little")
    digest = hashlib.sha256(data[:end].replace(seal.encode(), _UNSEALED.encode(), 1))
    digest.update(memoryview(data)[end:])
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    """Return the recipe, the tensors as stored, and the size in bytes of an undamaged file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NetworkError(f"{path}: no such file") from None
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({_line(error)})") from None
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        recipe: dict[str, Any] = json.loads(header["__metadata__"]["evo"])
        found, seal = str(recipe["format"]), str(recipe["sha256"])
    except _BROKEN:
        raise NetworkError(f"{path}: damaged, or not written by evo.save (it has no recipe that can be read)") from None
    if found != FORMAT:
        raise NetworkError(f"{path}: written as {found!r}, this version of evo reads {FORMAT!r}")
    if _seal(data, seal) != seal:
        raise NetworkError(
            f"{path}: damaged or altered since evo.save wrote it (it does not have the SHA-256 that it states)"
        )
    try:
        return recipe, safetensors.torch.load(data), len(data)
    except (*_BROKEN, RuntimeError, safetensors.SafetensorError) as error:
        raise NetworkError(f"{path}: damaged ({_line(error)})") from None


def _original(path: Path, origin: Origin, model: Original | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if model is None:
        name = origin.factory
        if name not in ZOO:
            own = origin.provenance.get("model")
            own = f"it was cut from a network of your own{f', {own}' if own else ''}"
            which = unknown_name("network", name, ZOO) if name else own
            raise NetworkError(f"{path}: {which}; pass that network: evo.load(path, model=…)")
        try:
            with torch.device("meta"):  # the weights come from the file
                return ZOO[name](**dict(origin.arguments))
        except (*_BROKEN, RuntimeError) as error:
            raise NetworkError(f"{path}: damaged, {name} cannot be made as it says ({_line(error)})") from None
    made = model()
    if not isinstance(made, nn.Module):
        raise NetworkError(f"model: expected a torch.nn.Module, got {type(made).__name__}")
    return made


def _check_fits(path: Path, recipe: Mapping[str, Any], tensors: Mapping[str, Tensor], skeleton: nn.Module) -> None:
    """Raise NetworkError unless `tensors` can have been cut from those of `skeleton`."""
    expected = tensors_of(skeleton)
    if set(expected) != set(tensors):
        wrong = ", ".join(sorted(set(expected) ^ set(tensors))[:3])
        raise NetworkError(
            f"{path}: {type(skeleton).__name__} is not the network it was cut from, a {recipe['class']} (differs in {wrong})"
        )
    for name, tensor in expected.items():
        small, large = tuple(tensors[name].shape), tuple(tensor.shape)
        if len(small) != len(large) or any(kept > all_ for kept, all_ in zip(small, large, strict=True)):
            raise NetworkError(f"{path}: {name} has shape {small}, which cannot be cut from {large}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
