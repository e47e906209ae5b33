"""Parts by name: the built-in ones, those that other installed packages bring, and one's own as `module:attribute`.

A package brings parts as entry points, in a group per kind (`Registry.group`)::

    [project.entry-points."evo.algorithms"]
    tabu = "evo_tabu.algorithm:TabuSearch"

Nothing of it is imported before its name is used.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from evo.errors import SettingsError, unknown_name
from evo.importing import import_object

Part = TypeVar("Part", covariant=True)

Complaint = Callable[[object], str | None]
"""Returns what an object should have been that is no part of a kind, None if it is one."""


class Registry(Mapping[str, Part]):
    """All parts of one kind. As a mapping it holds the built-in ones; `find` knows the others too.

    Attributes:
        kind: what they are, in one word or two.
        group: of entry points, for packages that bring more of them.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, Part], complaint: Complaint) -> None:
        """Take what is built in, and what tells that an object is no such part."""
        self.kind = kind
        self.group = group
        self._built_in = dict(built_in)
        self._complaint = complaint

    def __getitem__(self, name: str) -> Part:
        return self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._built_in)

    def __len__(self) -> int:
        return len(self._built_in)

    def find(self, name: str, where: str, folder: Path | None = None) -> Part:
        """Return the part that `name` stands for; only a plug-in that is meant is imported.

        A built-in name always means the built-in part: no package that is installed changes what a file says.

        Args:
            name: of a built-in part or of a plug-in, or module:attribute.
            where: the place that names it, for errors, e.g. "run.toml: algorithm.name".
            folder: where modules of the user's own are expected, for errors; default the current one.

        Raises:
            SettingsError: there is none, several packages bring one of this name, it cannot be imported, or it is something
                else.
        """
        if name in self._built_in:
            return self._built_in[name]
        if ":" in name:
            return self._checked(import_object(name, where, folder or Path.cwd()), name, where)
        plugins = self.plugins()
        found = [plugin for plugin in plugins if plugin.name == name]
        if len(found) == 1:
            return self.load(found[0], where)
        if found:
            several = " and ".join(f"{package_of(plugin)} ({plugin.value})" for plugin in found)
            raise SettingsError(
                f"{where}: several packages bring {_article(self.kind)} {name!r}: {several}; name it as module:attribute"
            )
        known = {*self._built_in, *(plugin.name for plugin in plugins)}
        raise SettingsError(f"{where}: {unknown_name(self.kind, name, known)} (your own is named as module:attribute)")

    def plugins(self) -> list[EntryPoint]:
        """Return what installed packages bring, sorted by name and package; nothing is imported."""
        return sorted(entry_points(group=self.group), key=lambda plugin: (plugin.name, package_of(plugin)))

    def load(self, plugin: EntryPoint, where: str) -> Part:
        """Import what a plug-in names.

        Raises:
            SettingsError: that fails, or it is something else; the sentence names the package.
        """
        reference = plugin.value.partition("[")[0].strip()  # without the extras that it may state
        place = f"{where}: {plugin.name!r} of {package_of(plugin)}"
        return self._checked(import_object(reference, place, None), reference, place)

    def name_of(self, part: object) -> str:
        """Return what a run.toml calls a part: its built-in name, or module:attribute."""
        built_in = (name for name, known in self._built_in.items() if known is part)
        return next(built_in, reference_to(part))

    def _checked(self, found: Any, name: str, where: str) -> Part:
        expected = self._complaint(found)
        if expected is not None:
            raise SettingsError(f"{where}: {name} is {described(found)}; {expected}")
        part: Part = found
        return part


def subclass_of(base: type) -> Complaint:
    """Return what refuses everything but classes made from `base` of which there can be objects."""

    def complain(found: object) -> str | None:
        fits = isinstance(found, type) and issubclass(found, base) and not inspect.isabstract(found)
        return None if fits else f"expected a subclass of {base.__module__}.{base.__name__}"

    return complain


def package_of(plugin: EntryPoint) -> str:
    """Return name and version of the distribution that brings a plug-in."""
    return "an unknown package" if plugin.dist is None else f"{plugin.dist.name} {plugin.dist.version}"


def reference_to(part: object) -> str:
    """Return module:attribute of a class, a function, or what a decorator has made of one."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}:{named.__qualname__}"


def described(found: object) -> str:
    """Return what an object is, in words: "a function", "the class Net"."""
    return f"the class {found.__name__}" if isinstance(found, type) else _article(type(found).__name__)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
