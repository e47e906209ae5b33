"""Where a network comes from, noted on it as a plain attribute that no forward pass reads."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from torch import nn

from evo.blueprint import Blueprint

ATTRIBUTE = "_evo_origin"

Parameters = ParamSpec("Parameters")
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Origin:
    """How to make a network again.

    Attributes:
        factory: name of its original in the zoo, "" for a network of the user's own.
        arguments: what the factory was called with.
        blueprint: what was kept of the original; None for an original.
        provenance: what else is known, as values that JSON can hold: the run, the digest of the original, …
    """

    factory: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()
    blueprint: Blueprint | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def remember(model: Model, origin: Origin) -> Model:
    """Note the origin of `model` on it and return it."""
    structure = None if origin.blueprint is None else (origin.blueprint.groups, origin.blueprint.layer_bits)
    # Plain values only: a pickle of the network can be read where evo is not installed.
    note = (origin.factory, origin.arguments, structure, dict(origin.provenance))
    object.__setattr__(model, ATTRIBUTE, note)
    return model


def origin_of(model: nn.Module) -> Origin:
    """Return what `remember` noted."""
    note = getattr(model, ATTRIBUTE, None)
    if note is None:
        return Origin()
    factory, arguments, structure, provenance = note
    return Origin(factory, arguments, None if structure is None else Blueprint(*structure), provenance)


def annotate(model: Model, /, **facts: Any) -> Model:
    """Add facts to the provenance of `model`, which `evo.save` writes into its file, and return it.

    Args:
        model: the network.
        facts: values that JSON can hold; they replace those of the same name.
    """
    origin = origin_of(model)
    return remember(model, dataclasses.replace(origin, provenance={**origin.provenance, **facts}))


def originates(function: Callable[Parameters, Model]) -> Callable[Parameters, Model]:
    """Decorate a factory of the zoo: its networks know the factory's name and arguments."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def make(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Model:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return remember(function(*args, **kwargs), Origin(function.__name__, tuple(bound.arguments.items())))

    return make
