"""Which channels of a network live and die together: coupling groups, from what a trace ties."""

import fnmatch
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evo.errors import SettingsError, unknown_name
from evo.network.record import IntArray, Site, Trace


@dataclass(frozen=True)
class Cut:
    """One dimension of one tensor whose entries belong to channels of a group.

    `channels[i]` is the channel that entry `i` of the dimension belongs to, or -1 for an entry that is not of the group.
    For the inputs of a grouped convolution it has shape (groups, entries): every group reads channels of its own. A cut
    that `reads` consumes the channels; the others produce or normalise them. A name that is no tensor's is that of an
    attribute in which a layer notes its size.
    """

    tensor: str
    dim: int
    channels: NDArray[np.int32]
    reads: bool


@dataclass(frozen=True)
class CouplingGroup:
    """Channels that must be kept or removed together, named after the first layer that produces them.

    Attributes:
        name: dotted name of the first producing layer, e.g. "layer1.0.conv2"; with "#2", "#3", … where one layer has
            channels in several groups.
        size: number of channels.
        producers: layers whose filters these are, in module order; more than one where additions tie them.
        consumers: layers that read the channels.
        cuts: every tensor dimension that shrinks with the group.
        parts: the channels lie in this many equal blocks, one after the other, each of which keeps equally many, as a
            grouped convolution demands.
        multiple: the number of kept channels is a multiple of this, unless all are kept.
        least: kept channels at least; 2 where the program treats a single one as none, as `squeeze` does.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    cuts: tuple[Cut, ...]
    parts: int = 1
    multiple: int = 1
    least: int = 1

    @property
    def step(self) -> int:
        """Kept channels come in multiples of this, unless all are kept."""
        return math.lcm(self.parts, self.multiple)

    def legal_count(self, count: int) -> int:
        """Return the smallest legal number of kept channels that is at least `count`."""
        return min(self.size, -(-max(count, self.least) // self.step) * self.step)


@dataclass(frozen=True)
class Frozen:
    """A layer whose channels, or some of them, are always kept, and why."""

    name: str
    reason: str


@dataclass
class Grouping:
    """Coupling groups as they come out of a trace.

    Attributes:
        groups: what may be searched.
        group_of: index of its group by number of an entry, -1 if it is always kept.
        why: node of the reason for which an entry is always kept, by its number.
    """

    groups: list[CouplingGroup]
    group_of: IntArray
    why: IntArray


def layer_name(tensor: str) -> str:
    """Return the name of the layer that a weight belongs to; that of the parameter itself if it is not called weight."""
    return _WEIGHT.sub("", tensor)


_WEIGHT = re.compile(r"(^|\.)(weight(_orig|_v)?|parametrizations\.weight\.original\d*)$")


def find_groups(trace: Trace, order: Mapping[str, int], *, protect: Sequence[str] = (), multiple: int = 1) -> Grouping:
    """Return the coupling groups that a trace implies.

    Args:
        trace: of the network.
        order: position of every module and parameter by dotted name.
        protect: names or patterns (`fnmatch`) of layers that stay whole.
        multiple: see `CouplingGroup`.

    Raises:
        SettingsError: a pattern of `protect` matches no layer.
    """
    solver = _Solver(trace, order)
    solver.protect(protect)
    while not solver.settle():
        pass
    return solver.grouping(multiple)


@dataclass
class _Draft:
    """Channels (components) that touch the same sites."""

    channels: list[int]
    part_of: IntArray | None = None
    parts: int = 1


@dataclass
class _Solver:
    trace: Trace
    order: Mapping[str, int]
    edges: list[tuple[IntArray, IntArray]] = field(init=False)

    def __post_init__(self) -> None:
        trace = self.trace
        self.edges = list(trace.edges)
        self.site_of = np.full(trace.count, -1, dtype=np.int64)
        for index, site in enumerate(trace.sites):
            self.site_of[site.start : site.start + math.prod(site.shape)] = index
        self.layers = sorted(
            ((layer_name(name), use) for name, use in trace.contractions.items()),
            key=lambda entry: self.order.get(entry[0], len(self.order)),
        )
        self.produces = np.zeros(len(trace.sites), dtype=bool)
        for _, use in self.layers:
            made = use.outputs.numpy()
            self.produces[self.site_of[made[made > 0]]] = True
        self.reads = np.zeros(trace.count, dtype=bool)
        for numbers in trace.reads:
            self.reads[numbers] = True

        for _, use in self.layers:
            if not use.work:
                made = use.outputs.numpy()
                self._freeze(made[made > 0], "it works in training only")

    def protect(self, patterns: Sequence[str]) -> None:
        """Freeze layers by name or pattern."""
        for pattern in patterns:
            matching = [use for name, use in self.layers if fnmatch.fnmatchcase(name, pattern)]
            if not matching:
                raise SettingsError(f"protect: {unknown_name('layer', pattern, [name for name, _ in self.layers])}")
            for use in matching:
                made = use.outputs.numpy()
                self._freeze(made[made > 0], "it is protected")

    def _freeze(self, numbers: IntArray, reason: str) -> None:
        self.edges.append((numbers, np.full(numbers.size, self._reason(reason))))

    def _reason(self, text: str) -> int:
        """Return a new node, which lies at no site and reads nothing."""
        self.site_of, self.reads = np.append(self.site_of, -1), np.append(self.reads, False)
        return self.trace.reason(text)

    def settle(self) -> bool:
        """Join what is tied and draft groups; return whether they hold, tie more if they do not."""
        from scipy.sparse import coo_matrix  # here, since it takes longer to import than all of evo
        from scipy.sparse.csgraph import connected_components

        count = self.trace.count
        left, right = (np.concatenate([[0], *(edge[side] for edge in self.edges)]) for side in (0, 1))
        graph = coo_matrix((np.ones(left.size, dtype=np.int8), (left, right)), (count, count))
        total, self.component = connected_components(graph, directed=False)
        # The first reason in the order of operations is the one that is told.
        self.reason_of = np.zeros(total, dtype=np.int64)
        for node in sorted(self.trace.reasons, reverse=True):
            self.reason_of[self.component[node]] = node
        self.reason_of[self.component[0]] = 0
        self.frozen = self.reason_of > 0
        self.frozen[self.component[0]] = True
        self._draft(total)
        fit = [self._fits(parts) for parts in self.trace.parts]
        return all(fit)

    def _draft(self, total: int) -> None:
        """Group the components by the sites they touch."""
        from scipy.sparse import coo_matrix

        entries = np.flatnonzero(self.site_of >= 0)
        shape = (total, len(self.trace.sites))
        table = coo_matrix((np.ones(entries.size, np.int32), (self.component[entries], self.site_of[entries])), shape)
        table = table.tocsr()
        table.sum_duplicates()
        produced = np.zeros(total, dtype=bool)
        produced[self.component[entries[self.produces[self.site_of[entries]]]]] = True
        read = np.zeros(total, dtype=bool)
        read[self.component[self.reads]] = True
        drafts: dict[bytes, _Draft] = {}
        self.draft_of: dict[int, _Draft] = {}
        self.unread = produced & ~read & ~self.frozen
        # One number per site and how often it is touched, so that a row of them tells channels apart.
        touched = (table.indices.astype(np.int64) << 32) | table.data
        starts = table.indptr.tolist()
        for channel in np.flatnonzero(produced & read & ~self.frozen).tolist():
            key = touched[starts[channel] : starts[channel + 1]].tobytes()
            draft = drafts.get(key)
            if draft is None:
                draft = drafts[key] = _Draft([])
            draft.channels.append(channel)
            self.draft_of[channel] = draft
        self.drafts = list(drafts.values())
        made = np.concatenate([np.zeros(0, dtype=np.int64), *(use.outputs.numpy() for _, use in self.layers)])
        seen, places = np.unique(self.component[made[made > 0]], return_index=True)
        self.first = dict(zip(seen.tolist(), places.tolist(), strict=True))
        for draft in self.drafts:
            draft.channels = self._ordered(draft.channels)

    def _ordered(self, channels: list[int]) -> list[int]:
        """Order channels by where they first appear among the filters of the network's layers."""
        return sorted(channels, key=self.first.__getitem__)

    def _fits(self, numbers: IntArray) -> bool:
        """Divide a draft into parts that keep equally many; where that is not possible tie what lies at the same place."""
        channels = np.where(numbers > 0, self.component[numbers], self.component[0])
        if (self.frozen[channels].all(0) | (channels == channels[:1]).all(0)).all():
            return True
        drafts = {id(self.draft_of.get(channel)) for channel in np.unique(channels).tolist()}
        draft = self.draft_of.get(int(channels.flat[0]))
        if len(drafts) == 1 and draft is not None and len(np.unique(channels)) == channels.size == len(draft.channels):
            rows = {channel: row for row, members in enumerate(channels.tolist()) for channel in members}
            part_of = np.array([rows[channel] for channel in draft.channels])
            if self._divide(draft, part_of, len(numbers)):
                return True
        tied = numbers
        if not numbers.all():
            tied = np.where(
                numbers, numbers, self._reason("a grouped layer reads it together with values that are not channels")
            )
        self.edges.append((tied.reshape(-1), np.broadcast_to(tied[:1], tied.shape).reshape(-1)))
        return False

    def _divide(self, draft: _Draft, part_of: IntArray, parts: int) -> bool:
        """Note the parts of a draft unless they contradict those it has."""
        if draft.part_of is not None:
            pairs = len(np.unique(np.stack([draft.part_of, part_of]), axis=1).T)
            if pairs != max(parts, draft.parts):
                return False
            if parts <= draft.parts:
                return True
        draft.part_of, draft.parts = part_of, parts
        return True

    def grouping(self, multiple: int) -> Grouping:
        """Make groups of the drafts."""
        count = self.trace.count
        self.group_of, channel_of = np.full(count, -1, dtype=np.int64), np.full(count, -1, dtype=np.int64)
        group_of = self.group_of
        place = np.full(int(self.component.max()) + 1, -1, dtype=np.int64)
        owner = place.copy()
        drafts = [draft for draft in self.drafts if len(draft.channels) > 1]
        rank = {channel: index for index, channel in enumerate(self._ordered([c for d in drafts for c in d.channels]))}
        drafts.sort(key=lambda draft: min(rank[channel] for channel in draft.channels))
        for index, draft in enumerate(drafts):
            if draft.part_of is not None:
                # Blocks one after the other, in the order of their first channels.
                draft.channels = [draft.channels[i] for i in np.argsort(draft.part_of, kind="stable")]
            owner[draft.channels] = index
            place[draft.channels] = np.arange(len(draft.channels))
        numbered = self.site_of >= 0
        group_of[numbered], channel_of[numbered] = owner[self.component[numbered]], place[self.component[numbered]]
        cuts: list[list[Cut]] = [[] for _ in drafts]
        for number in np.unique(self.site_of[group_of >= 0]).tolist():
            site = self.trace.sites[number]
            if site.tensor:
                for index, cut in _cuts(site, group_of, channel_of, self.reads):
                    cuts[index].append(cut)
        groups = []
        names: dict[str, int] = {}
        makers, readers = self._layers("outputs"), self._layers("inputs")
        for index, draft in enumerate(drafts):
            producers = makers[index]
            names[producers[0]] = names.get(producers[0], 0) + 1
            suffix = f"#{names[producers[0]]}" if names[producers[0]] > 1 else ""
            groups.append(
                CouplingGroup(
                    producers[0] + suffix,
                    len(draft.channels),
                    producers,
                    readers.get(index, ()),
                    tuple(cuts[index]),
                    draft.parts,
                    multiple,
                )
            )
        return Grouping(groups, group_of, self._why())

    def _layers(self, side: str) -> dict[int, tuple[str, ...]]:
        """Return the layers that make ("outputs") or read ("inputs") the channels of every group, by its index."""
        layers: dict[int, tuple[str, ...]] = {}
        for name, use in self.layers:
            for group in np.unique(self.group_of[getattr(use, side).numpy()]).tolist():
                layers[group] = (*layers.get(group, ()), name)
        return layers

    def _why(self) -> IntArray:
        """Return the node of the reason for which an entry is in no group, 0 if it is in one, by number."""
        tied, unread = self._reason("all its channels are tied together"), self._reason("no layer reads its channels")
        node = np.where(self.unread, unread, np.where(self.frozen, self.reason_of, tied))
        return np.where(self.group_of < 0, node[self.component], 0)


