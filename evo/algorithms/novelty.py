"""Genomes that were not proposed before."""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual

REDRAWS = 100
"""Draws in a row that may all repeat earlier genomes before it is taken that there are no new ones."""

_DIGEST = 16
"""Bytes of the hash by which a genome is remembered."""


class Novelty:
    """Remembers every genome proposed, and draws again what repeats one.

    Attributes:
        duplicates: draws of the last generation that repeated an earlier genome, see `end_generation`.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self._repeats = 0
        self._seen: dict[bytes, None] = {}

    def end_generation(self) -> None:
        """Make `duplicates` the draws in vain since the last call."""
        self.duplicates, self._repeats = self._repeats, 0

    def draw(
        self, space: GenomeSpace, count: int, draw: Callable[[int], list[Individual]], *, repeat: bool = True
    ) -> list[Individual]:
        """Return new genomes of those that `draw`, given how many are missing, makes.

        Args:
            space: where they come from.
            count: how many.
            draw: returns individuals.
            repeat: whether to fill up with repeats when `REDRAWS` in a row were nothing else; fewer are returned otherwise.
        """
        fresh: list[Individual] = []
        repeats = 0
        while len(fresh) < count and (repeat or repeats <= REDRAWS):
            for one in draw(count - len(fresh)):
                if len(fresh) == count:
                    break  # two children, one place
                digest = hashlib.blake2b(space.pack(one), digest_size=_DIGEST).digest()
                known = digest in self._seen
                self._repeats += known
                repeats = repeats + 1 if known else 0
                if not known or (repeat and repeats > REDRAWS):
                    self._seen[digest] = None
                    fresh.append(one)
        return fresh

    def save(self) -> dict[str, Any]:
        """Return all of it as plain values for JSON."""
        return {"repeats": self._repeats, "seen": base64.b64encode(b"".join(self._seen)).decode()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Set what `save` returned."""
        self._repeats = saved["repeats"]
        seen = base64.b64decode(saved["seen"])
        self._seen = {seen[start : start + _DIGEST]: None for start in range(0, len(seen), _DIGEST)}
