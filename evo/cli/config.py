"""`run.toml`: its schema, and from a file to the parts of a search, everything checked before any work starts."""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from evo.algorithms import ALGORITHMS, Algorithm
from evo.budget import Budget
from evo.callbacks import Callback
from evo.cli.parts import DEFAULTS, Table, callback_from, expected_name, fitness_from, part_from, seeds_from
from evo.cli.task_source import TaskSource, TaskTable
from evo.encodings.base import Encoding
from evo.encodings.registry import ENCODINGS
from evo.errors import RunFolderError, SettingsError
from evo.evaluation import EVALUATORS, Evaluator
from evo.fitness import Fitness
from evo.folder import check_place, search_document
from evo.importing import add_to_path
from evo.recipes.compression import FINETUNING, check_appraising
from evo.run import BASE, SETTINGS, Run, read_settings
from evo.search import check, search
from evo.seeding import Seeds
from evo.seeds import SeedSource
from evo.settings import Settings
from evo.stopping import Convergence
from evo.task import Task
from evo.training import EpochReport, Recipe


class RunTable(Settings):
    """The top of run.toml; every table besides `task` can be left out."""

    out: Annotated[
        str | None, Field(min_length=1, description="folder of the run; default `runs/` and the name of this file")
    ] = None
    seed: Annotated[int, Field(ge=0, description="of everything random")] = 0
    max_evaluations: Annotated[
        int | None,
        Field(
            ge=1, description="stop before the generation that would exceed this many evaluations; look-ups are free"
        ),
    ] = None
    max_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            description="begin no further generation (asynchronous: evaluation) after so much time; `evo resume` goes on "
            "for as long again",
        ),
    ] = None
    reuse: Annotated[
        bool,
        Field(
            description="take what other runs in folders beside this one have measured of the same task, by the same "
            "fitness and seed, instead of measuring it again; it counts as evaluated"
        ),
    ] = True
    task: Annotated[dict[str, Any], Field(description="network and data, see below")]
    encoding: Annotated[dict[str, Any], Field(default_factory=dict, description="how genomes become networks")]
    fitness: Annotated[dict[str, Any], Field(default_factory=dict, description="what is better")]
    algorithm: Annotated[dict[str, Any], Field(default_factory=dict, description="how genomes are proposed")]
    budget: Annotated[
        dict[str, Any] | None, Field(description="costs that no candidate may exceed, see below; default: any")
    ] = None
    convergence: Annotated[
        dict[str, Any] | None, Field(description="stop when the front has stopped growing, see below; default: never")
    ] = None
    seeds: Annotated[
        list[dict[str, Any]],
        Field(
            default_factory=list,
            description="where structures to begin with come from, each a table [[seeds]], see below; default: none",
        ),
    ]
    evaluator: Annotated[dict[str, Any], Field(default_factory=dict, description="where candidates are evaluated")]
    callbacks: Annotated[
        list[dict[str, Any]],
        Field(default_factory=list, description="what follows the search, a table [[callbacks]] each"),
    ]
    finetuning: Annotated[
        dict[str, Any] | None,
        Field(description="how `evo compress` fine-tunes, and `evo export` what it found: keys of [task.train]"),
    ] = None


@dataclass(frozen=True)
class Config:
    """A checked run.toml.

    Attributes:
        out: the run's folder.
        seed, max_evaluations, max_seconds, convergence, reuse, encoding, fitness, algorithm, budget, evaluator, callbacks: as
            `evo.search` takes them.
        seeds: where structures to begin with come from; None for those that the folder's search began with.
        finetuning: of what was found, for `evo compress` and `evo export`; None if the file does not say.
        task: what the network and the data are made from.
        source: what `evo resume` needs to make task, fitness and callbacks again; noted in the run's folder.
    """

    out: Path
    seed: int
    max_evaluations: int | None
    max_seconds: float | None
    convergence: Convergence | None
    reuse: bool
    encoding: Encoding
    fitness: Fitness
    algorithm: Algorithm
    budget: Budget | None
    evaluator: Evaluator
    seeds: Sequence[SeedSource] | None
    callbacks: tuple[Callback, ...]
    finetuning: Recipe | None
    task: TaskSource
    source: Table

    def make_task(self, on_epoch: Callable[[EpochReport], None] | None = None, checkpoint: Path | None = None) -> Task:
        """Load data and network, and train the network first if [task.train] says so and no earlier run has.

        Args:
            on_epoch, checkpoint: of that training, see `evo.training.train`.

        Raises:
            EvoError: what was named does not load, or the parts do not fit together; before any training.
        """

        def check_parts(task: Task) -> None:
            check(
                task,
                encoding=self.encoding,
                fitness=self.fitness,
                algorithm=self.algorithm,
                budget=self.budget,
                evaluator=self.evaluator,
                seed=self.seed,
                max_evaluations=self.max_evaluations,
                max_seconds=self.max_seconds,
                convergence=self.convergence,
            )
            Seeds.of(self.seeds, self.out).check(task)
            if self.finetuning is not None:
                check_appraising(self.finetuning, task)  # its device may be one of another machine, for `evo export`

        return self.task.make(self.seed, check_parts, on_epoch, checkpoint)

    def search(self, task: Task, callbacks: Sequence[Callback] = ()) -> Run:
        """Search, or go on searching, with further callbacks; see `evo.search`."""
        return search(
            task,
            encoding=self.encoding,
            fitness=self.fitness,
            algorithm=self.algorithm,
            budget=self.budget,
            evaluator=self.evaluator,
            seeds=self.seeds,
            out=self.out,
            seed=self.seed,
            max_evaluations=self.max_evaluations,
            max_seconds=self.max_seconds,
            convergence=self.convergence,
            reuse=self.reuse,
            callbacks=(*self.callbacks, *callbacks),
            source=self.source,
        )


