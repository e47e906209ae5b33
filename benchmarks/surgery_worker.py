"""One measurement of `benchmarks.surgery` in a process of its own: writes what it finds as JSON, one object a line."""

import copy
import functools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import awkward
from evo.blueprint import Blueprint
from evo.network import Network, evaluating, surgery
from evo.network.zoo import INPUTS, ZOO, resnet56
from evo.report.structure import Structure

IMAGE = (3, 32, 32)


@dataclass(frozen=True)
class Subject:
    """A network to be measured: what is special about it, its factory, and the shape of an input."""

    family: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE


FAMILIES = {
    "lenet": "chain",
    "mlp": "chain",
    "adalayernet": "chain",
    "vgg16_cifar": "chain",
    "vgg19_cifar": "chain",
    "vgg16": "chain",
    "vgg19": "chain",
    "alexnet": "chain, grouped convolutions",
    "resnet20": "residual, projections",
    "resnet56": "residual, zero-padded shortcuts",
    "resnet110": "residual, zero-padded shortcuts",
    "resnet18": "residual, projections",
    "resnet50": "residual, bottlenecks",
    "channel_bench": "residual",
    "nasbench201": "cells",
    "googlenet": "concatenation, branches",
    "densenet40": "concatenation, dense",
    "densenet_bc100": "concatenation, dense",
    "mobilenet_v1": "depthwise",
    "mobilenet_v2": "depthwise, residual",
    "shufflenet_v2": "split and shuffle",
}

SUBJECTS = {
    name: Subject(FAMILIES.get(name, "other"), ZOO[name], INPUTS[name])
    for name in sorted(ZOO, key=[*FAMILIES, *ZOO].index)
}
SUBJECTS |= {
    "resnet56, shortcut B": Subject("residual, projections", functools.partial(resnet56, shortcut="B")),
    "SE-ResNet": Subject("gates", awkward.gated),
    "ResNeXt": Subject("grouped convolutions", awkward.aggregated),
    "ConvNeXt": Subject("layer normalisation, permutations", awkward.convnext),
    "U-Net": Subject("transposed convolutions", awkward.UNet),
    "ESPCN": Subject("pixel shuffle, PReLU", awkward.super_resolution),
}


class Peak:
    """Memory of this process above its level at the start, at most, in bytes (Linux)."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._level = self._highest()

    def __call__(self) -> int:
        """Return the peak since the start."""
        return self._highest() - self._level

    @staticmethod
    def _highest() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def seconds_of(work: Callable[[], object], rounds: int, limit: float) -> Iterator[float]:
    """Yield the seconds that each of up to `rounds` calls takes; no call begins after `limit` seconds."""
    begun = time.perf_counter()
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        yield time.perf_counter() - start
        if time.perf_counter() - begun > limit:
            return


class Watch:
    """A function that notes how many seconds each of its calls takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds: list[float] = []

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call it."""
        start = time.perf_counter()
        result = self._function(*arguments, **options)
        self.seconds.append(time.perf_counter() - start)
        return result


def example(subject: Subject) -> Tensor:
    """Return one random input."""
    return torch.randn(1, *subject.shape, generator=torch.Generator().manual_seed(0))


def half(network: Network) -> Blueprint:
    """Return a candidate that keeps a random half of every group; of equal parts the same, as Torch-Pruning has to."""
    rng = np.random.default_rng(0)
    masks = {}
    for group in network.groups:
        width = group.size // group.parts
        masks[group.name] = np.tile(rng.permutation(width) < max(1, width // 2), group.parts)
    return Blueprint.from_masks(masks)


def analyse_with_evo(subject: Subject, rounds: int) -> Iterator[dict[str, Any]]:
    """Measure `Network.analyse`: all of it, and of this the proof, and tracing with grouping, as Torch-Pruning does."""
    model, inputs = subject.make().eval(), example(subject)
    Network.analyse(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.zeros(1, 2))  # what happens once per process
    watches = {name: Watch(getattr(surgery, name)) for name in ("trace", "find_groups", "proved_groups")}
    for name, watch in watches.items():
        setattr(surgery, name, watch)
    peak = Peak()
    network = Network.analyse(model, inputs)
    memory = peak()
    for watch in watches.values():
        watch.seconds.clear()
    total = list(seconds_of(lambda: Network.analyse(model, inputs), rounds, 20))
    found = Structure.of(network)
    yield {
        "seconds": statistics.median(total),
        "seconds_structure": statistics.median(
            map(sum, zip(watches["trace"].seconds, watches["find_groups"].seconds, strict=True))
        ),
        "seconds_proof": statistics.median(watches["proved_groups"].seconds),
        "memory": memory,
        "groups": len(network.groups),
        "frozen": len(found.frozen),
        "share": found.searchable_share,
        "params": found.costs["params"],
    }


def analyse_with_torch_pruning(subject: Subject, rounds: int) -> Iterator[dict[str, Any]]:
    """Measure Torch-Pruning's dependency graph and the listing of all its groups; it proves nothing."""
    model, inputs = subject.make().eval(), example(subject)
    last = outputs(model, inputs)
    graph_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.zeros(1, 2))

    def work() -> list[Any]:
        return list(graph_of(model, inputs).get_all_groups(ignored_layers=last))

    peak = Peak()
    groups = work()
    memory = peak()
    touched = {id(parameter): torch.zeros(parameter.shape, dtype=torch.bool) for parameter in model.parameters()}
    for group in groups:
        mark(group, touched)
    total = sum(mask.numel() for mask in touched.values())
    yield {
        "memory": memory,
        "groups": len(groups),
        "share": sum(int(mask.sum()) for mask in touched.values()) / total,
        "seconds": statistics.median(seconds_of(work, rounds, 20)),
    }


