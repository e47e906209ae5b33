"""Small networks in one file: safetensors weights with a JSON recipe that says how the layers shrank."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from evo.blueprint import Blueprint
from evo.errors import NetworkError, unknown_name
from evo.network.origin import Origin, origin_of, remember
from evo.network.surgery import fill, skeleton_of, tensors_of
from evo.network.zoo import ZOO

FORMAT = "evo-network-1"


def save(model: nn.Module, path: str | Path) -> Path:
    """Write `model` to one safetensors file, which other tools can read too, and return its path.

    Raises:
        NetworkError: the file cannot be written.
    """
    path = Path(path)
    origin = origin_of(model)
    recipe = {
        "format": FORMAT,
        "class": type(model).__name__,
        "factory": origin.factory,
        "arguments": dict(origin.arguments),
        "kept": json.loads(origin.blueprint.to_json()) if origin.blueprint else None,
    }
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors_of(model).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        safetensors.torch.save_file(tensors, part, metadata={"evo": json.dumps(recipe)})
        part.replace(path)  # never half a file under the final name
    except OSError as error:
        raise NetworkError(f"{path}: cannot be written ({error})") from None
    return path


def load(path: str | Path, model: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Read a network that `save` wrote, in evaluation mode.

    Args:
        path: the file.
        model: the original network, or a function that makes one; its weights do not matter. Not needed for networks from
            the zoo. No other code is ever run because a file names it.

    Raises:
        NetworkError: the file is missing, damaged or not of this kind, or `model` is not the network it was cut from.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        recipe = json.loads(metadata["evo"])
        if recipe["format"] != FORMAT:
            raise NetworkError(f"{path}: written as {recipe['format']!r}, this version of evo reads {FORMAT!r}")
        blueprint = Blueprint.from_json(json.dumps(recipe["kept"])) if recipe["kept"] else None
        origin = Origin(recipe["factory"], tuple(recipe["arguments"].items()), blueprint)
    except FileNotFoundError:
        raise NetworkError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise NetworkError(f"{path}: damaged, or not written by evo.save ({error})") from None
    skeleton = skeleton_of(_original(path, origin, model))
    expected, found = set(tensors_of(skeleton)), set(tensors)
    if expected != found:
        wrong = ", ".join(sorted(expected ^ found)[:3])
        raise NetworkError(f"{path}: {type(skeleton).__name__} is not the network it was cut from (differs in {wrong})")
    for name, tensor in tensors_of(skeleton).items():
        if tensor.dim() != tensors[name].dim() or any(
            small > large for small, large in zip(tensors[name].shape, tensor.shape, strict=True)
        ):
            raise NetworkError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, which cannot be cut from {tuple(tensor.shape)}"
            )
    return remember(fill(skeleton, tensors).eval(), origin)


def _original(path: Path, origin: Origin, model: nn.Module | Callable[[], nn.Module] | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    if model is None:
        name = origin.factory
        if name not in ZOO:
            which = unknown_name("network", name, ZOO) if name else "it was cut from a network of your own"
            raise NetworkError(f"{path}: {which}; pass that network: evo.load(path, model=…)")
        try:
            return ZOO[name](**dict(origin.arguments))
        except (TypeError, ValueError, RuntimeError) as error:
            raise NetworkError(f"{path}: damaged, {name} cannot be made as it says ({error})") from None
    made = model()
    if not isinstance(made, nn.Module):
        raise NetworkError(f"model: expected a torch.nn.Module, got {type(made).__name__}")
    return made
