"""What an analysis found, as plain values and as tables: what can be searched, what cannot and why, and what it all costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from evo.network import CouplingGroup, Frozen, Network
from evo.report.labels import LABELS


@dataclass(frozen=True)
class Structure:
    """What can be searched in a network.

    Attributes:
        groups: the coupling groups.
        frozen: layers that have channels which always stay, with reasons, one by one.
        channels: searchable channels, D of ECS.
        costs: of the whole network for one input, named as in `evo.network.COSTS`.
        smallest: of the smallest candidate, which keeps as few channels of every group as is legal.
        searchable_params: parameters that belong to a searchable channel, of the layers that make it or that read it.
    """

    groups: tuple[CouplingGroup, ...]
    frozen: tuple[Frozen, ...]
    channels: int
    costs: Mapping[str, int]
    smallest: Mapping[str, int]
    searchable_params: int

    @classmethod
    def of(cls, network: Network) -> "Structure":
        """Describe an analysed network."""
        costs = network.costs.costs(network.costs.sizes)
        smallest = network.costs.costs(network.fewest)
        # What is left without any channel of any group is what no candidate can differ in.
        untouched = network.costs.costs(np.zeros_like(network.fewest), ["params"])["params"]
        return cls(
            groups=network.groups,
            frozen=network.frozen,
            channels=network.channels,
            costs={name: int(value) for name, value in costs.items()},
            smallest={name: int(value) for name, value in smallest.items()},
            searchable_params=int(costs["params"] - untouched),
        )

    @property
    def searchable_share(self) -> float:
        """Share of the parameters that belong to a searchable channel, from 0 to 1."""
        return self.searchable_params / max(1, self.costs["params"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; groups without their cuts."""
        groups = [
            {
                "name": group.name,
                "channels": group.size,
                "parts": group.parts,
                "multiple": group.multiple,
                "fewest": group.legal_count(1),
                "producers": list(group.producers),
                "consumers": list(group.consumers),
            }
            for group in self.groups
        ]
        return {
            "groups": groups,
            "frozen": [asdict(entry) for entry in self.frozen],
            "searchable_channels": self.channels,
            "searchable_params": self.searchable_params,
            "searchable_share": self.searchable_share,
            "costs": dict(self.costs),
            "smallest": dict(self.smallest),
        }


def group_table(groups: Sequence[CouplingGroup]) -> Table:
    """Return the coupling groups, channels that live and die together; "kept in" only if a group cannot keep any number."""
    bound = any(map(_restriction, groups))
    table = Table(title="Coupling groups", title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right", no_wrap=True)
    if bound:
        table.add_column("kept in")
    table.add_column("made by", overflow="fold")
    table.add_column("read by", overflow="fold")
    for group in groups:
        row = [group.name, f"{group.size:,}", *([_restriction(group)] if bound else [])]
        table.add_row(*row, ", ".join(map(_shown, group.producers)), ", ".join(map(_shown, group.consumers)))
    return table


def by_reason(frozen: Sequence[Frozen]) -> dict[str, list[str]]:
    """Return the layers that are left whole, by the reason why."""
    layers: dict[str, list[str]] = {}
    for entry in frozen:
        layers.setdefault(entry.reason, []).append(_shown(entry.name))
    return layers


def frozen_table(frozen: Sequence[Frozen]) -> Table:
    """Return the layers that are left whole, a row per reason."""
    layers = by_reason(frozen)
    table = Table(title="Left whole, entirely or in part", title_justify="left", show_lines=len(layers) > 1)
    table.add_column("why", overflow="fold", ratio=1)
    table.add_column("layers", justify="right", no_wrap=True)
    table.add_column("which", overflow="fold", ratio=1)
    for reason, names in layers.items():
        table.add_row(reason, f"{len(names):,}", ", ".join(names))
    return table


def cost_table(structure: Structure) -> Table:
    """Return the costs of the whole network and of the smallest candidate."""
    table = Table(title="Costs for one input", title_justify="left")
    table.add_column("cost")
    for name in ("original", "smallest possible", "ratio"):
        table.add_column(name, justify="right")
    for name, value in structure.costs.items():
        least = structure.smallest[name]
        ratio = f"{value / least:,.1f}×" if least else ""
        table.add_row(LABELS.get(name, name), f"{value:,}", f"{least:,}", ratio)
    return table


def _restriction(group: CouplingGroup) -> str:
    parts = f"{group.parts} equal parts" if group.parts > 1 else ""
    multiple = f"multiples of {group.multiple}" if group.multiple > 1 else ""
    least = f"at least {group.least}" if group.least > 1 else ""
    return ", ".join(filter(None, (parts, multiple, least)))


def _shown(name: str) -> str:
    return name or "the network"
