"""What source code an evaluation depends on, as a hash: code that has changed may measure something else."""

import functools
import hashlib
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

import evo.encodings
from evo.fitness import base
from evo.fitness.base import Fitness, FunctionFitness
from evo.settings import Settings

_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, np.ufunc)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, Path)


class UnknownSource(Exception):
    """A function hangs on something whose content cannot be told."""


@functools.cache
def digest_of_evo() -> str:
    """Return a hexadecimal hash of evo's own source code."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, *map(Path, evo.encodings.__path__), Path(base.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def digest_of_source(fitness: Fitness) -> str:
    """Return a hexadecimal hash of the user's own code that `fitness` runs; the same for every fitness of evo's own.

    Followed are the functions, classes and modules that it names, the constants and arrays among them included, as far as
    they are not installed packages.

    Raises:
        UnknownSource: it names an object whose content cannot be told, or was typed into an interpreter.
    """
    walk = _Walk()
    if isinstance(fitness, FunctionFitness):
        walk.value(fitness.function)
    walk.value(type(fitness))
    return walk.digest.hexdigest()[:32]


class _Walk:
    """Visits what a function depends on, each thing once, and hashes it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._visited: dict[int, Any] = {}  # the objects too: an address may be used again

    def value(self, value: Any) -> None:
        """Hash one thing and all that it names."""
        if isinstance(value, _PLAIN):
            self._add(repr(value))
            return
        if id(value) in self._visited:
            return
        self._visited[id(value)] = value
        if isinstance(value, functools.partial):
            self._each((value.func, value.args, value.keywords))
        elif isinstance(value, tuple | list):
            self._each(value)
        elif isinstance(value, dict):
            self._each((*value.keys(), *value.values()))
        elif isinstance(value, np.ndarray | torch.Tensor):
            array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
            self._add(f"{array.dtype}{array.shape}")
            self.digest.update(np.ascontiguousarray(array).tobytes())
        elif isinstance(value, types.ModuleType | types.FunctionType | types.MethodType | type):
            self._code(value)
        elif isinstance(value, Settings):
            self._code(type(value))
            self._add(repr(value.to_dict()))
        elif hasattr(value, "__wrapped__"):
            self.value(value.__wrapped__)
        elif isinstance(value, _BUILT_IN):
            self._add(repr(value.__name__))
        else:
            raise UnknownSource(f"a {type(value).__name__}")

    def _each(self, values: Any) -> None:
        for value in values:
            self.value(value)

    def _code(self, thing: Any) -> None:
        self._add(f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', thing.__name__)}")
        if _installed(thing):
            return
        try:
            self._add(inspect.getsource(thing))
        except (OSError, TypeError) as error:
            raise UnknownSource(f"the source of {thing.__name__}") from error
        if isinstance(thing, types.ModuleType):
            used: list[Any] = [
                one for one in vars(thing).values() if isinstance(one, types.ModuleType | types.FunctionType)
            ]
        elif isinstance(thing, type):
            used = [*thing.__bases__, *(one for one in vars(thing).values() if isinstance(one, types.FunctionType))]
        else:
            function = thing.__func__ if isinstance(thing, types.MethodType) else thing
            used = [thing.__self__] if isinstance(thing, types.MethodType) else []
            try:
                used += [cell.cell_contents for cell in function.__closure__ or ()]
            except ValueError:
                raise UnknownSource("a name without a value") from None
            used += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
            used += [function.__globals__[name] for name in sorted(_names(function.__code__) & {*function.__globals__})]
        self._each(used)

    def _add(self, text: str) -> None:
        self.digest.update(f"{text}\0".encode())


def _names(code: types.CodeType) -> set[str]:
    """Return the global names that code uses, functions inside it included, and those of attributes, which look the same."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return {*code.co_names}.union(*map(_names, inner))


def _installed(thing: Any) -> bool:
    """Tell whether a module, class or function belongs to Python, to an installed package, or to evo."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    if name is None or name.partition(".")[0] == "evo":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if name == "__main__" or file is None:
        return name in sys.builtin_module_names or (
            file is None and name != "__main__" and name in sys.stdlib_module_names
        )
    prefixes = {str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)}
    return any(Path(file).resolve().is_relative_to(prefix) for prefix in prefixes)
