"""From tables of run.toml to the parts of a search: encoding, fitness, algorithm, evaluator, seeds, callbacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from evo.callbacks import CALLBACKS, Callback
from evo.errors import SettingsError
from evo.fitness import FITNESSES, Cascade, Fitness, LatencySettings, WithLatency
from evo.importing import call
from evo.plugins import Registry
from evo.seeds import SEED_SOURCES, SeedSource
from evo.settings import Settings

Table = Mapping[str, Any]
Part = TypeVar("Part", bound=Settings)
Made = TypeVar("Made", Fitness, Callback)

DEFAULTS = {"encoding": "filter_bits", "fitness": "subset_finetune", "algorithm": "ecs", "evaluator": "local"}
"""What a table stands for that gives no `name`."""


def part_from(table: Table, where: str, registry: Registry[type[Part]], folder: Path) -> Part:
    """Return the encoding, algorithm or evaluator that a table describes."""
    kind = registry.find(table.get("name", DEFAULTS[registry.kind]), f"{where}.name", folder)
    return kind.parse({key: value for key, value in table.items() if key != "name"}, where)


def seeds_from(table: Table, where: str, folder: Path) -> SeedSource:
    """Return the source of seeds that one of the tables [[seeds]] describes."""
    name = table.get("from")
    if not isinstance(name, str):
        raise SettingsError(f"{where}: expected from = …, one of: {', '.join(SEED_SOURCES)}; got {name!r}")
    kind = SEED_SOURCES.find(name, f"{where}.from", folder)
    return kind.parse({key: value for key, value in table.items() if key != "from"}, where)


def fitness_from(table: Table, where: str, folder: Path) -> Fitness:
    """Return the fitness that a table describes, with measured latency as one more objective if it says so."""
    judge = _judge({key: value for key, value in table.items() if key != "latency"}, where, folder)
    if "latency" not in table:
        return judge
    if not isinstance(table["latency"], dict):
        raise SettingsError(
            f"{where}.latency: got {table['latency']!r}; expected a table, e.g. latency = {{batch = 1}}"
        )
    settings = LatencySettings.parse(table["latency"], f"{where}.latency")
    try:
        return WithLatency(judge, **settings.to_dict())
    except SettingsError as error:
        raise SettingsError(f"{where}.latency: {error}") from None


def _judge(table: Table, where: str, folder: Path) -> Fitness:
    """Return the fitness that a table names: built in, a decorated function, an object, or a class with settings."""
    name = table.get("name", DEFAULTS["fitness"])
    found = FITNESSES.find(name, f"{where}.name", folder)
    if found is Cascade:
        return _cascade({key: value for key, value in table.items() if key != "name"}, where, folder)
    return _made(found, name, table, where)


def callback_from(table: Table, where: str, folder: Path) -> Callback:
    """Return the callback that a table names: built in, a class with settings, or an object."""
    name = table.get("name")
    if not isinstance(name, str):
        raise SettingsError(f"{where}.name: {expected_name(name)}")
    return _made(CALLBACKS.find(name, f"{where}.name", folder), name, table, where)


def _made(found: type[Made] | Made, name: str, table: Table, where: str) -> Made:
    """Return an object itself, or one of a class with the settings of a table."""
    settings = {key: value for key, value in table.items() if key != "name"}
    if not isinstance(found, type):
        if settings:
            raise SettingsError(f"{where}.{min(settings)}: {name} is complete as it is and takes no settings")
        return found
    if issubclass(found, Settings):
        parsed: Made = found.parse(settings, where)
        return parsed
    made: Made = call(found, settings, name, where)
    return made


def expected_name(found: object) -> str:
    """Return what is wrong with something that should have been a name."""
    return f"got {found!r}; expected a name or module:attribute"


def _cascade(settings: dict[str, Any], where: str, folder: Path) -> Cascade:
    """Return the cascade that a table describes, whose fidelities are tables themselves."""
    tables = settings.get("fidelities", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f'{where}.fidelities: got {tables!r}; expected tables, e.g. [{{name = "zero_shot"}}, …]')
    made = []
    for place, table in enumerate(tables):
        here = f"{where}.fidelities.{place}"
        if not isinstance(table.get("name", ""), str):
            raise SettingsError(f"{here}.name: {expected_name(table['name'])}")
        made.append(fitness_from(table, here, folder))
    return Cascade.parse({**settings, **({"fidelities": made} if "fidelities" in settings else {})}, where)