def frozen_layers(
    trace: Trace, grouping: Grouping, failed: Mapping[str, str], weights: Iterable[str], order: Mapping[str, int]
) -> list[Frozen]:
    """Return the layers with channels that are always kept, and weights that nothing known uses, in module order.

    Args:
        trace: of the network.
        grouping: the groups that it implies.
        failed: groups that are not offered, with reasons, by name.
        weights: names of the weights of all layers.
        order: position of every module by dotted name.
    """
    frozen = [
        Frozen(
            layer_name(tensor),
            "it is not used" if tensor in trace.unused else "an operation not known here uses its weight",
        )
        for tensor in weights
        if tensor not in trace.contractions
    ]
    for tensor, use in trace.contractions.items():
        made = use.outputs.numpy()
        reasons: dict[str, int] = {}
        for number in made.tolist():
            group = int(grouping.group_of[number])
            if group < 0:
                single = use.reason or "it has one channel"
                reason = trace.reasons[int(grouping.why[number])] if number and made.size > 1 else single
            else:
                reason = failed.get(grouping.groups[group].name, "")
            if reason:
                reasons[reason] = reasons.get(reason, 0) + 1
        for reason, count in reasons.items():
            part = f"{count} of its {made.size} channels stay: " if count < made.size else ""
            frozen.append(Frozen(layer_name(tensor), part + reason))
    return sorted(frozen, key=lambda entry: order.get(entry.name, len(order)))


def _cuts(site: Site, group_of: IntArray, channel_of: IntArray, reads: NDArray[np.bool_]) -> Iterator[tuple[int, Cut]]:
    """Yield, for every group with entries in a site, its index and what it cuts there."""
    own = slice(site.start, site.start + math.prod(site.shape))
    groups, channels, read = group_of[own], channel_of[own], reads[own]
    if (groups == groups[0]).all():
        yield (
            int(groups[0]),
            Cut(site.tensor, site.dim, channels.astype(np.int32).reshape(site.shape), bool(read.any())),
        )
        return
    for group in np.unique(groups[groups >= 0]).tolist():
        mine = groups == group
        cut = np.where(mine, channels, -1).astype(np.int32).reshape(site.shape)
        yield group, Cut(site.tensor, site.dim, cut, bool(read[mine].any()))
