"""What a search begins with: given structures, those that sources make, and what its folder says it began with."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo.blueprint import Blueprint
from evo.encodings.base import GenomeSpace
from evo.encodings.budgeted import Budgeted
from evo.encodings.individual import Individual
from evo.errors import EvaluatorError, EvoError, SettingsError
from evo.folder import recorded_seeds
from evo.importance.ocnna import Map
from evo.network import Network
from evo.run import SETTINGS, read_settings
from evo.seeds import SEED_SOURCES, SeedSource, evenly
from evo.task import Task

Seed = Blueprint | SeedSource

SOURCES = "seeds_from"
"""The entry of run.toml that holds the settings of all sources, which identify the search."""

TAKEN = "seeds_taken"
"""The one that says of every source how many structures it `made`, and how many of these were `taken`."""


@dataclass(frozen=True)
class Seeds:
    """Where a search starts.

    Attributes:
        structures: those that were given, then those that sources have made, or an earlier process of this search has noted.
        sources: described, in their order.
        pending: sources that have not made theirs yet: the search is new.
        taken: of a new search, per source, how many structures it `made` and how many of them were `taken`.
    """

    structures: tuple[Blueprint, ...]
    sources: Sequence[Mapping[str, Any]] = ()
    pending: Sequence[SeedSource] = ()
    taken: Sequence[Mapping[str, int]] = ()

    @classmethod
    def of(cls, seeds: Sequence[Seed] | None, folder: Path) -> "Seeds":
        """Return what the arguments say, or, of None and of sources, what the search in `folder` has noted.

        Raises:
            SettingsError: they are something else.
            RunFolderError: the folder's run.toml is damaged.
        """
        begun = (folder / SETTINGS).exists()
        noted = tuple(recorded_seeds(folder))
        if seeds is None:
            return cls(noted, read_settings(folder).get(SOURCES, []) if begun else [])
        seeds = _listed(seeds)
        given = tuple(one for one in seeds if isinstance(one, Blueprint))
        sources = tuple(one for one in seeds if isinstance(one, SeedSource))
        described = [
            {"from": SEED_SOURCES.name_of(type(one)), **one.model_dump(mode="json", exclude_none=True)}
            for one in sources
        ]
        if begun:
            return cls(given + noted[len(given) :] if sources else given, described)
        return cls(given, described, sources)

    def described(self) -> dict[str, Any]:
        """Return the entries of run.toml; where there is nothing to say, there is none."""
        entries = {
            "seeds": [structure.to_json() for structure in self.structures],
            SOURCES: self.sources,
            TAKEN: self.taken,
        }
        return {name: entry for name, entry in entries.items() if entry}

    def check(self, task: Task) -> None:
        """Raise SettingsError, in one sentence, if a source that is pending cannot make structures for this task."""
        for source in self.pending:
            with _named(source):
                source.check(task)

    def made(self, space: GenomeSpace, task: Task, places: int, seed: int, map_items: Map) -> "Seeds":
        """Return these with what the pending sources make, each as the encoding can express it.

        What repeats another one is left out. What is more than there are places is thinned out evenly along its size.

        Args:
            space: the genomes of the search, within its budget.
            task: its task.
            places: individuals that it begins with.
            seed: of everything random.
            map_items: where work is done.

        Raises:
            SettingsError: a source cannot make any.
        """
        self.check(task)

        def fits(structure: Blueprint) -> bool:
            return not isinstance(space, Budgeted) or space.fits(space.nearest(structure))

        genomes = {space.pack(one) for one in encoded(self.structures, space, task.network)}
        new: list[Blueprint] = []
        owners: list[int] = []
        numbers: list[int] = []
        for owner, source in enumerate(self.pending):
            with _named(source):
                nearest = [
                    space.nearest(structure)
                    for structure in source.structures(task, fits=fits, seed=seed, map_items=map_items)
                    if fits(structure)
                ]
            numbers.append(len(nearest))
            for individual in nearest:
                if (genome := space.pack(individual)) not in genomes:
                    genomes.add(genome)
                    new.append(space.decode(individual))
                    owners.append(owner)
        kept = evenly(task.network, new, max(0, places - len(self.structures)))
        taken = Counter(owners[place] for place in kept)
        return Seeds(
            self.structures + tuple(new[place] for place in kept),
            self.sources,
            taken=[{"made": number, "taken": taken[owner]} for owner, number in enumerate(numbers)],
        )


@contextmanager
def _named(source: SeedSource) -> Iterator[None]:
    """Say of an error which source it is from."""
    try:
        yield
    except EvaluatorError:
        raise
    except EvoError as error:
        raise SettingsError(f"seeds: from {SEED_SOURCES.name_of(type(source))}: {error}") from error


def _listed(seeds: Sequence[Seed]) -> list[Seed]:
    """Return seeds as a list.

    Raises:
        SettingsError: they are something else.
    """
    listed = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, SeedSource) else None
    if listed is None or not all(isinstance(one, Blueprint | SeedSource) for one in listed):
        raise SettingsError(
            f"seeds: expected structures (evo.Blueprint) or sources of such (evo.seeds) in a list, got {seeds!r:.100}"
        )
    return listed


def encoded(structures: Sequence[Blueprint], space: GenomeSpace, network: Network) -> list[Individual]:
    """Return the genomes of given structures.

    Raises:
        SettingsError: the encoding cannot express one, or it exceeds the budget.
    """
    individuals = []
    for number, structure in enumerate(structures):
        try:
            individual = space.repair(space.encode(structure))
        except (KeyError, ValueError, EvoError) as error:
            raise SettingsError(f"seeds: structure {number} is not one of this search's ({error})") from None
        decoded = space.decode(individual)
        if (network.counts(decoded) != network.counts(structure)).any() or decoded.bits != structure.bits:
            raise SettingsError(f"seeds: structure {number} cannot be expressed by this encoding")
        if isinstance(space, Budgeted) and not space.fits(individual):
            raise SettingsError(f"seeds: structure {number} exceeds the budget of {space.limits.describe()}")
        individuals.append(individual)
    return individuals
