"""The state of a training as a file: written after every epoch, and gone on from after a crash."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from evo.errors import NetworkError
from evo.network.checkpoint import replacing
from evo.network.template import tensors_of
from evo.training.data import Samples, digest_of
from evo.training.hooks import Hooks
from evo.training.recipe import Recipe

FORMAT = "evo-training-2"

Job = Mapping[str, Any]
"""What a training's result depends on: its recipe, and content hashes of everything else, by what they are of."""


@dataclass(frozen=True)
class Best:
    """The epoch with the lowest validation error so far.

    Attributes:
        epoch: its number, from 1.
        error: top-1, in [0, 1].
        tensors: the network's at that time, on the CPU; empty if nobody will want them back.
    """

    epoch: int
    error: float
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, epoch: int, error: float, *, keep: bool) -> "Best":
        """Note the error of `model`, and its tensors if they are to be kept."""
        return cls(epoch, error, _copies(tensors_of(model)) if keep else {})


@dataclass
class TrainingState:
    """Everything that the next step depends on, besides torch's global generators.

    Attributes:
        model, optimizer: on the training's device.
        rng: of data order and augmentation.
        hooks: begun.
        step: steps done.
        best: None if there are no validation images.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    hooks: Hooks
    step: int = 0
    best: Best | None = None

    def use_best(self) -> None:
        """Give the network the weights of its best epoch."""
        assert self.best is not None
        _put(self.best.tensors, tensors_of(self.model))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device


def describe_job(
    model: nn.Module,
    samples: Samples,
    val: Samples | None,
    recipe: Recipe,
    rng: np.random.Generator,
    teacher: nn.Module | None,
    hooks: Hooks,
) -> Job:
    """Return what tells one training from another, before it begins."""
    parts = {"training images": samples.digest, "initial weights": _digest(model), "random numbers": _hash(_state(rng))}
    parts["hooks"] = _hash(hooks.describe())
    if recipe.patience and val is not None:
        parts["validation images"] = val.digest
    if recipe.distill and teacher is not None:
        parts["weights to distil from"] = _digest(teacher)
    return {"recipe": json.loads(recipe.model_dump_json(include=set(Recipe.model_fields))), **parts}


@dataclass(frozen=True)
class Checkpoint:
    """The file that one training, and no other, is kept in.

    It holds tensors and JSON alone: reading it runs no code.
    """

    path: Path
    job: Job

    def write(self, state: TrainingState) -> None:
        """Replace the file by `state`, in one step: a crash leaves the old one or the new one.

        Raises:
            NetworkError: it cannot be written.
        """
        tensors = {f"model.{name}": tensor for name, tensor in tensors_of(state.model).items()}
        tensors |= {name: tensor for name, _, tensor in _optimizer_tensors(state.optimizer)}
        tensors |= {f"hooks.{name}": tensor for name, tensor in state.hooks.tensors().items()}
        tensors |= {f"random.{kind}": tensor for kind, tensor in _generators(state.device).items()}
        note: dict[str, Any] = {"format": FORMAT, "job": self.job, "step": state.step, "rng": _state(state.rng)}
        if state.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in state.best.tensors.items()}
            note["best"] = {"epoch": state.best.epoch, "error": state.best.error}
        try:
            data = safetensors.torch.save(_copies(tensors), {"evo": json.dumps(note)})
        except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise NetworkError(f"{self.path}: the training cannot be written ({error})") from None
        with replacing(self.path) as part, part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def restore(self, state: TrainingState) -> bool:
        """Bring a `state` that is about to begin to where the file is; return whether there is one.

        Raises:
            NetworkError: it is damaged, or of another training.
        """
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
                note = json.loads(file.metadata()["evo"])
            if note["format"] != FORMAT:
                raise NetworkError(f"{self.path}: written as {note['format']!r}, this version of evo reads {FORMAT!r}")
            self._check(note["job"])
            self._restore(state, note, tensors)
        except FileNotFoundError:
            return False
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            what = " ".join(str(error).split())
            raise NetworkError(f"{self.path}: damaged, or not the checkpoint of a training ({what})") from None
        return True

    def _check(self, other: Job) -> None:
        recipe, before = self.job["recipe"], other["recipe"]
        differences = [
            f"{name} was {before.get(name)!r}, is now {recipe.get(name)!r}"
            for name in {**recipe, **before}
            if before.get(name) != recipe.get(name)
        ]
        differences += [f"it has other {name}" for name in self.job if self.job[name] != other.get(name)]
        if differences:
            raise NetworkError(
                f"{self.path}: belongs to another training ({differences[0]}); delete it, or choose another file"
            )

    def _restore(self, state: TrainingState, note: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "hooks": {}, "random": {}, "best": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        _put(parts["model"], tensors_of(state.model))
        parameters = _parameters(state.optimizer)
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            parameter = parameters[int(index)]
            # In the parameter's memory format, as the optimiser makes it: the arithmetic is then the same to the last bit.
            own = tensor if key == "step" else torch.empty_like(parameter).copy_(tensor)
            state.optimizer.state[parameter][key] = own
        state.hooks.restore(parts["hooks"])
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"]["cuda"], state.device)
        state.rng.bit_generator.state = note["rng"]
        state.step = note["step"]
        if "best" in note:
            state.best = Best(**note["best"], tensors=parts["best"])


def _put(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Write every tensor of `source` into its namesake."""
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU, contiguous and with memory of their own."""
    return {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (name in the file, parameter, tensor) for everything that the optimiser remembers of its parameters."""
    for index, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"optimizer.{index}.{key}", parameter, value


def _generators(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's global generators that layers on `device` draw from."""
    own = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **own}


def _state(rng: np.random.Generator) -> Any:
    """Return a generator's state as values that JSON can hold."""
    return json.loads(json.dumps(rng.bit_generator.state, default=lambda array: array.tolist()))


def _digest(model: nn.Module) -> str:
    return digest_of(tensors_of(model).values())


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
