"""Structures that a search begins with, as genomes of its encoding."""

from collections.abc import Iterable, Sequence

from evo.blueprint import Blueprint
from evo.encodings.base import GenomeSpace
from evo.encodings.budgeted import Budgeted
from evo.encodings.individual import Individual
from evo.errors import EvoError, SettingsError
from evo.network import Network


def listed(seeds: Sequence[Blueprint]) -> list[Blueprint]:
    """Return seeds as a list.

    Raises:
        SettingsError: they are something else.
    """
    listed = list(seeds) if isinstance(seeds, Iterable) else None
    if listed is None or not all(isinstance(one, Blueprint) for one in listed):
        raise SettingsError(f"seeds: expected structures (evo.Blueprint) in a list, got {seeds!r:.100}")
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
        if isinstance(space, Budgeted) and not space.limits.fits(space.counts(individual), space.bits(individual)):
            raise SettingsError(f"seeds: structure {number} exceeds the budget of {space.limits.describe()}")
        individuals.append(individual)
    return individuals
