"""The folder of a search: claimed, made, and refused if it belongs to another one."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import safetensors.torch
import tomli_w
from safetensors import SafetensorError

from evo.algorithms import ALGORITHMS, Algorithm
from evo.blueprint import Blueprint
from evo.budget import Budget
from evo.encodings.base import Encoding
from evo.encodings.registry import ENCODINGS
from evo.errors import RunFolderError, SettingsError
from evo.evaluation import EVALUATORS, Evaluator
from evo.fitness.base import Fitness
from evo.fitness.cascade import Cascade
from evo.history import History
from evo.run import BASE, HISTORY, SETTINGS, read_settings
from evo.task import Task

LOCK = ".lock"

IDENTITY = ("task", "encoding", "fitness", "algorithm", "budget", "seeds", "seeds_from", "seed", "threads")
"""The parts of run.toml that decide a search's results; a folder continues only the search it was made by."""


def describe_search(
    task: Task,
    encoding: Encoding,
    fitness: Fitness,
    algorithm: Algorithm,
    budget: Budget | None,
    evaluator: Evaluator,
    seed: int,
    source: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of run.toml but for what the search begins with: what was decided, and what it was decided on."""
    settings: dict[str, Any] = {
        "seed": seed,
        "threads": evaluator.threads,
        "rounds": algorithm.rounds,
        "task": task.describe(),
        "encoding": {"name": ENCODINGS.name_of(type(encoding)), **encoding.to_dict()},
        "fitness": fitness.describe(),
        "algorithm": {"name": ALGORITHMS.name_of(type(algorithm)), **algorithm.to_dict()},
        "evaluator": {"name": EVALUATORS.name_of(type(evaluator)), **evaluator.to_dict()},
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("evo-arch", "torch", "numpy", "deap", "ray")},
        },
        "hardware": {"host": platform.node(), "machine": platform.machine(), "processors": os.cpu_count() or 0},
    }
    if budget is not None:
        settings["budget"] = budget.to_dict()
    if source:
        settings["source"] = dict(source)
    return _without_none(settings)


def search_document(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file for `evo search` says that starts the search of these settings; it lacks where: the key `out`.

    Names of modules and files in it start at the folder `settings["source"]["folder"]`.

    Args:
        settings: content of the run's run.toml; it has a `source`.
    """
    rules = ("max_evaluations", "max_seconds", "convergence")
    kept = ("seed", *rules, "reuse", "encoding", "algorithm", "budget", "evaluator")
    source = settings["source"]
    document = {name: settings[name] for name in kept if name in settings}
    return document | {name: source[name] for name in ("task", "fitness", "callbacks", "finetuning") if name in source}


def recorded_seeds(folder: Path) -> list[Blueprint]:
    """Return the structures that the search in a folder began with; none if there is no search yet.

    Raises:
        RunFolderError: its run.toml is damaged.
    """
    if not (folder / SETTINGS).exists():
        return []
    try:
        return [Blueprint.from_json(text) for text in read_settings(folder).get("seeds", [])]
    except (SettingsError, TypeError) as error:  # the latter of what is no list
        raise RunFolderError(f"{folder / SETTINGS}: seeds: {error}") from None


def _without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what TOML has no word for: a setting that is not there has its default, None."""

    def kept(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [kept(one) for one in value]
        return _without_none(value) if isinstance(value, Mapping) else value

    return {name: kept(value) for name, value in settings.items() if value is not None}


@dataclass(frozen=True)
class Claim:
    """Who searches in a folder.

    Attributes:
        process: its process id.
        host: the machine that it runs on.
        since: when it began, or went on, in seconds since 1970.
    """

    process: int
    host: str
    since: float

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def folder_for(out: str | Path | None) -> Path:
    """Return the folder of a run: a new one under "runs", named after the time, unless the user has chosen."""
    return Path("runs") / datetime.now().strftime("%Y-%m-%d-%H%M%S") if out is None else Path(out)


def check_place(folder: Path) -> None:
    """Raise RunFolderError if no search can write in `folder`, as far as that shows before there is one."""
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if os.path.exists(place))
    if not there.is_dir():
        raise RunFolderError(f"{folder}: cannot be written ({there} is not a folder)")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunFolderError(f"{folder}: cannot be written (no permission to write in {there})")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone.

    Raises:
        RunFolderError: it cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written ({error.strerror or error})") from None
    with lock:
        if not _locked(lock, folder):
            other = _read_claim(lock)
            who = f" ({other})" if other else ""
            raise RunFolderError(f"{folder}: another search is writing here{who}; wait for it or choose another folder")
        claim = Claim(os.getpid(), platform.node(), time.time())
        try:
            lock.truncate(0)
            os.write(lock.fileno(), json.dumps(asdict(claim)).encode())
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written ({error.strerror or error})") from None
        yield


def claim_on(folder: Path) -> Claim | None:
    """Return who is searching in the folder at this moment; None if nobody is. It does not keep anybody from doing so.

    Raises:
        RunFolderError: somebody holds it who does not say so.
    """
    try:
        lock = (folder / LOCK).open()
    except OSError:
        return None
    with lock:
        for _ in range(100):
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if claim := _read_claim(lock):
                    return claim
                time.sleep(0.01)  # it is about to write it
            else:
                return None
    raise RunFolderError(f"{folder / LOCK}: locked by something that is no search")


def _locked(lock: TextIO, folder: Path) -> bool:
    """Lock the file; return whether that succeeded within a second, which outlasts every look of `claim_on`."""
    end = time.monotonic() + 1
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        except OSError as error:
            raise RunFolderError(
                f"{folder}: cannot be locked ({error.strerror or error}); choose a folder on another file system"
            ) from None


def _read_claim(lock: TextIO) -> Claim | None:
    """Return what the holder wrote; None in the moment before it has."""
    lock.seek(0)
    try:
        return Claim(**json.loads(lock.read()))
    except (ValueError, TypeError):
        return None


def check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise RunFolderError if the folder holds a search, and not the one of these settings (see `describe_search`)."""
    if (folder / SETTINGS).exists():
        difference = next(_differences(read_settings(folder), settings), None)
        if difference is not None:
            raise RunFolderError(f"{folder}: belongs to another search ({difference}); choose another folder")


def open_history(folder: Path, task: Task, fitness: Fitness, settings: dict[str, Any]) -> History:
    """Make the run folder, or check that the one that is there was made by the same search; return its history.

    Raises:
        RunFolderError: it belongs to another search, is damaged, or cannot be written.
    """
    path = folder / HISTORY
    check_same(folder, settings)
    if (folder / SETTINGS).exists():
        return History(path)
    if History.begun(path):
        raise RunFolderError(f"{folder}: holds a history without {SETTINGS}; choose another folder")
    try:
        for name in (HISTORY, HISTORY + "-wal", HISTORY + "-shm"):
            (folder / name).unlink(missing_ok=True)  # of a search that was killed at this point
    except OSError as error:
        raise RunFolderError(f"{folder / name}: cannot be replaced ({error.strerror or error})") from error
    history = History(path, create=[objective.name for objective in fitness.objectives])
    try:
        _describe(folder, history, task, fitness, settings)
    except BaseException as error:
        history.close()
        if isinstance(error, OSError | SafetensorError):
            raise RunFolderError(f"{folder}: cannot be written ({error}); free some space, and search again") from error
        raise
    return history


def _describe(folder: Path, history: History, task: Task, fitness: Fitness, settings: dict[str, Any]) -> None:
    """Write what a search decides and what it starts from; a folder with run.toml is complete."""
    groups = [(group.name, group.size) for group in task.network.groups]
    objectives = [(objective.name, objective.maximize) for objective in fitness.objectives]
    fidelities = [
        (str(fidelity.describe()["name"]), fidelity.objectives[0].name, fidelity.objectives[0].maximize)
        for fidelity in (fitness.fidelities if isinstance(fitness, Cascade) else (fitness,))
    ]
    images = {name: len(part) for name, part in vars(task).items() if name in ("train", "val", "test") and part}
    described = {"objectives": objectives, "fidelities": fidelities, "groups": groups, "images": images}
    history.set_meta("run", {**described, "costs": task.network.costs.to_dict()})
    safetensors.torch.save_file(task.network.tensors(), folder / BASE)
    part = folder / (SETTINGS + ".part")
    part.write_text(tomli_w.dumps(settings))
    part.replace(folder / SETTINGS)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Say where two settings of a search disagree in what decides its results."""
    for part in IDENTITY:
        before, now = old.get(part), new.get(part)
        if not isinstance(before, Mapping) or not isinstance(now, Mapping):
            if part == "seeds" and before != now:
                yield f"it began with {len(before or ())} seeds, not with these {len(now or ())}"
            elif before != now:
                yield f"{part} was {before!r}, is now {now!r}"
            continue
        for name in sorted({*before, *now}, key=lambda name: (name != "name", name)):  # another part has other settings
            if before.get(name) != now.get(name):
                yield f"{part}.{name} was {before.get(name)!r}, is now {now.get(name)!r}"
