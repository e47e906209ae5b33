"""Objects of the user's own, named as `module:attribute`: found, imported and called, every failure one sentence."""

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evo.errors import EvoError, SettingsError


def add_to_path(folders: Iterable[Path]) -> None:
    """Let modules be imported from `folders`, the first of them first."""
    for folder in reversed([str(folder.resolve()) for folder in folders]):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    importlib.invalidate_caches()


def own_path() -> list[str]:
    """Return where this process finds modules that are not installed: what another one needs to find them too."""
    installed = {str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)}
    folders = [str(Path(entry).resolve()) for entry in sys.path if entry]
    return [folder for folder in folders if not any(Path(folder).is_relative_to(prefix) for prefix in installed)]


def import_object(reference: str, where: str, folder: Path | None) -> Any:
    """Return what `reference`, a module:attribute, names.

    Args:
        reference: e.g. "nets:small" or "project.nets:Nets.small".
        where: the place that names it, for errors, e.g. "run.toml: task.model".
        folder: where the module is expected, for errors; `add_to_path` makes it so. None: in an installed package.

    Raises:
        SettingsError: not of this form, no such module or attribute, or importing the module fails.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise SettingsError(f"{where}: expected module:attribute, got {reference!r}")
    found: Any = _import(module_name, where, folder)
    for name in attribute.split("."):
        if not hasattr(found, name):
            known = [known for known in vars(found) if not known.startswith("_")] if hasattr(found, "__dict__") else []
            raise SettingsError(f"{where}: {_missing_attribute(module_name, name, known)}")
        found = getattr(found, name)
    return found


def _missing_attribute(module: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"module {module!r} has no {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _import(name: str, where: str, folder: Path | None) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing != name and not name.startswith(f"{missing}."):
            raise SettingsError(f"{where}: module {name!r} imports {missing!r}, which is not installed") from error
        beside = [] if folder is None else [path.stem for path in folder.glob("*.py")]
        close = difflib.get_close_matches(name, beside, n=1, cutoff=0.5)
        place = "install the package again" if folder is None else f"put {missing}.py into {folder} or install it"
        hint = f"did you mean {close[0]!r}?" if close else place
        raise SettingsError(f"{where}: there is no module {missing!r}; {hint}") from None
    except EvoError as error:
        raise SettingsError(f"{where}: importing {name!r}: {error}") from error
    except (Exception, SystemExit) as error:  # a user's module may do anything
        raise SettingsError(f"{where}: importing {name!r} raised {describe(error)}") from error


def call(function: Callable[..., Any], arguments: Mapping[str, Any], reference: str, where: str) -> Any:
    """Return `function(**arguments)`.

    Raises:
        SettingsError: it raised; the sentence says what and on which line.
    """
    try:
        return function(**arguments)
    except EvoError as error:
        raise SettingsError(f"{where}: {error}") from error
    except Exception as error:  # likewise
        raise SettingsError(f"{where}: {reference} raised {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return kind and message of `error` in one line, with the line of code that raised it."""
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError):
        return text  # names its file and line itself
    last = traceback.extract_tb(error.__traceback__)[-1]
    own = last.filename == __file__
    return text if own else f"{text} ({Path(last.filename).name}, line {last.lineno})"
