"""A run: the folder a search writes, and what can be asked of it afterwards."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from evo.blueprint import FULL_BITS, Blueprint
from evo.budget import Budget, Limits
from evo.errors import RunFolderError, SettingsError, unknown_name
from evo.fitness.base import Objective
from evo.history import History
from evo.network import COSTS, CostModel
from evo.network.origin import annotate
from evo.task import Task

HISTORY = "history.sqlite"
SETTINGS = "run.toml"
BASE = "base.safetensors"


class Run:
    """A finished, interrupted or running search, read from its folder; opening one executes nothing from it.

    Attributes:
        folder: where it is.
        settings: the complete settings, versions and hardware it was made with.
        objectives: names and directions; the first is what `best` goes by.
    """

    def __init__(self, folder: str | Path, task: Task | None = None) -> None:
        """Open a run folder; `task` is needed only by `build`.

        Raises:
            RunFolderError: this is not a run folder, or it is damaged.
        """
        self.folder = Path(folder)
        self.settings = read_settings(self.folder)
        self._task = task
        self._history = History(self.folder / HISTORY)
        described = self._history.meta("run")
        if described is None:
            raise RunFolderError(f"{self.folder}: the history lacks its description; the search never started")
        self.objectives = tuple(Objective(name, maximize) for name, maximize in described["objectives"])
        self._groups: list[tuple[str, int]] = [(name, size) for name, size in described["groups"]]
        self.costs = CostModel.from_dict(described["costs"])
        self._layers = [layer.name for layer in self.costs.layers]

    @property
    def history(self) -> pd.DataFrame:
        """One row per individual that the algorithm proposed, failures included; columns as in `evo.history.COLUMNS`.

        Besides those: every cost (`evo.network.COSTS`) and every objective.
        """
        return self._history.frame()

    @property
    def generations(self) -> pd.DataFrame:
        """One row per finished generation: counts, and mean, std, min and max of the first objective.

        Counts are individuals `asked` for, `evaluated`, `failed` and `cached`; with a budget, genomes `drawn` to get them
        and `rejected` because they exceed it; of FGA, `duplicates`, draws that repeat an earlier genome.
        """
        return self._history.generations()

    @property
    def limits(self) -> Limits | None:
        """What no candidate exceeds, in numbers; None if the search had no budget."""
        budget = self.settings.get("budget")
        return None if budget is None else Budget.parse(budget, f"{self.folder / SETTINGS}: budget").bind(self.costs)

    @property
    def best(self) -> "pd.Series[Any]":
        """The row with the best first objective; its `name` is the id.

        Raises:
            RunFolderError: nothing has succeeded yet.
        """
        first = self.objectives[0]
        frame = self._measured()
        return frame.iloc[int((frame[first.name] * first.weight).argmax())]

    def pareto(self, objectives: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows that no other row beats in every objective, each structure once, sorted by the first objective.

        Args:
            objectives: names of objectives or costs, default all objectives; costs are minimised.

        Raises:
            SettingsError: an unknown name.
            RunFolderError: nothing has succeeded yet.
        """
        directions = dict.fromkeys(COSTS, False) | {entry.name: entry.maximize for entry in self.objectives}
        if objectives is None:
            names = [objective.name for objective in self.objectives]
        else:
            names = [objectives] if isinstance(objectives, str) else list(objectives)
        for name in names:
            if name not in directions:
                raise SettingsError(unknown_name("objective", name, directions))
        frame = self._measured()
        values = frame[names].to_numpy(dtype=float) * [-1.0 if directions[name] else 1.0 for name in names]
        front = frame[non_dominated(values)]
        return front.sort_values(names, ascending=[not directions[name] for name in names])

    def _measured(self) -> pd.DataFrame:
        frame = self.history
        frame = frame[(frame["status"] == "ok") & ~frame["cached"]]
        if frame.empty:
            raise RunFolderError(f"{self.folder}: no evaluation has succeeded yet")
        return frame

    def blueprint(self, row: int) -> Blueprint:
        """Return the structure of the individual with this id."""
        return unpack_structure(self._history.blob(int(row), "structure"), self._groups, self._layers)

    def counts(self, row: int) -> NDArray[np.int64]:
        """Return kept channels per coupling group, in module order."""
        kept = self.blueprint(row).counts
        return np.array([kept[name] for name, _ in self._groups], dtype=np.int64)

    def layers(self, row: int) -> pd.DataFrame:
        """Return ECS's table for an individual, with the bits of its layers if any is quantised: see `CostModel.table`."""
        bits = self.blueprint(row).bits
        return self.costs.table(self.counts(row), self.costs.bits_of(bits) if bits else None)

    def build(self, row: int) -> nn.Module:
        """Return the network of an individual with the original's weights, quantised if it has bits, not fine-tuned.

        Raises:
            RunFolderError: the run was opened without a task, or with another one.
        """
        if self._task is None:
            raise RunFolderError(f"{self.folder}: to build a network, open the run with its task: Run(folder, task)")
        return annotate(self._task.network.build(self.blueprint(row)), **self.provenance(row))

    def provenance(self, row: int) -> dict[str, Any]:
        """Return what the file of an individual's network should say about where it comes from, as plain values."""
        record = self.history.loc[row].to_dict()
        facts: dict[str, Any] = {
            "run": self.folder.resolve().name,
            "id": int(row),  # an index of pandas gives NumPy numbers, which JSON does not know
            "seed": int(self.settings["seed"]),
            "original": self.settings["task"]["network"],
        }
        if record["status"] == "ok":
            facts["objectives"] = {objective.name: float(record[objective.name]) for objective in self.objectives}
        if "source" in self.settings:
            facts["model"] = self.settings["source"]["task"]["model"]
        return facts

    def close(self) -> None:
        """Close the history file."""
        self._history.close()


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's run.toml.

    Raises:
        RunFolderError: there is none, or it is not TOML.
    """
    path = folder / SETTINGS
    try:
        return tomllib.loads(path.read_text())
    except OSError:
        raise RunFolderError(f"{folder}: not a run folder, it has no {SETTINGS}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path}: damaged ({error})") from None


def pack_structure(blueprint: Blueprint, groups: Sequence[tuple[str, int]], layers: Sequence[str]) -> bytes:
    """Return the keep masks of all groups, one after the other, eight to a byte, and after them a byte per layer with its
    bits, if any layer is quantised; all of those are among `layers`.
    """
    masks = np.packbits(np.concatenate([blueprint.masks[name] for name, _ in groups])).tobytes()
    if not blueprint.layer_bits:
        return masks
    return masks + bytes(blueprint.bits.get(name, FULL_BITS) for name in layers)


def unpack_structure(packed: bytes, groups: Sequence[tuple[str, int]], layers: Sequence[str]) -> Blueprint:
    """Return the blueprint that `pack_structure` packed."""
    bounds = np.cumsum([0, *(size for _, size in groups)])
    length = -(-int(bounds[-1]) // 8)
    kept = np.unpackbits(np.frombuffer(packed[:length], np.uint8), count=int(bounds[-1])).astype(bool)
    blueprint = Blueprint.from_masks(
        {name: kept[start:stop] for (name, _), start, stop in zip(groups, bounds[:-1], bounds[1:], strict=True)}
    )
    return blueprint.with_bits(dict(zip(layers, packed[length:], strict=True))) if packed[length:] else blueprint


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows of `values`, shape (N, M), all minimised, no other row dominates; equal rows all stay."""
    order = np.lexsort(values.T[::-1])
    ranked = values[order]
    kept = np.ones(len(values), dtype=bool)
    for index in range(len(ranked)):
        if kept[index]:
            # Only later rows can be dominated by this one: the order is lexicographic.
            later = ranked[index + 1 :]
            worse = (later >= ranked[index]).all(1) & (later > ranked[index]).any(1)
            kept[index + 1 :] &= ~worse
    result = np.empty(len(values), dtype=bool)
    result[order] = kept
    return result