def read_config(
    path: str | Path | None,
    overrides: Iterable[str] = (),
    *,
    out: str | Path | None = None,
    parts: Mapping[str, Table] | None = None,
    address: str | None = None,
) -> Config:
    """Read and check a run.toml; imports the modules that it names.

    Args:
        path: the file; None if the overrides say everything. Its folder and the current one are where modules of the
            user's own are looked for.
        overrides: "key=value" with a dotted key; values as in TOML, or else plain text.
        out: takes the place of the key `out`.
        parts: what a part is that the file does not name, in place of `DEFAULTS`.
        address: of a Ray cluster to evaluate on.

    Raises:
        SettingsError: anything in it is wrong; one sentence.
        RunFolderError: `out` holds another search, or cannot be a folder.
    """
    document = {} if path is None else _read(Path(path))
    if "versions" in document and "hardware" in document:
        raise SettingsError(f"{path}: is the record of a run; to continue that: evo resume {Path(str(path)).parent}")
    _override_run(document, overrides, address)
    if out is not None:
        document["out"] = str(out)
    usual = {part: {"name": name} for part, name in DEFAULTS.items()}
    for part, default in {**usual, **(parts or {})}.items():
        table = document.setdefault(part, {})
        if isinstance(table, dict) and "name" not in table:
            document[part] = {**default, **table}
    if path is None:
        config = _config(document, "--set:", Path.cwd(), Path("runs") / "compressed", None)
    else:
        path = Path(path)
        config = _config(document, f"{path}:", path.resolve().parent, Path("runs") / path.stem, None)
    check_place(config.out)
    return _continuing(config)


