"""The table [task] of run.toml: the network, its weights and the data, from names to a Task."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors
import torch
from pydantic import Field
from torch import Tensor, nn

from evo.errors import EvoError, SettingsError
from evo.importing import call, describe
from evo.network.checkpoint import load
from evo.network.template import fill, tensors_of
from evo.network.zoo import ZOO
from evo.settings import Settings
from evo.task import Task
from evo.training import EpochReport, Recipe, train
from evo.training.datasets import DATASETS


class TaskTable(Settings):
    """Network and data, by name."""

    model: Annotated[
        str,
        Field(description="a network of the zoo or of a plug-in, or module:attribute: a network or what returns one"),
    ]
    model_args: Annotated[dict[str, Any], Field(default_factory=dict, description="arguments of that function")]
    data: Annotated[
        str,
        Field(
            description="a built-in data set, one of a plug-in, or module:attribute: (train, val) or (train, val, test), or "
            "what returns it"
        ),
    ]
    data_args: Annotated[dict[str, Any], Field(default_factory=dict, description="arguments of that function")]
    weights: Annotated[
        str | None,
        Field(description="safetensors file, from the folder of run.toml: what evo.save wrote, or a state dict"),
    ] = None
    train: Annotated[
        dict[str, Any] | None, Field(description="train the network first, see below; default: it is trained")
    ] = None
    protect: Annotated[
        tuple[str, ...], Field(description='names or patterns of layers whose channels all stay, e.g. ["head.*"]')
    ] = ()
    multiple: Annotated[
        int, Field(ge=1, description="layers keep a multiple of this many channels, or all; 8 suits tensor cores")
    ] = 1


@dataclass(frozen=True)
class TaskSource:
    """Everything that [task] names, found and checked, but not loaded yet.

    Attributes:
        table: the names.
        recipe: how to train the network first, if at all.
        model, data: the objects named.
        where: the table's place, for errors.
        folder: where relative file names start.
        base: the weights of the run that is continued; they take the place of `weights` and training.
    """

    table: TaskTable
    recipe: Recipe | None
    model: Any
    data: Any
    where: str
    folder: Path
    base: Path | None = None

    @classmethod
    def find(cls, table: TaskTable, where: str, folder: Path, base: Path | None) -> "TaskSource":
        """Find what `table` names.

        Raises:
            SettingsError: something is not there or not of the right kind.
        """
        recipe = None if table.train is None else Recipe.parse(table.train, f"{where}.train")
        if table.weights is not None and base is None and not (folder / table.weights).is_file():
            raise SettingsError(f"{where}.weights: {folder / table.weights}: no such file")
        if table.model in ZOO and table.weights is None and recipe is None:
            raise SettingsError(
                f"{where}: {table.model} comes untrained; name its weights, or train it first with epochs = … in [task.train]"
            )
        model = ZOO.find(table.model, f"{where}.model", folder)
        if isinstance(model, nn.Module) and table.model_args:
            raise SettingsError(f"{where}.model_args: {table.model} is a network already and takes no arguments")
        data = DATASETS.find(table.data, f"{where}.data", folder)
        if table.data_args and not callable(data):
            raise SettingsError(f"{where}.data_args: {table.data} is data already and takes no arguments")
        return cls(table, recipe, model, data, where, folder, base)

    def described(self) -> dict[str, Any]:
        """Return the table with every setting that matters to it, for the record of a run."""
        described = self.table.to_dict()
        if self.recipe is not None:
            described["train"] = self.recipe.model_dump(mode="json", exclude_none=True)
        return {name: value for name, value in described.items() if value not in (None, {})}

    @property
    def trains(self) -> bool:
        """Whether the network is still to be trained."""
        return self.recipe is not None and self.base is None

    def make(
        self,
        seed: int,
        check: Callable[[Task], None],
        on_epoch: Callable[[EpochReport], None] | None,
        checkpoint: Path | None,
    ) -> Task:
        """Load data and network, `check` the task, and train the network if that is still to be done.

        Raises:
            EvoError: something does not load, or is not what a task needs.
        """
        parts = self._load_data()
        model = self._load_model(seed)
        try:
            task = self._task(model, parts, seed)
        except EvoError as error:
            raise type(error)(f"{self.where}: {error}") from error
        check(task)
        if self.recipe is None or not self.trains:
            return task
        rng = np.random.default_rng(seed)
        try:
            train(model, task.train, self.recipe, rng, on_epoch=on_epoch, val=task.val, checkpoint=checkpoint)
        except EvoError as error:
            raise type(error)(f"{self.where}.train: {error}") from error
        except Exception as error:  # e.g. no such device, or a loss that becomes NaN
            raise SettingsError(f"{self.where}.train: {describe(error)}") from error
        return self._task(model, (task.train, task.val, task.test), seed)

    def _task(self, model: nn.Module, parts: Sequence[Any], seed: int) -> Task:
        """Make a task of a network and (train, val) or (train, val, test)."""
        test = parts[2] if len(parts) > 2 else None
        protect, multiple = self.table.protect, self.table.multiple
        return Task(model, *parts[:2], test=test, seed=seed, protect=protect, multiple=multiple)

    def _load_data(self) -> tuple[Any, ...]:
        where, name = f"{self.where}.data", self.table.data
        parts = call(self.data, self.table.data_args, name, where) if callable(self.data) else self.data
        if not isinstance(parts, tuple | list) or len(parts) not in (2, 3):
            raise _wrong(where, name, parts, "(train, val) or (train, val, test)", called=callable(self.data))
        if all(hasattr(part, "shape") for part in parts):
            raise SettingsError(
                f"{where}: {name} gives arrays, expected (train, val) with each a pair (inputs, labels)"
            )
        return tuple(parts)

    def _load_model(self, seed: int) -> nn.Module:
        where, name = f"{self.where}.model", self.table.model
        model = self.model
        if not isinstance(model, nn.Module):
            # A network that is to be trained begins with random weights: the same ones every time.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = call(model, self.table.model_args, name, where)
        if not isinstance(model, nn.Module):
            raise _wrong(where, name, model, "a torch.nn.Module", called=True)
        model = copy.deepcopy(model)
        if self.base is not None:
            return load_weights(model, self.base, f"{self.base}", exact=False)
        if self.table.weights is not None:
            return load_weights(model, self.folder / self.table.weights, f"{self.where}.weights")
        return model


def _wrong(where: str, name: str, found: object, expected: str, *, called: bool = False) -> SettingsError:
    size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
    verb = "returned" if called else "is"
    return SettingsError(f"{where}: {name} {verb} {_article(type(found).__name__)}{size}, expected {expected}")


def _article(name: str) -> str:
    return name if name == "NoneType" else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def load_weights(model: nn.Module, path: Path, where: str, *, exact: bool = True) -> nn.Module:
    """Return `model` with the weights of a safetensors file: what `evo.save` wrote, or a plain state dict.

    Args:
        model: the network; a state dict is read into it in place.
        path: the file.
        where: the place that names it, for errors.
        exact: whether a state dict's shapes have to be the network's own; else they may be smaller.

    Raises:
        SettingsError: no safetensors file, or of another network.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            written_by_evo = "evo" in (file.metadata() or {})
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise SettingsError(f"{where}: {path} is not a safetensors file ({describe(error)})") from None
    if written_by_evo:
        return load(path, model)
    own, state = tensors_of(model), model.state_dict()
    wrong = sorted(((own.keys() & state.keys()) - tensors.keys()) | (tensors.keys() - own.keys() - state.keys()))
    if wrong:
        raise SettingsError(
            f"{where}: {path} is of another network than {type(model).__name__} (differs in {wrong[0]})"
        )
    tensors = {name: tensors[name].to(own[name].dtype) for name in own.keys() & tensors.keys()}
    for name, tensor in tensors.items():
        given, expected = tuple(tensor.shape), tuple(own[name].shape)
        if (exact and given != expected) or len(given) != len(expected):
            raise SettingsError(
                f"{where}: {path} is of another network than {type(model).__name__} "
                f"({name} has shape {given}, expected {expected})"
            )
    return fill(model, own | tensors)
