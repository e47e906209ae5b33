"""`evo inspect`: what a search could do with a network, before any."""

import contextlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from evo.cli.config import read_overrides
from evo.cli.task_source import load_weights
from evo.errors import SettingsError
from evo.importing import add_to_path, call
from evo.network import Network
from evo.network.zoo import INPUTS, ZOO
from evo.plugins import described
from evo.report.structure import Structure, cost_table, frozen_table, group_table

Shape = tuple[int, ...]

WHERE = "MODEL"
"""What the command calls the network in errors, as in its help."""

BATCH = 2
"""Inputs that are made up; some networks do not run on a single one."""


@dataclass(frozen=True)
class Inspection:
    """What `evo inspect` was asked for and what it found.

    Attributes:
        reference: the network's name: of the zoo, or module:attribute.
        kind: its class.
        inputs: the shape of each of its inputs, without the batch.
        structure: what can be searched.
    """

    reference: str
    kind: str
    inputs: tuple[Shape, ...]
    structure: Structure

    def to_json(self) -> str:
        """Return everything as one JSON document."""
        head = {"network": self.reference, "class": self.kind, "inputs": [list(shape) for shape in self.inputs]}
        return json.dumps(head | self.structure.to_dict(), indent=2)

    def print(self, console: Console) -> None:
        """Print groups, what is left whole, and costs."""
        found = self.structure
        shapes = " and ".join("×".join(map(str, shape)) for shape in self.inputs)
        count = f"{len(found.groups):,} group" + ("s" if len(found.groups) > 1 else "")
        share = f"{found.searchable_share:.1%} of the parameters belong to them"
        can = f"{found.channels:,} searchable channels in {count}; {share}" if found.groups else "nothing can be pruned"
        head = f"{self.reference} ({self.kind}) on inputs of {shapes}: {can}"
        console.print(head, highlight=False, markup=False, soft_wrap=True)
        if found.groups:
            console.print(group_table(found.groups), markup=False)
        if found.frozen:
            console.print(frozen_table(found.frozen), markup=False)
        console.print(cost_table(found), markup=False)


def inspect(
    reference: str,
    inputs: Sequence[str] = (),
    *,
    arguments: Sequence[str] = (),
    weights: Path | None = None,
    protect: Sequence[str] = (),
    multiple: int = 1,
) -> Inspection:
    """Analyse a network as a search would.

    Whatever the user's code prints goes to standard error, so that standard output is the command's own.

    Args:
        reference: a network of the zoo or of a plug-in, or module:attribute, a network or what returns one; modules are looked
            for in the current folder too.
        inputs: the shape of each input, without the batch, e.g. "3,224,224"; the zoo's networks have shapes of their own.
        arguments: "key=value" for the function that returns the network; values as in TOML, or else plain text.
        weights: a safetensors file.
        protect, multiple: as for `Network.analyse`.

    Raises:
        SettingsError: a name, shape, argument or pattern is wrong.
        NetworkError: the network does not run on such inputs.
    """
    with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        add_to_path([Path.cwd()])
        found = ZOO.find(reference, WHERE)
        shapes = tuple(map(parse_shape, inputs)) or _natural(reference)
        model = _model(found, reference, _arguments(arguments))
        if weights is not None:
            if not weights.is_file():
                raise SettingsError(f"--weights: {weights}: no such file")
            model = load_weights(model, weights, "--weights")
        network = Network.analyse(model, [_example(shape) for shape in shapes], protect=protect, multiple=multiple)
        return Inspection(reference, type(model).__name__, shapes, Structure.of(network))


def parse_shape(text: str) -> Shape:
    """Return the shape that "3,224,224" stands for.

    Raises:
        SettingsError: it is no list of positive whole numbers.
    """
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise SettingsError(f"--input: expected positive whole numbers with commas, e.g. 3,224,224, got {text!r}")
    return shape


def _natural(reference: str) -> tuple[Shape, ...]:
    if reference in INPUTS:
        return (INPUTS[reference],)
    raise SettingsError(f"--input: say which shape {reference} reads, without the batch, e.g. --input 3,224,224")


def _arguments(texts: Sequence[str]) -> dict[str, Any]:
    for text in texts:
        key, equals, _ = text.partition("=")
        if not equals or not key.strip().isidentifier():
            raise SettingsError(f"--args {text}: expected key=value, e.g. width=16")
    return read_overrides(texts)


def _model(found: Any, reference: str, arguments: dict[str, Any]) -> nn.Module:
    """Return the network that a name stands for, or what the function does that it stands for."""
    if isinstance(found, nn.Module):
        if arguments:
            raise SettingsError(f"--args: {reference} is a network already and takes no arguments")
        return found
    model = call(found, arguments, reference, WHERE)
    if not isinstance(model, nn.Module):
        raise SettingsError(f"{WHERE}: {reference} returned {described(model)}, expected a torch.nn.Module")
    return model


def _example(shape: Shape) -> Tensor:
    try:
        return torch.randn(BATCH, *shape)
    except RuntimeError:  # torch's way to say that there is not enough memory
        size = math.prod(shape)
        raise SettingsError(
            f"--input: {','.join(map(str, shape))} has {size:,} values, which do not fit into memory"
        ) from None