def resume_config(folder: str | Path, overrides: Iterable[str] = (), *, address: str | None = None) -> Config:
    """Return how to continue the run in `folder`, with the network that it began with.

    Args:
        folder: the run's.
        overrides: "key=value".
        address: of a Ray cluster to evaluate on.

    Raises:
        RunFolderError: it is no run folder, or its search was started from Python.
        SettingsError: what it needs is no longer there.
    """
    folder = Path(folder)
    recorded = read_settings(folder)
    source = recorded.get("source")
    if source is None:
        raise RunFolderError(
            f"{folder}: was started from Python, where alone its task is known: evo.search(…, out={str(folder)!r}) "
            f"continues it, evo.Run({str(folder)!r}, task).build(id) builds its networks"
        )
    document = search_document(recorded) | {"out": str(folder)}
    _override_run(document, overrides, address)
    config = _config(document, f"{folder / SETTINGS}:", Path(source["folder"]), folder, folder / BASE)
    if config.seeds:
        raise SettingsError("--set seeds: a search that has begun keeps the seeds that it began with")
    return replace(config, seeds=None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except IsADirectoryError:
        hint = f"; to continue that run: evo resume {path}" if (path / SETTINGS).exists() else ""
        raise SettingsError(f"{path}: is a folder, expected a TOML file{hint}") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not valid TOML: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        raise SettingsError(f"{path}: not valid TOML: {message[0].lower()}{message[1:]}") from None


def _override_run(document: dict[str, Any], overrides: Iterable[str], address: str | None) -> None:
    """Set keys of a whole run.toml in place; of an evaluator that gives way to another, its own keys are left out."""
    overrides = list(overrides)
    if address is not None:
        overrides = ["evaluator.name=ray", f"evaluator.address={address}", *overrides]
    before = document.get("evaluator", {})
    now = read_overrides(overrides).get("evaluator", {})
    if isinstance(before, dict) and isinstance(now, dict):
        names = [table.get("name", DEFAULTS["evaluator"]) for table in (before, before | now)]
        if names[0] != names[1]:
            old, new = map(_keys, names)
            for key in old - new if new else ():
                before.pop(key, None)
    _override(document, overrides)


def _keys(evaluator: object) -> set[str]:
    """Return the settings of an evaluator; none if there is none of this name, as will be said."""
    try:
        return set(EVALUATORS.find(str(evaluator), "evaluator").model_fields)
    except SettingsError:
        return set()


def _override(document: dict[str, Any], overrides: Iterable[str]) -> None:
    """Set dotted keys of `document` in place."""
    for override in overrides:
        key, equals, text = override.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            raise SettingsError(f"--set {override}: expected key=value, e.g. algorithm.population=50")
        table = document
        for depth, part in enumerate(path[:-1], 1):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise SettingsError(f"--set {override}: {'.'.join(path[:depth])} is not a table")
        table[path[-1]] = _value(text)


def read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return what "key=value" texts with dotted keys say, as nested tables."""
    document: dict[str, Any] = {}
    _override(document, overrides)
    return document


def _value(text: str) -> Any:
    """Return a TOML value, or the text itself if it is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _config(document: Table, where: str, folder: Path, out: Path, base: Path | None) -> Config:
    """Check a whole document; `where` is the file's name and a colon, `folder` where modules are looked for."""
    top = RunTable.parse(document, where)
    task = TaskTable.parse(top.task, f"{where} task")
    tables = {name: getattr(top, name) for name in DEFAULTS}
    for name, table in tables.items():
        if not isinstance(table.get("name", ""), str):
            raise SettingsError(f"{where} {name}.name: {expected_name(table['name'])}")
    add_to_path([folder, Path.cwd()])
    algorithm = part_from(tables["algorithm"], f"{where} algorithm", ALGORITHMS, folder)
    fitness = fitness_from(tables["fitness"], f"{where} fitness", folder)
    try:
        algorithm.check(fitness.objectives)
    except SettingsError as error:
        raise SettingsError(f"{where} algorithm: {error}") from None
    convergence = None if top.convergence is None else Convergence.parse(top.convergence, f"{where} convergence")
    try:
        if convergence is not None:
            convergence.criteria(fitness.objectives)
    except SettingsError as error:
        raise SettingsError(f"{where} {error}") from None
    callbacks = tuple(
        callback_from(table, f"{where} callbacks[{index}]", folder) for index, table in enumerate(top.callbacks)
    )
    found = TaskSource.find(task, f"{where} task", folder, base)
    source: dict[str, Any] = {
        "folder": str(folder),
        "task": found.described(),
        "fitness": {"name": DEFAULTS["fitness"], **tables["fitness"]},
    }
    if top.callbacks:
        source["callbacks"] = top.callbacks
    finetuning = None
    if top.finetuning is not None:
        finetuning = Recipe.parse({"epochs": FINETUNING.epochs, **top.finetuning}, f"{where} finetuning")
        source["finetuning"] = finetuning.to_dict()
    return Config(
        out=Path(top.out) if top.out is not None else out,
        seed=top.seed,
        max_evaluations=top.max_evaluations,
        max_seconds=top.max_seconds,
        convergence=convergence,
        reuse=top.reuse,
        encoding=part_from(tables["encoding"], f"{where} encoding", ENCODINGS, folder),
        fitness=fitness,
        algorithm=algorithm,
        budget=None if top.budget is None else Budget.parse(top.budget, f"{where} budget"),
        evaluator=part_from(tables["evaluator"], f"{where} evaluator", EVALUATORS, folder),
        seeds=[seeds_from(table, f"{where} seeds[{index}]", folder) for index, table in enumerate(top.seeds)],
        callbacks=callbacks,
        finetuning=finetuning,
        task=found,
        source=source,
    )


def _continuing(config: Config) -> Config:
    """If the folder already holds a run of this very task, start from its network instead of training one again."""
    if not (config.out / SETTINGS).exists():
        return config
    before = read_settings(config.out).get("source", {}).get("task")
    if before is None:
        return config
    now = config.source["task"]
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise RunFolderError(
                f"{config.out}: belongs to another search (task.{key} was {before.get(key)!r}, is now {now.get(key)!r}); "
                "choose another folder"
            )
    if config.task.recipe is None:
        return config
    return replace(config, task=replace(config.task, base=config.out / BASE))
