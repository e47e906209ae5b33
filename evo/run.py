"""A run: the folder a search writes, and what can be asked of it afterwards."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from evo.blueprint import FULL_BITS, Blueprint
from evo.budget import Budget, Limits
from evo.errors import RunFolderError
from evo.fitness.base import Objective
from evo.front import Box, Criteria, Values, non_dominated
from evo.history import History
from evo.network import CostModel
from evo.network.origin import annotate
from evo.stopping import Stop
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

    def hypervolume(
        self,
        objectives: str | Sequence[str] | None = None,
        reference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
    ) -> float:
        """Return how much of the space of objectives the front dominates: a share, larger is better.

        The space is the box between a worst and a best point. A cost that is minimised reaches from what the original
        network has to 0; any other objective from the worst that this run has measured to the best. So the default is for
        one run; to compare runs, give both points, or at least those of the objectives that are no costs.

        Args:
            objectives: names of objectives or costs, of which the latter are minimised; default all objectives or, if they
                are more than four, `error` (else the first) and `params`: what it takes grows exponentially with them.
            reference: by name, the worst value that counts: what is not better adds nothing.
            ideal: by name, the best value; the share exceeds 1 if it is beaten.

        Raises:
            SettingsError: an unknown name, or a value that is no finite number.
            RunFolderError: nothing has succeeded yet.
        """
        _, values, box = self._boxed(objectives, reference, ideal)
        return box.hypervolume(values)

    def hypervolumes(
        self,
        objectives: str | Sequence[str] | None = None,
        reference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
    ) -> pd.DataFrame:
        """Return how the front grew: a row per evaluation that succeeded, by id, in the order that the search learned them.

        Columns: `evaluations`, how many had been done by then, failures included; `generation` of the individual;
        `hypervolume` of the front as it was then, in the box of `hypervolume` for the whole run; `front`, rows on that
        front. It is the last row of a generation that says how this ended: `hypervolumes().groupby("generation").last()`.

        Args and Raises: see `hypervolume`.
        """
        frame, values, box = self._boxed(objectives, reference, ideal)
        archive = box.archive()
        rows = []
        for point in box.scaled(values):
            archive.add(point)
            rows.append((archive.hypervolume, len(archive.values)))
        grown = pd.DataFrame(rows, columns=["hypervolume", "front"], index=frame.index)
        return frame[["evaluations", "generation"]].join(grown)

    def _boxed(
        self,
        objectives: str | Sequence[str] | None,
        reference: Mapping[str, float] | None,
        ideal: Mapping[str, float] | None,
    ) -> tuple[pd.DataFrame, Values, Box]:
        """Return the measured rows in the order learned, their values, all minimised, and the box to see them in."""
        criteria = Criteria.of_volume(self.objectives, objectives)
        frame = self.history
        frame = frame[~frame["cached"]].sort_values("turn", kind="stable")  # by id, if not asynchronous
        frame = self._succeeded(frame.assign(evaluations=range(1, len(frame) + 1)))
        values = criteria.minimised(frame[criteria.names].to_numpy(dtype=float))
        original = {name: int(cost) for name, cost in self.costs.costs(self.costs.sizes).items()}
        return frame, values, criteria.box(values, original, reference, ideal)

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
            "id": row,
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
