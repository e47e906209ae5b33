"""Which filters stay when a number of them is given: the choices of a criterion for one network."""

import numpy as np
from numpy.typing import ArrayLike

from evo.blueprint import BoolArray
from evo.errors import SettingsError
from evo.importance.criteria import Choice, Criterion, Material, criterion_of
from evo.network import CouplingGroup, Network
from evo.training.data import Samples


class FilterSelection:
    """The filters of a network that stay, for any numbers of them.

    A group is looked at when it is first cut, and a choice is made once. All choices are legal: equally many of every part
    of a grouped convolution.
    """

    def __init__(
        self, network: Network, select: str | Criterion, seed: int = 0, *, samples: Samples | None = None
    ) -> None:
        """Take a criterion.

        Args:
            network: whose filters are chosen.
            select: a criterion, or the name of one: of `CRITERIA`, of a plug-in, or module:attribute.
            seed: of "random" and "kmeans", and of the images of "ocnna".
            samples: training images for "ocnna", which runs the network on 5,000 of them when the first filters are chosen,
                and for criteria of one's own.

        Raises:
            SettingsError: there is no such criterion.
        """
        self._network = network
        self._criterion = criterion_of(select)
        self._material = Material(network, samples, seed)
        self._choices: dict[str, list[Choice]] = {}
        self._masks: dict[tuple[str, int], BoolArray] = {}

    def masks(self, counts: ArrayLike) -> dict[str, BoolArray]:
        """Return keep masks, shape (channels,), by group name; they are read-only.

        Args:
            counts: kept channels, shape (G,), in the order of the network's groups.

        Raises:
            SettingsError: a count is not legal for its group, or a criterion of one's own chose something else.
            NetworkError: the criterion cannot tell which filters of a group matter.
        """
        wanted = np.asarray(counts)
        groups = self._network.groups
        if wanted.shape != (len(groups),) or wanted.dtype.kind not in "iu":
            raise SettingsError(
                f"counts: got {wanted.dtype} of shape {wanted.shape}, expected {len(groups)} integers, one per group"
            )
        return {group.name: self._mask(group, count) for group, count in zip(groups, wanted.tolist(), strict=True)}

    def _mask(self, group: CouplingGroup, count: int) -> BoolArray:
        key = (group.name, count)
        if key not in self._masks:
            if not 0 < count <= group.size or group.legal_count(count) != count:
                raise SettingsError(
                    f"{group.name}: cannot keep {count} of {group.size} channels; "
                    f"{group.legal_count(min(count, group.size))} would be legal"
                )
            mask = self._chosen(group, count)
            mask.flags.writeable = False
            self._masks[key] = mask
        return self._masks[key]

    def _chosen(self, group: CouplingGroup, count: int) -> BoolArray:
        if count == group.size:
            return np.ones(group.size, dtype=bool)
        if group.name not in self._choices:
            self._choices[group.name] = self._criterion.choices(self._material, group)
        mask = np.zeros((group.parts, group.size // group.parts), dtype=bool)
        choices = self._choices[group.name]
        for row, choose in zip(mask, choices, strict=False):
            row[choose(count // group.parts)] = True
        if len(choices) != group.parts or (mask.sum(1) != count // group.parts).any():
            raise SettingsError(
                f"select: {self._criterion.name} keeps {mask.sum(1).tolist()} channels of the parts of {group.name}; "
                f"expected {count // group.parts} of each"
            )
        return mask.reshape(-1)
