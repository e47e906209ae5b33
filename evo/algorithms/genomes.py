"""Individuals as algorithms handle them: children of parents, and plain values to save and to bring back."""

import base64
from collections.abc import Sequence
from typing import Any

from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual


def child(operator: str, *parents: Individual) -> Individual:
    """Return an unevaluated copy of the first of these parents."""
    copied = Individual(parents[0].typecode, parents[0].tobytes(), parents[0].fitness.weights)
    copied.operator = operator
    copied.parents = tuple(parent.row for parent in parents if parent.row is not None)
    return copied


def pack(space: GenomeSpace, individuals: Sequence[Individual]) -> dict[str, list[Any]]:
    """Return individuals as columns of plain values for JSON; a value list is empty where an evaluation failed or is open."""
    return {
        "genome": [base64.b64encode(space.pack(one)).decode() for one in individuals],
        "values": [list(one.fitness.values) for one in individuals],
        "operator": [one.operator for one in individuals],
        "parents": [list(one.parents) for one in individuals],
        "row": [one.row for one in individuals],
    }


def unpack(space: GenomeSpace, packed: dict[str, list[Any]]) -> list[Individual]:
    """Return the individuals that `pack` packed."""
    individuals = []
    columns = (packed[name] for name in ("genome", "values", "operator", "parents", "row"))
    for genome, values, operator, parents, row in zip(*columns, strict=True):
        one = space.unpack(base64.b64decode(genome))
        if values:
            one.fitness.values = values
        one.operator, one.parents, one.row = operator, tuple(parents), row
        individuals.append(one)
    return individuals
