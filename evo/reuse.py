"""Runs beside this one that judge candidates the same way: what one has measured, the others need not measure again."""

import functools
import hashlib
import json
import platform
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import evo.encodings
from evo.errors import RunFolderError
from evo.fitness import base
from evo.fitness.base import Fitness, FunctionFitness
from evo.fitness.cascade import Cascade
from evo.glance import has_log
from evo.history import History
from evo.records import Result
from evo.run import HISTORY, SETTINGS
from evo.task import Task

RESCAN = 30.0
"""Seconds between looks for runs that have been added."""

MOST = 20
"""Runs that are asked at most, the latest first."""

_NO_ROW = 2**62
_SIGNATURES = "evaluations"


def identity(settings: Mapping[str, Any], task: Task, fitness: Fitness) -> str:
    """Return a hexadecimal hash of everything that an evaluation depends on besides the structure.

    That is: weights, forward pass, data, the fitness's settings and version, the seed, the number of threads, and evo's own
    source code, torch's version and the kind of machine. Two runs of which all this is equal get the same result for the same
    structure. "" if it cannot be told: the fitness measures what is never the same twice (`Fitness.repeatable`), or it is not
    evo's own and has no `version`.

    A cascade has the identity of its last fidelity: what comes that far gets the result that it gets in a search by that
    alone. The earlier fidelities are no part of it, and are measured in every run anew.

    Args:
        settings: the content of run.toml.
        task, fitness: what it describes.
    """
    judge = settings["fitness"]
    if isinstance(fitness, Cascade):
        fitness, judge = fitness.fidelities[-1], judge["fidelities"][-1]
    kind = type(fitness)
    built_in = kind.__module__.startswith("evo.fitness.") and kind is not FunctionFitness
    if not fitness.repeatable or (fitness.version is None and not built_in):
        return ""
    parts = {
        **{name: settings[name] for name in ("task", "seed", "threads")},
        "fitness": judge,
        "program": task.network.program,
        "version": fitness.version,
        "evo": digest_of_evo(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:32]


@functools.cache
def digest_of_evo() -> str:
    """Return a hexadecimal hash of evo's own source code."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, *map(Path, evo.encodings.__path__), Path(base.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


class Peers:
    """The run folders beside one whose evaluations have the same identity; they may be running."""

    def __init__(self, folder: Path, identity: str, *, ask: bool = True) -> None:
        """Look for peers of the run in `folder`; without an identity there are none, and unless `ask` nothing is taken."""
        self._folder = folder.absolute()
        self._identity = identity
        self._asking = ask and bool(identity)
        self._signed = False
        self._seen: set[Path] = {self._folder}
        self._peers: dict[str, _Peer] = {}
        self._scanned = float("-inf")

    def sign(self, history: History) -> None:
        """Note, before the first result is written, how results come about from now on.

        Of a run that has seen several ways, no peer takes any.
        """
        if not self._signed:
            signatures = history.meta(_SIGNATURES) or []
            if self._identity not in signatures:
                history.set_meta(_SIGNATURES, [*signatures, self._identity])
            self._signed = True

    def find(self, keys: Sequence[str]) -> Mapping[str, Result]:
        """Return, by structure, what peers have measured of `keys`; failures do not count, they may be of a machine."""
        found: dict[str, Result] = {}
        if self._asking and keys:
            self._scan()
            for name in list(self._peers):
                missing = [key for key in keys if key not in found]
                found |= self._ask(name, missing) if missing else {}
        return found

    def _ask(self, name: str, keys: Sequence[str]) -> dict[str, Result]:
        try:
            history = self._peers[name].history()
            results = history.results(keys, before=_NO_ROW)
            # Afterwards, since a run signs before it writes: meanwhile it may have been continued, or made anew.
            if history.meta(_SIGNATURES) != [self._identity]:
                raise RunFolderError(f"{name} measures something else now")
        except (OSError, sqlite3.Error, RunFolderError):  # damaged, or deleted: as if it were not there
            self._peers.pop(name).close()
            return {}
        return {key: replace(one, reused=one.reused or name) for key, one in results.items() if one.status == "ok"}

    def _scan(self) -> None:
        if time.monotonic() - self._scanned < RESCAN:
            return
        self._scanned = time.monotonic()
        dated = []
        for path in self._folder.parent.glob(f"*/{SETTINGS}"):
            with suppress(OSError):  # deleted at this moment
                dated.append((path.stat().st_mtime, path))
        for _, path in sorted(dated, reverse=True):
            if path.parent in self._seen:
                continue
            if len(self._peers) >= MOST:
                return
            peer = _Peer(path.parent / HISTORY)
            with suppress(OSError, sqlite3.Error, RunFolderError):
                if signatures := peer.history().meta(_SIGNATURES):
                    self._seen.add(path.parent)
                    if signatures == [self._identity]:
                        self._peers[path.parent.name] = peer
                        continue
            peer.close()

    def close(self) -> None:
        """Close their histories."""
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()


class _Peer:
    """The history of one of them, opened again whenever somebody has begun or ended to write it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[bool, int, int] | None = None
        self._history: History | None = None

    def history(self) -> History:
        found = self._path.stat()
        stamp = (has_log(self._path), found.st_mtime_ns, found.st_size)
        if self._history is None or stamp != self._stamp:
            self.close()
            self._history, self._stamp = History(self._path, readonly=True), stamp
        return self._history

    def close(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None
