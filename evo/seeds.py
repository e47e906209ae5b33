"""What a search can begin with: structures that the importance of filters, or an earlier run, suggests.

`evo.search(…, seeds=[…])` takes any of these, and structures of your own: `FromImportanceMatrix` (widths by FNP's
preprocessing), `FromOCNNA` (filters by their feature maps), `FromMagnitude` (filters by their weights), `FromRun` (the front or
the best of an earlier search). The search gives them its budget and its encoding: what they make is within both.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BeforeValidator, Field

from evo.blueprint import Blueprint
from evo.encodings.channel_vector import DEFAULT_LAM
from evo.encodings.channels import Free, MinChannels, Select
from evo.errors import RunFolderError, SettingsError
from evo.importance import FilterSelection, ImportanceMatrix, criterion, magnitude, ocnna_scores, structures
from evo.importance.filters import FloatArray, free_groups
from evo.importance.magnitude import l1, l2
from evo.importance.norm_scale import bn_scale
from evo.importance.ocnna import IMAGES, VARIANCE, Map, check_measurement, one_by_one
from evo.importance.percentiles import Scope, largest
from evo.network import CouplingGroup, Network
from evo.plugins import Registry, subclass_of
from evo.run import Run
from evo.settings import Settings
from evo.task import Task

Fits = Callable[[Blueprint], bool]
"""Tells whether a structure is within the budget of a search; who fits with more channels also fits with fewer."""

NORMS: dict[str, Callable[[Network, CouplingGroup], FloatArray]] = {"l1": l1, "l2": l2, "bn_scale": bn_scale}
"""Scores of a group's channels by the size of their weights."""

Share = Annotated[float, Field(ge=0, lt=1)]
ScopeField = Annotated[
    Scope,
    Field(
        description="what is compared: the filters of every `layer` by themselves, or those of all layers that may shrink "
        "(`global`), each relative to the mean of its layer"
    ),
]


def anything(structure: Blueprint) -> bool:
    """Tell that a structure is within the budget: there is none."""
    return True