def outputs(model: nn.Module, inputs: Tensor) -> list[nn.Module]:
    """Return the layers whose channels are the output, which a user of Torch-Pruning has to name."""
    frozen = [entry.name for entry in Network.analyse(model, inputs).frozen if "output" in entry.reason]
    return [model.get_submodule(name) for name in frozen] or [list(model.modules())[-1]]


def graph_of(model: nn.Module, inputs: Tensor) -> Any:
    """Return Torch-Pruning's dependency graph."""
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=inputs)


def mark(group: Any, touched: dict[int, Tensor]) -> None:
    """Mark the entries of parameters that a group of Torch-Pruning's cuts."""
    import torch_pruning

    for dependency, indices in group:
        module, prune = dependency.target.module, dependency.handler
        if isinstance(module, nn.Parameter):
            if id(module) in touched:
                touched[id(module)].index_fill_(dependency.target.pruning_dim, torch.tensor(indices), True)
            continue
        reads = prune in (torch_pruning.prune_conv_in_channels, torch_pruning.prune_linear_in_channels)
        swapped = isinstance(module, nn.ConvTranspose2d)
        for parameter in module.parameters(recurse=False):
            vector = parameter.dim() == 1
            dim = (None if reads else 0) if vector else int(reads) ^ int(swapped)
            if dim is not None and max(indices) < parameter.shape[dim]:
                touched[id(parameter)].index_fill_(dim, torch.tensor(indices), True)


def build_with_both(subject: Subject, rounds: int) -> Iterator[dict[str, Any]]:
    """Measure building one candidate: `Network.build` against Torch-Pruning's usual way for one candidate.

    That is: copy the network deeply, make the dependency graph of the copy, remove the same channels group by group.
    """
    model, inputs = subject.make().eval(), example(subject)
    network = Network.analyse(model, inputs)
    if not network.groups:
        return
    blueprint = half(network)
    small = network.build(blueprint)
    seconds = statistics.median(seconds_of(lambda: network.build(blueprint), 50 * rounds, 5))
    yield {"seconds_evo": seconds, "params": network.cost_of(blueprint)["params"]}
    removed = removals(network, blueprint)

    def work() -> nn.Module:
        return cut_with_torch_pruning(model, inputs, removed)

    other = work()
    seconds = statistics.median(seconds_of(work, 5 * rounds, 10))
    yield {"seconds_torch_pruning": seconds, "params_torch_pruning": sum(p.numel() for p in other.parameters())}
    with evaluating(small), evaluating(other):
        yield {"equal": bool(torch.equal(small(inputs), other(inputs)))}


def removals(network: Network, blueprint: Blueprint) -> dict[str, list[int]]:
    """Return the output channels to remove, by the first layer that produces them."""
    removed: dict[str, list[int]] = {}
    for group in network.groups:
        gone = np.append(~blueprint.masks[group.name], False)
        layer = group.producers[0]
        (cut,) = [cut for cut in group.cuts if cut.tensor in (f"{layer}.weight", layer) and not cut.reads]
        removed.setdefault(layer, []).extend(np.flatnonzero(gone[cut.channels]).tolist())
    return removed


def cut_with_torch_pruning(model: nn.Module, inputs: Tensor, removed: dict[str, list[int]]) -> nn.Module:
    """Return a copy of `model` without these output channels."""
    import torch_pruning

    copied = copy.deepcopy(model)
    graph = graph_of(copied, inputs)
    for name, channels in removed.items():
        layer = copied.get_submodule(name)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        graph.get_pruning_group(layer, prune, idxs=sorted(channels)).prune()
    assert torch_pruning  # imported once, outside of what is timed
    return copied


WORK = {"evo": analyse_with_evo, "torch_pruning": analyse_with_torch_pruning, "build": build_with_both}


def main() -> None:
    """Do one measurement: name of the network, kind of work, rounds."""
    name, work, rounds = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for found in WORK[work](SUBJECTS[name], int(rounds)):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
