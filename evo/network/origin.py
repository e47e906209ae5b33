"""Where a network comes from, noted on it as a plain attribute that no forward pass reads."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from torch import nn

from evo.blueprint import Blueprint

_ATTRIBUTE = "_evo_origin"

Parameters = ParamSpec("Parameters")
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Origin:
    """How to make a network again.

    Attributes:
        factory: name of its original in the zoo, "" for a network of the user's own.
        arguments: what the factory was called with.
        blueprint: what was kept of the original; None for an original.
    """

    factory: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()
    blueprint: Blueprint | None = None


def remember(model: Model, origin: Origin) -> Model:
    """Note the origin of `model` on it and return it."""
    object.__setattr__(model, _ATTRIBUTE, origin)
    return model


def origin_of(model: nn.Module) -> Origin:
    """Return what `remember` noted."""
    origin: Origin = getattr(model, _ATTRIBUTE, Origin())
    return origin


def originates(function: Callable[Parameters, Model]) -> Callable[Parameters, Model]:
    """Decorate a factory of the zoo: its networks know the factory's name and arguments."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def make(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Model:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return remember(function(*args, **kwargs), Origin(function.__name__, tuple(bound.arguments.items())))

    return make