class SeedSource(Settings, ABC):
    """Settings of where structures to begin a search with come from."""

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raise EvoError if no structures for this task can be made; it costs little."""

    @abstractmethod
    def structures(
        self, task: Task, *, fits: Fits = anything, seed: int = 0, map_items: Map = one_by_one
    ) -> list[Blueprint]:
        """Return structures of the task's network that fit.

        Args:
            task: network and data.
            fits: tells of a structure whether it may cost what it does.
            seed: of everything random.
            map_items: where work is done, `evaluator.map`.

        Raises:
            EvoError: none can be made.
        """


class FromImportanceMatrix(SeedSource):
    """The widths that FNP's importance matrix leaves for every γ: where a γ leaves more than the budget, the smallest γ that
    meets it takes its place.
    """

    gammas: Annotated[
        tuple[Share, ...], Field(min_length=1, description="γ: shares of all weights that fall, each in [0, 1)")
    ] = (0.3, 0.5, 0.7)
    lam: Annotated[
        float, Field(ge=0, description="λ: how much more readily weights of expensive layers fall, see channel_vector")
    ] = DEFAULT_LAM
    select: Select = "knn"
    free: Free = ("*",)
    min_channels: MinChannels = 1

    def check(self, task: Task) -> None:
        """Raise SettingsError if a pattern of `free` matches no group."""
        free_groups(task.network, self.free)

    def structures(
        self, task: Task, *, fits: Fits = anything, seed: int = 0, map_items: Map = one_by_one
    ) -> list[Blueprint]:
        """Return a structure per γ; `select` chooses the filters."""
        matrix = ImportanceMatrix(task.network, self.lam, self.free, self.min_channels)
        filters = FilterSelection(task.network, self.select, seed, samples=task.train)

        def cut(counts: NDArray[np.int64]) -> Blueprint:
            return Blueprint.from_masks(filters.masks(counts))

        def widest() -> Blueprint | None:
            found = matrix.fitting(lambda counts: fits(cut(counts)))
            return None if found is None else cut(found[1])

        return _within([cut(matrix.counts(gamma)) for gamma in self.gammas], fits, widest)


class FromOCNNA(SeedSource):
    """The filters whose importance by OCNNA is at or above every percentile k: where a percentile leaves more than the
    budget, the lowest that meets it takes its place.
    """

    k: Annotated[
        tuple[Annotated[float, Field(ge=0, le=100)], ...],
        Field(min_length=1, description="percentiles of the filters that go, each in [0, 100]"),
    ] = (20.0, 40.0, 60.0)
    images: Annotated[int, Field(ge=2, description="training images whose feature maps are looked at")] = IMAGES
    variance: Annotated[
        float, Field(gt=0, le=1, description="share of a feature map's variance that its components hold")
    ] = VARIANCE
    scope: ScopeField = "layer"
    free: Free = ("*",)

    def check(self, task: Task) -> None:
        """Raise SettingsError if a pattern of `free` matches no group, or there are too few images."""
        free_groups(task.network, self.free)
        check_measurement(task.train, self.images, self.variance)

    def structures(
        self, task: Task, *, fits: Fits = anything, seed: int = 0, map_items: Map = one_by_one
    ) -> list[Blueprint]:
        """Return a structure per percentile."""
        scores = ocnna_scores(
            task.network, task.train, images=self.images, variance=self.variance, seed=seed, map_items=map_items
        )
        return _by_percentile(task.network, scores, self.k, fits, self.free, self.scope)


class FromMagnitude(SeedSource):
    """The filters with the largest weights at every pruning ratio: where a ratio leaves more than the budget, the smallest
    that meets it takes its place.
    """

    ratios: Annotated[
        tuple[Share, ...], Field(min_length=1, description="shares of the filters that go, each in [0, 1)")
    ] = (0.3, 0.5, 0.7)
    norm: Annotated[
        Literal["l1", "l2", "bn_scale"],
        Field(description="of the filters' weights: L1 or L2; or |γ| of batch normalisation, `bn_scale`"),
    ] = "l1"
    scope: ScopeField = "layer"
    free: Free = ("*",)

    def check(self, task: Task) -> None:
        """Raise EvoError if a pattern of `free` matches no group, or a group has no batch normalisation to go by."""
        self._scores(task.network)

    def structures(
        self, task: Task, *, fits: Fits = anything, seed: int = 0, map_items: Map = one_by_one
    ) -> list[Blueprint]:
        """Return a structure per ratio."""
        percentiles = [100 * ratio for ratio in self.ratios]
        return _by_percentile(task.network, self._scores(task.network), percentiles, fits, self.free, self.scope)

    def _scores(self, network: Network) -> dict[str, FloatArray]:
        shrinks = free_groups(network, self.free).tolist()
        return {
            group.name: NORMS[self.norm](network, group)
            for group, free in zip(network.groups, shrinks, strict=True)
            if free
        }


class FromRun(SeedSource):
    """The front or the best of another search of the same network, whatever its encoding, objectives and budget are.

    Its weights may be others, but not the channels of its coupling groups.
    """

    folder: Annotated[
        str,
        BeforeValidator(lambda folder: os.fspath(folder) if isinstance(folder, os.PathLike) else folder),
        Field(min_length=1, description="of the run"),
    ]
    most: Annotated[int, Field(ge=1, description="structures to take at most")] = 10
    take: Annotated[
        Literal["front", "best"],
        Field(description="which: of the `front`, evenly along their size, or the `best` by the run's first objective"),
    ] = "front"
    objectives: Annotated[
        tuple[str, ...] | None,
        Field(
            min_length=1,
            description="objectives and costs that the front is of; default what `evo front` shows",
        ),
    ] = None
    shrink: Annotated[
        bool,
        Field(
            description="whether those that exceed the budget lose filters, the same share of every layer, those with the "
            "smallest weights, until they do not; else they are left out"
        ),
    ] = False

    def check(self, task: Task) -> None:
        """Raise EvoError if there is no such run, it has measured nothing, or its network has other channels."""
        with closing(Run(self.folder)) as run:
            self._rows(run, task.network)

    def structures(
        self, task: Task, *, fits: Fits = anything, seed: int = 0, map_items: Map = one_by_one
    ) -> list[Blueprint]:
        """Return at most `most` structures of the run.

        Raises:
            SettingsError: none fits.
        """
        found: list[Blueprint] = []
        with closing(Run(self.folder)) as run:
            rows = self._rows(run, task.network)
            for row in rows:
                structure: Blueprint | None = run.blueprint(row)
                assert structure is not None
                if not fits(structure):
                    structure = shrunk(task.network, structure, fits) if self.shrink else None
                if structure is not None:
                    found.append(structure)
                if self.take == "best" and len(found) == self.most:
                    break
        if not found:
            hint = "" if self.shrink else "; shrink = true makes them smaller"
            raise SettingsError(f"{self.folder}: all {len(rows)} structures exceed the budget{hint}")
        return [found[place] for place in evenly(task.network, found, self.most)]

    def _rows(self, run: Run, network: Network) -> list[int]:
        """Return the ids of the individuals in question, the best first if `take` says so."""
        rows = run.ranked() if self.take == "best" else run.pareto(self.objectives or run.trade_off)
        here, there = {group.name: group.size for group in network.groups}, run.groups
        for name in sorted({*here, *there}):
            if here.get(name) != there.get(name):
                raise RunFolderError(
                    f"{self.folder}: is a run of another network ({name} has {there.get(name, 'no')} channels there, "
                    f"{here.get(name, 'none')} here)"
                )
        return [int(row) for row in rows.index]


SEED_SOURCES: Registry[type[SeedSource]] = Registry(
    "source of seeds",
    "evo.seeds",
    {"importance_matrix": FromImportanceMatrix, "ocnna": FromOCNNA, "magnitude": FromMagnitude, "run": FromRun},
    subclass_of(SeedSource),
)


def shrunk(network: Network, structure: Blueprint, fits: Fits) -> Blueprint | None:
    """Return the largest structure that fits of those that keep the same share of what every group of `structure` keeps.

    Filters with the largest L2 norm stay. None if nothing fits, not even the fewest filters; bits stay as they are.
    """
    norms = magnitude(network)
    structure = network.repaired(structure.masks, norms).with_bits(structure.bits)
    kept = network.counts(structure).tolist()
    scores = {name: np.where(mask, norms[name], -1.0) for name, mask in structure.masks.items()}
    filters = FilterSelection(network, criterion(lambda _: scores))

    def part(thousandths: int) -> Blueprint:
        fewer = [
            group.legal_count(count * thousandths // 1000) for group, count in zip(network.groups, kept, strict=True)
        ]
        return Blueprint.from_masks(filters.masks(fewer)).with_bits(structure.bits)

    low, high = 0, 1000
    if not fits(part(low)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(part(middle)) else (low, middle)
    return part(low)


def evenly(network: Network, found: Sequence[Blueprint], most: int) -> list[int]:
    """Return the places of at most `most` structures: of more, those at even ranks from the smallest to the largest."""
    if len(found) <= most:
        return list(range(len(found)))
    sizes = network.costs.costs(network.counts(found), ["params"])["params"]
    ranks = np.rint(np.linspace(0, len(found) - 1, most)).astype(int)
    places: list[int] = np.argsort(sizes, kind="stable")[ranks].tolist()
    return places


def _within(made: list[Blueprint], fits: Fits, widest: Callable[[], Blueprint | None]) -> list[Blueprint]:
    """Return those that fit, and before them the largest one that does in place of all that do not.

    Raises:
        SettingsError: not even one.
    """
    found = [structure for structure in made if fits(structure)]
    if len(found) < len(made):
        largest_one = widest()
        if largest_one is None:
            raise SettingsError("none of these structures can meet the budget, however much of the network goes")
        found.insert(0, largest_one)
    return found


def _by_percentile(
    network: Network,
    scores: Mapping[str, ArrayLike],
    k: Sequence[float],
    fits: Fits,
    free: Sequence[str],
    scope: Scope,
) -> list[Blueprint]:
    """Return what stays at every percentile, or, for those with which too much stays, at the lowest with which it does not."""
    made = structures(network, scores, k, free=free, scope=scope)
    return _within(made, fits, lambda: largest(network, scores, fits, free=free, scope=scope))
