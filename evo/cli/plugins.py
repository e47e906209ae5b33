"""`evo plugins`: every part by kind, where it comes from, and whether it can be used."""

import contextlib
import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

import evo
from evo.algorithms import ALGORITHMS
from evo.callbacks import CALLBACKS
from evo.encodings.registry import ENCODINGS
from evo.errors import SettingsError
from evo.evaluation import EVALUATORS
from evo.fitness import FITNESSES
from evo.importance import CRITERIA
from evo.network.zoo import ZOO
from evo.plugins import Registry, package_of, reference_to
from evo.seeds import SEED_SOURCES
from evo.training.datasets import DATASETS

REGISTRIES: tuple[Registry[Any], ...] = (
    ENCODINGS,
    FITNESSES,
    ALGORITHMS,
    CRITERIA,
    SEED_SOURCES,
    EVALUATORS,
    ZOO,
    DATASETS,
    CALLBACKS,
)
"""All kinds of parts, in the order in which they are printed."""

OK = "ok"


@dataclass(frozen=True)
class Listed:
    """A part.

    Attributes:
        kind: of the part; a run.toml names one by `name`.
        group: of entry points that bring more of this kind.
        package: name and version of what brings it.
        reference: module:attribute.
        about: first line of its docstring.
        state: "ok", or why it cannot be used by its name.
    """

    kind: str
    group: str
    name: str
    package: str
    reference: str
    about: str
    state: str


def listing() -> list[Listed]:
    """Return all parts, those of every kind sorted by name; what plug-ins name is imported.

    Whatever their code prints goes to standard error, so that standard output is the command's own.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return [
            part
            for registry in REGISTRIES
            for part in sorted([*_built_in(registry), *_plugins(registry)], key=lambda part: (part.name, part.package))
        ]


def as_json(parts: list[Listed]) -> str:
    """Return parts as one JSON document, a list of objects."""
    return json.dumps([asdict(part) for part in parts], indent=2)


def show(parts: list[Listed], console: Console) -> None:
    """Print a table per kind."""
    for registry in REGISTRIES:
        table = Table(title=f"{registry.kind} (entry points: {registry.group})", title_justify="left")
        for column in ("name", "from", "object", "about", "state"):
            table.add_column(column, overflow="fold")
        for part in parts:
            if part.group == registry.group:
                table.add_row(part.name, part.package, part.reference, part.about, part.state)
        console.print(table, markup=False)


def _built_in(registry: Registry[Any]) -> Iterator[Listed]:
    for name, part in registry.items():
        package = f"evo {evo.__version__}"
        yield Listed(registry.kind, registry.group, name, package, reference_to(part), _about(part), OK)


def _plugins(registry: Registry[Any]) -> Iterator[Listed]:
    plugins = registry.plugins()
    times = Counter(plugin.name for plugin in plugins)
    for plugin in plugins:
        about, state = "", OK
        try:
            about = _about(registry.load(plugin, registry.kind))
        except SettingsError as error:
            state = str(error).removeprefix(f"{registry.kind}: {plugin.name!r} of {package_of(plugin)}: ")
        if state == OK and plugin.name in registry:
            state = "hidden: the name means evo's own; name it as module:attribute"
        elif state == OK and times[plugin.name] > 1:
            state = "ambiguous: another package brings this name; name it as module:attribute"
        yield Listed(registry.kind, registry.group, plugin.name, package_of(plugin), plugin.value, about, state)


def _about(part: object) -> str:
    return (inspect.getdoc(part) or "").partition("\n")[0]
