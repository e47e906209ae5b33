"""Every key of run.toml with its type, default and meaning, read from the schema itself."""

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from evo.algorithms import ALGORITHMS
from evo.budget import Budget
from evo.callbacks import CALLBACKS
from evo.cli.config import RunTable
from evo.cli.parts import DEFAULTS
from evo.cli.task_source import TaskTable
from evo.encodings.registry import ENCODINGS
from evo.evaluation import EVALUATORS
from evo.fitness import FITNESSES, Fitness, LatencySettings
from evo.importance import Criterion
from evo.network.zoo import ZOO
from evo.recipes.compression import FINETUNING
from evo.seeds import SEED_SOURCES
from evo.settings import Settings
from evo.stopping import Convergence
from evo.training import Recipe
from evo.training.datasets import DATASETS

_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Fitness: "table",
    type(None): "",
    Criterion: "",
}
"""What a type means to somebody who writes TOML; nothing if it cannot be written."""

_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}


@dataclass(frozen=True)
class Key:
    """One key: its name, what may be written, what it is if nothing is written, and what it means."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """The keys of one table, which is named like "[algorithm] name = "ecs""; `about` is one sentence."""

    title: str
    about: str
    keys: tuple[Key, ...]


FINETUNING_ABOUT = (
    f"[finetuning], what `evo compress` ends with, has {FINETUNING.epochs:g} epochs unless it says otherwise."
)
LATENCY_ABOUT = "With this table, which may be empty, any fitness has one more objective, latency_ms."


def sections() -> Iterator[Section]:
    """Yield every table of run.toml, and every choice of a name in it."""
    yield Section("top of the file", _about(RunTable), settings_of(RunTable))
    yield Section("[task]", f"{_about(TaskTable)} {_names()}", settings_of(TaskTable))
    yield Section("[task.train] and [finetuning]", f"{_about(Recipe)} {FINETUNING_ABOUT}", settings_of(Recipe))
    registries: dict[str, Mapping[str, object]] = {
        "[encoding]": ENCODINGS,
        "[fitness]": FITNESSES,
        "[algorithm]": ALGORITHMS,
        "[evaluator]": EVALUATORS,
        "[[callbacks]]": CALLBACKS,
    }
    for table, registry in registries.items():
        for name, kind in registry.items():
            assert isinstance(kind, type)
            assert issubclass(kind, Settings)
            default = ", the default" if DEFAULTS.get(table.strip("[]")) == name else ""
            yield Section(f'{table} name = "{name}"{default}', _about(kind), settings_of(kind))
        if table == "[algorithm]":
            yield Section("[budget]", _about(Budget), settings_of(Budget))
            for name, source in SEED_SOURCES.items():
                yield Section(f'[[seeds]] from = "{name}"', _about(source), settings_of(source))
            yield Section("[convergence]", _about(Convergence), settings_of(Convergence))
        if table == "[fitness]":
            yield Section(
                "[fitness.latency]", f"{_about(LatencySettings)} {LATENCY_ABOUT}", settings_of(LatencySettings)
            )


def markdown() -> str:
    """Return all keys as a page of Markdown."""
    lines = [
        "# The keys of run.toml",
        "",
        "<!-- Made by `evo keys --markdown > docs/run-toml.md`; do not edit. -->",
        "",
        "`evo search run.toml` reads this file. A minimal one names a network, data and where the weights are; everything",
        "else has a default. `name` chooses a built-in part, one of an installed plug-in (`evo plugins` lists them all), or",
        "one of your own as `module:attribute`; modules are looked for in the folder of the file and in the current one.",
        "`--set algorithm.population=20` overrides any key.",
    ]
    for section in sections():
        lines += [
            "",
            f"## {section.title}",
            "",
            section.about,
            "",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{key.name}` | {_cell(key.kind)} | {_cell(key.default)} | {_cell(key.meaning)} |"
            for key in section.keys
        ]
    return "\n".join(lines) + "\n"


def _names() -> str:
    return f"Networks of the zoo: {', '.join(sorted(ZOO))}. Built-in data: {', '.join(sorted(DATASETS))}."


def _about(kind: type) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())


def settings_of(kind: type[Settings], table: str = "") -> tuple[Key, ...]:
    """Return the keys of some settings, and after each that is a table of settings those of it, as "name.key"."""
    keys: list[Key] = []
    for name, field in kind.model_fields.items():
        keys.append(Key(table + name, _kind(field), _default(field), field.description or ""))
        for inner in filter(_is_settings, (field.annotation, *get_args(field.annotation))):
            keys += settings_of(inner, f"{table}{name}.")
    return tuple(keys)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _kind(field: FieldInfo) -> str:
    return " ".join([_words(field.annotation), _bounds(field.metadata)]).strip()


def _bounds(metadata: Iterable[Any]) -> str:
    return ", ".join(
        text.format(_plain(getattr(constraint, name)))
        for constraint in metadata
        for name, text in _BOUNDS.items()
        if hasattr(constraint, name)
    )


def _words(annotation: Any) -> str:
    """Return what a type means to somebody who writes TOML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(FieldInfo.from_annotation(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(filter(None, map(_words, arguments)))
    if origin is Annotated:
        return " ".join(filter(None, [_words(arguments[0]), _bounds(arguments[1].metadata)]))
    if origin is Literal:
        return ", ".join(f'"{choice}"' for choice in arguments)
    if origin is dict or _is_settings(annotation):
        return "table"
    if origin is tuple:
        return f"[{', '.join(_words(argument) for argument in arguments if argument is not Ellipsis)}]"
    if origin is list:
        return f"list of {_words(arguments[0])}s"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None or value in ({}, []) or isinstance(value, Settings) else _plain(value)


def _plain(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
