"""A run: the folder a search writes, and what can be asked of it afterwards."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from evo.blueprint import FULL_BITS, Blueprint
from evo.budget import Budget, Limits
from evo.columns import Column, described
from evo.convergence import convergence
from evo.errors import RunFolderError
from evo.fidelities import fidelity_table
from evo.fitness.base import Objective
from evo.front import Box, Criteria, Values, non_dominated, trade_off
from evo.history import History
from evo.network import COSTS, CostModel, Network
from evo.network.costs import UNITS
from evo.network.origin import annotate
from evo.stopping import Stop
from evo.task import Task

if TYPE_CHECKING:
    from evo.report.accessor import RunPlots

HISTORY = "history.sqlite"
SETTINGS = "run.toml"
BASE = "base.safetensors"


class Run:
    """A finished, interrupted or running search, read from its folder; opening one executes nothing from it.

    Attributes:
        folder: where it is.
        settings: the complete settings, versions and hardware it was made with.
        objectives: names and directions; the first is what `best` goes by.
        groups: the original's coupling groups: their channels by their names, in module order.
        images: how many there are for training, validation and, if any, test, by the names of `Task`.
        task: network and data, if it was opened with them.
    """

    def __init__(self, folder: str | Path, task: Task | None = None) -> None:
        """Open a run folder; `task` is needed only by `build`.

        Raises:
            RunFolderError: this is not a run folder, or it is damaged.
        """
        self.folder = Path(folder)
        self.settings = read_settings(self.folder)
        self.task = task
        self._history = History(self.folder / HISTORY)
        described = self._history.meta("run")
        if described is None:
            raise RunFolderError(f"{self.folder}: the history lacks its description; the search never started")
        self.objectives = tuple(Objective(name, maximize) for name, maximize in described["objectives"])
        self._fidelities = [(name, Objective(first, maximize)) for name, first, maximize in described["fidelities"]]
        self.groups: dict[str, int] = dict(described["groups"])
        self.images: dict[str, int] = described["images"]
        self.costs = CostModel.from_dict(described["costs"])
        self._layers = [layer.name for layer in self.costs.layers]

    @property
    def history(self) -> pd.DataFrame:
        """One row per individual that the algorithm proposed, failures included, indexed by its id; a copy, read anew.

        Columns: those of `evo.history.COLUMNS`, every cost (`evo.network.COSTS`), every objective. What each means, and its
        unit, is in `history.attrs["columns"]`, of every table of a run alike.
        """
        frame = self._history.frame()
        for objective in self.objectives:
            meaning = COSTS.get(objective.name, "objective; empty unless ok")
            direction = "maximised" if objective.maximize else "minimised"
            described(
                frame, {objective.name: Column(f"{meaning}; {direction}", "float64", UNITS.get(objective.name, ""))}
            )
        return frame

    @property
    def generations(self) -> pd.DataFrame:
        """One row per finished generation: counts, and mean, std, min and max of the first objective.

        Columns: `evo.history.GENERATIONS`.
        """
        return self._history.generations()

    @property
    def screenings(self) -> pd.DataFrame:
        """One row per evaluation by a fidelity before the last of a cascade; columns as in `evo.history.SCREENINGS`."""
        return self._history.screenings()

    @property
    def fidelities(self) -> pd.DataFrame:
        """What every fidelity of a cascade took and was good for; of any other fitness one row: see `evo.fidelities`."""
        return fidelity_table(self._fidelities, self.history, self.screenings)

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
        return self.ranked().iloc[0]

    def ranked(self) -> pd.DataFrame:
        """Return the rows of all measured structures, those with the best first objective first, of equal ones the oldest.

        Raises:
            RunFolderError: nothing has succeeded yet.
        """
        first = self.objectives[0]
        return self._measured().sort_values(first.name, ascending=not first.maximize, kind="stable")

    @property
    def stopped(self) -> Stop | None:
        """Why the search stopped before its last generation; None if it finished, goes on or was interrupted."""
        found = self._history.meta("stop")
        return None if found is None else Stop(**found)

    def pareto(self, objectives: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows that no other row beats in every objective, each structure once, sorted by the first objective.

        Args:
            objectives: names of objectives or costs, default all objectives; costs are minimised.

        Raises:
            SettingsError: an unknown name.
            RunFolderError: nothing has succeeded yet.
        """
        criteria, frame = Criteria.choose(self.objectives, objectives), self._measured()
        front = frame[non_dominated(criteria.minimised(frame[criteria.names].to_numpy(dtype=float)))]
        return front.sort_values(criteria.names, ascending=[not entry.maximize for entry in criteria.chosen])

    @property
    def trade_off(self) -> list[str]:
        """What pictures, tables and comparisons weigh unless told otherwise, see `evo.front.trade_off`."""
        return trade_off(self.objectives)

    def maximized(self, names: str | Sequence[str]) -> dict[str, bool]:
        """Return for objectives or costs by name whether more is better; of costs, less is.

        Raises:
            SettingsError: an unknown name, one that is there twice, or none at all.
        """
        return Criteria.choose(self.objectives, names).maximized

    def hypervolume(
        self,
        objectives: str | Sequence[str] | None = None,
        reference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
    ) -> float:
        """Return how much of the space of objectives the front dominates: a share, larger is better.

        The space is the box between a worst and a best point. A cost that is minimised reaches from what the original
        network has to 0; any other objective from the worst that this run has measured to the best. So the default is for
        one run; to compare runs use `evo.compare`, or give both points, or at least those of the objectives that are no
        costs.

        Args:
            objectives: names of objectives or costs, of which the latter are minimised; default all objectives or, if they
                are more than four, `trade_off`: what it takes grows exponentially with them.
            reference: by name, the worst value that counts: what is not better adds nothing.
            ideal: by name, the best value; the share exceeds 1 if it is beaten.

        Raises:
            SettingsError: an unknown name, or a value that is no finite number.
            RunFolderError: nothing has succeeded yet.
        """
        _, values, box = self._boxed(self.history, objectives, reference, ideal)
        return box.hypervolume(values)

    def convergence(
        self,
        objectives: str | Sequence[str] | None = None,
        reference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
    ) -> pd.DataFrame:
        """Return what the search had found by every evaluation: the best of every objective, and the hypervolume.

        Columns as in `evo.convergence.CONVERGENCE`. The last row of a generation says how that ended:
        `run.convergence().groupby("generation").last()`.

        Args and Raises: see `hypervolume`.
        """
        history = self.history
        criteria, _, box = self._boxed(history, objectives, reference, ideal)
        return convergence(history, criteria, box)

    @cached_property
    def plot(self) -> "RunPlots":
        """Pictures of the run, `run.plot.front()` and others; matplotlib is imported when this is first used."""
        # By its name, as pandas does with its plots: nothing that can be drawn depends on what draws it.
        return cast("RunPlots", import_module("evo.report.accessor").RunPlots(self))

    def _boxed(
        self,
        history: pd.DataFrame,
        objectives: str | Sequence[str] | None,
        reference: Mapping[str, float] | None,
        ideal: Mapping[str, float] | None,
    ) -> tuple[Criteria, Values, Box]:
        """Return what a hypervolume is taken of, what was measured of it, minimised, and the box to see it in."""
        criteria = Criteria.of_volume(self.objectives, objectives)
        values = criteria.minimised(self._succeeded(history)[criteria.names].to_numpy(dtype=float))
        original = {name: int(value) for name, value in self.costs.costs(self.costs.sizes).items()}
        return criteria, values, criteria.box(values, original, reference, ideal)

    def _measured(self) -> pd.DataFrame:
        return self._succeeded(self.history)

    def _succeeded(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return those rows of the history whose own evaluation succeeded."""
        frame = frame[(frame["status"] == "ok") & ~frame["cached"]]
        if frame.empty:
            raise RunFolderError(f"{self.folder}: no evaluation has succeeded yet")
        return frame

    def blueprint(self, row: int) -> Blueprint:
        """Return the structure of the individual with this id."""
        return unpack_structure(self._history.blob(int(row), "structure"), list(self.groups.items()), self._layers)

    def counts(self, row: int) -> NDArray[np.int64]:
        """Return kept channels per coupling group, in module order."""
        kept = self.blueprint(row).counts
        return np.array([kept[name] for name in self.groups], dtype=np.int64)

    def structures(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what all individuals are made of, in the order of their ids.

        Returns:
            kept channels of every coupling group, shape (N, G), and weight bits of every layer of `costs`, shape (N, L).
        """
        sizes, counts, bits = list(self.groups.values()), [], []
        for block in self._history.structures():
            kept, depth = count_structures(block, sizes, len(self._layers))
            counts.append(kept)
            bits.append(depth)
        if not counts:
            return np.empty((0, len(sizes)), np.int64), np.empty((0, len(self._layers)), np.int64)
        return np.concatenate(counts), np.concatenate(bits)

    def layers(self, row: int) -> pd.DataFrame:
        """Return ECS's table for an individual: a row per layer and "total"; columns as in `evo.network.costs.LAYERS`."""
        bits = self.blueprint(row).bits
        return self.costs.table(self.counts(row), self.costs.bits_of(bits) if bits else None)

    def build(self, row: int) -> nn.Module:
        """Return the network of an individual with the original's weights, quantised if it has bits, not fine-tuned.

        Raises:
            RunFolderError: the run was opened without a task, or with another one.
        """
        return annotate(self.network.build(self.blueprint(row)), **self.provenance(row))

    @property
    def network(self) -> Network:
        """The original network, of the task that the run was opened with.

        Raises:
            RunFolderError: it was opened without.
        """
        if self.task is None:
            raise RunFolderError(f"{self.folder}: to build a network, open the run with its task: Run(folder, task)")
        return self.task.network

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


def count_structures(
    packed: Sequence[bytes], sizes: Sequence[int], layers: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return kept channels, shape (N, G), and bits, shape (N, L), of N structures that `pack_structure` packed."""
    bounds = np.cumsum([0, *sizes])
    length = -(-int(bounds[-1]) // 8)
    masks = np.frombuffer(b"".join(entry[:length] for entry in packed), np.uint8).reshape(len(packed), length)
    kept = np.unpackbits(masks, axis=1, count=int(bounds[-1]))
    bits = np.full((len(packed), layers), FULL_BITS, dtype=np.int64)
    for row, entry in zip(bits, packed, strict=True):
        if len(entry) > length:
            row[:] = np.frombuffer(entry[length:], np.uint8)
    return np.add.reduceat(kept, bounds[:-1], axis=1, dtype=np.int64), bits
