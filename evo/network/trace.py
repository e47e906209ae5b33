"""Which entries of which tensors belong together, found by watching one forward pass.

Every entry along every dimension of every parameter and buffer gets a number. The network runs once on real values, and a
rule per operation says how these numbers travel through activations: a convolution ties its weight's input entries to
the channels it reads and hands on the numbers of its output entries; an addition ties the channels of both sides; a
concatenation puts them side by side; a reshape reshapes them. Entries that end up tied live and die together. Whatever no rule
covers freezes the channels it touches, with a reason. The work is proportional to the number of operations.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from evo.network.modes import DispatchMode
from evo.network.numbers import Numbers, along, core, varying
from evo.network.record import Contraction, IntArray, Site, Trace


@dataclass
class _Known:
    """What is known of a tensor.

    Attributes:
        sets: the numbers that travel with it; None for those of a parameter before they are asked for.
        sources: names of the parameters and buffers it is made of; empty if activations take part.
        root: name of the parameter or buffer that it is, perhaps seen under another shape.
    """

    sets: tuple[Numbers, ...] | None = ()
    sources: frozenset[str] = frozenset()
    root: str | None = None


_PLAIN = _Known()


class Tracer(DispatchMode):
    """Watches operations and applies the rules of `evo.network.rules` to them."""

    def __init__(self, tensors: Mapping[str, Tensor], rules: Callable[..., None]) -> None:
        super().__init__()
        self.trace = Trace()
        self.counting = True
        self._rules = rules
        self._tensors = dict(tensors)
        self.trace.unused = set(tensors)
        self._blocked: dict[tuple[str, int], Site] = {}
        self._sites = {
            name: [self.trace.site(name, dim, (size,)) for dim, size in enumerate(tensor.shape)]
            for name, tensor in tensors.items()
        }
        # By the identity of tensors, which are forgotten when they go.
        self._known = {id(tensor): _Known(None, frozenset([name]), name) for name, tensor in tensors.items()}
        self._watched: dict[int, weakref.ref[Tensor]] = {}
        # By the address of storages: how many tensors hold them, and their bytes.
        self._alive: dict[int, tuple[IntArray, int]] = {}
        self._holders: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, then follow the numbers through it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = _tensors((*args, *kwargs.values()) if kwargs else args)
        known = [self._known.get(id(tensor), _PLAIN) for tensor in inputs]
        outputs = _tensors(out if isinstance(out, list | tuple) else (out,))
        self.trace.unused.difference_update(entry.root for entry in known if entry.root is not None)
        new = [tensor for tensor in outputs if id(tensor) not in self._known]
        sources: frozenset[str] = frozenset()
        if known and all(entry.sources for entry in known):
            sources = sources.union(*(entry.sources for entry in known))
        for tensor in new:
            self._watch(tensor, sources)
        self._rules(self, func, args, kwargs, inputs, outputs)
        if self.counting and new and not sources:
            self._measure(new)
        return out

    def run(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Watch one forward pass; what it returns is never cut."""
        with torch.no_grad(), _without_fused_attention(), _noting_sizes(model, self):
            leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
            for leaf in leaves:
                self._watch(leaf, frozenset())
            if self.counting:
                self._measure(leaves)
            with self:
                out = model(*inputs)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.freeze_all(results, "its channels are the network's output")

    def unused(self, model: nn.Module) -> bool:
        """Tell whether there are parameters that no operation has used."""
        return any(name in self.trace.unused for name, _ in model.named_parameters())

    # What is known of a tensor.

    def numbers(self, tensor: Tensor) -> tuple[Numbers, ...]:
        """Return the numbers that travel with `tensor`: none for a plain one, one set per dimension for a parameter."""
        known = self._known.get(id(tensor), _PLAIN)
        if known.sets is None:
            sites = self._sites[known.root or ""]
            known.sets = tuple(
                along(site.numbers, dim, tensor.shape) for dim, site in enumerate(sites) if site.shape[0] > 1
            )
        return known.sets

    def entries(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the numbers of a weight along one dimension as a vector, 0 where there is only one entry or none known."""
        known = self._known.get(id(tensor), _PLAIN)
        if known.sets is None and tensor.size(dim) > 1:
            return self._sites[known.root or ""][dim].numbers
        for numbers in self.numbers(tensor):
            if varying(numbers) == (dim,):
                return core(numbers).reshape(-1)
        return torch.zeros(tensor.size(dim), dtype=torch.int64)

    def root(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter or buffer that `tensor` is, perhaps seen under another shape."""
        return self._known.get(id(tensor), _PLAIN).root

    def learnt(self, tensor: Tensor) -> bool:
        """Tell whether `tensor` is a parameter or a buffer or made of nothing else."""
        return bool(self._known.get(id(tensor), _PLAIN).sources)

    def source(self, tensor: Tensor) -> tuple[str, Tensor] | None:
        """Return the largest parameter, or else buffer, by name, that `tensor` is made of; None for an activation."""

        def rank(entry: tuple[str, Tensor]) -> tuple[bool, int, str]:
            # The name decides between equals: the order of a set changes from process to process.
            return isinstance(entry[1], nn.Parameter), entry[1].numel(), entry[0]

        names = self._known.get(id(tensor), _PLAIN).sources
        return max(((name, self._tensors[name]) for name in names), key=rank, default=None)

    def same(self, tensor: Tensor, source: Tensor) -> None:
        """Note that `tensor` is `source` under another shape."""
        name = self.root(source)
        if name is not None and tensor.numel() == source.numel():
            self._known[id(tensor)].root = name

    def give(self, tensor: Tensor, *sets: Numbers) -> None:
        """Note the numbers of an activation or a parameter; an activation's entries belong to one channel at most."""
        kept = tuple(numbers for numbers in sets if varying(numbers))
        known = self._known[id(tensor)]
        if len(kept) > 1 and not known.sources:
            for numbers in kept[1:]:
                self.freeze(numbers, "its channels are multiplied out with others")
            kept = kept[:1]
        known.sets = kept

    def hand_on(self, source: Tensor, targets: Iterable[Tensor]) -> None:
        """Note that the numbers of `source` are those of other tensors of its shape too."""
        sets = self.numbers(source)
        for tensor in targets:
            self._known[id(tensor)].sets = sets

    # What is learnt about numbers.

    def tie(self, first: Numbers, second: Numbers, reason: str) -> None:
        """Tie two sets of numbers entry by entry; where one side is fixed the other freezes for `reason`."""
        small = core(first), core(second)
        if small[0].shape != small[1].shape:
            small = torch.broadcast_tensors(*small)  # type: ignore[no-untyped-call]
        self.tie_vectors(small[0].reshape(-1).numpy(), small[1].reshape(-1).numpy(), reason)

    def tie_vectors(self, left: IntArray, right: IntArray, reason: str) -> None:
        """Tie two vectors of numbers like `tie`."""
        if not (left.all() and right.all()):
            node = self.trace.reason(reason)
            left, right = np.where(left, left, node), np.where(right, right, node)
        self.trace.edges.append((left, right))

    def freeze(self, numbers: Numbers, reason: str) -> None:
        """Never remove these entries."""
        flat = core(numbers).reshape(-1).numpy()
        flat = flat[flat > 0]
        if flat.size:
            self.trace.edges.append((flat, np.full(flat.size, self.trace.reason(reason))))

    def freeze_all(self, tensors: Iterable[Tensor], reason: str) -> None:
        """Never remove any entry of these tensors."""
        for tensor in tensors:
            for numbers in self.numbers(tensor):
                self.freeze(numbers, reason)

    def read(self, numbers: Numbers) -> None:
        """Note weight entries that multiply the channels they are tied to."""
        self.trace.reads.append(core(numbers).reshape(-1).numpy())

    def equal_parts(self, numbers: Tensor) -> None:
        """Note that every row of `numbers`, shape (parts, entries), has to keep equally many."""
        if numbers.shape[0] > 1:
            self.trace.parts.append(numbers.numpy().copy())

    def fresh(self, like: Tensor, dim: int, length: int) -> Tensor:
        """Return new numbers, of the shape of `like` but for `length` entries along `dim`, that are of no tensor."""
        shape = (*like.shape[:dim], length, *like.shape[dim + 1 :])
        return self.trace.site("", dim, shape).numbers

    def blocked(self, tensor: str, groups: int, entries: int) -> Numbers:
        """Return numbers, shape (groups, entries), for the inputs of a grouped convolution: every group has its own."""
        key = (tensor, groups)
        if key not in self._blocked:
            self._blocked[key] = self.trace.site(tensor, 1, (groups, entries))
        return self._blocked[key].numbers

    def contract(self, use: Contraction) -> None:
        """Note one use of a weight."""
        if not self.counting:
            use.work = use.values = 0
        entry = self.trace.contractions.setdefault(use.tensor, use)
        if entry is not use:
            entry.work += use.work
            entry.values += use.values

    # Life and memory of tensors.

    def _watch(self, tensor: Tensor, sources: frozenset[str]) -> None:
        """Know a new tensor for as long as it lives."""
        key, storage = id(tensor), tensor.untyped_storage()._cdata
        self._known[key] = _Known((), sources)
        self._holders[storage] = self._holders.get(storage, 0) + 1

        def forget(_: object) -> None:
            del self._known[key], self._watched[key]
            self._holders[storage] -= 1
            if not self._holders[storage]:
                del self._holders[storage]
                self._alive.pop(storage, None)

        self._watched[key] = weakref.ref(tensor, forget)

    def _measure(self, tensors: Iterable[Tensor]) -> None:
        """Note the memory of new activations, and what is alive now."""
        fresh = False
        for tensor in tensors:
            storage = tensor.untyped_storage()._cdata
            if storage not in self._alive:
                fresh = True
                sets = self.numbers(tensor)
                numbers = core(sets[0]).reshape(-1) if sets else _NOTHING
                each = tensor.numel() // max(1, len(numbers)) * tensor.element_size()
                self._alive[storage] = numbers.numpy(), each
        if fresh:
            self.trace.memory.append(list(self._alive.values()))


_NOTHING = torch.zeros(1, dtype=torch.int64)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among the arguments or results of an operation, which come alone or in lists."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [entry for entry in value if isinstance(entry, Tensor)]
    return found


def doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return every input twice: the statistics of batch normalisation in training take more than one."""
    return tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf, inputs)  # type: ignore[no-any-return]


def trace(
    model: nn.Module, inputs: tuple[Any, ...], tensors: Mapping[str, Tensor], rules: Callable[..., None], batch: int
) -> Trace:
    """Run `model` once on `inputs` and return what was seen.

    Parameters that are not used in evaluation, of auxiliary classifiers for instance, are looked for in a second run in
    training mode. They read channels too, but cost nothing.

    Args:
        model: in evaluation mode; its batch statistics may change.
        inputs: positional arguments of its forward.
        tensors: its parameters and buffers by name.
        rules: applied to every operation.
        batch: number of inputs in the batch.
    """
    tracer = Tracer(tensors, rules)
    tracer.trace.batch = batch
    tracer.run(model, inputs)
    if tracer.unused(model):
        tracer.counting = False
        # Without success the network is judged by its evaluation alone.
        with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]):
            tracer.run(model.train(), doubled(inputs))
            tracer.trace.trained = True
        model.eval()
    return tracer.trace


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Let attention layers compute step by step, so that their projections are seen."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _noting_sizes(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Number the sizes that normalisation layers without any tensor of that size note in an attribute."""
    handles = []
    for name, module in model.named_modules():
        features = getattr(module, "num_features", None)
        bare = not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())
        if isinstance(module, nn.modules.batchnorm._NormBase) and bare and isinstance(features, int) and features > 1:
            numbers = tracer.trace.site(f"{name}.num_features", 0, (features,)).numbers

            def note(_module: nn.Module, args: tuple[Any, ...], numbers: Tensor = numbers) -> None:
                shape = args[0].shape
                with _disable_current_modes():
                    for found in tracer.numbers(args[0]):
                        if varying(found) == (1,) and shape[1] == numbers.numel():
                            tracer.tie(
                                found, along(numbers, 1, shape), "its size is noted for a layer that reads constants"
                            )

            handles.append(module.register_forward_pre_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
