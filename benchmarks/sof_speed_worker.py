"""What a worker of `benchmarks.sof_speed` does: scores candidates in several ways in turn and notes how long each takes."""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import evo
from benchmarks.cifar10 import read_images
from benchmarks.common import data_folder
from benchmarks.surgery_worker import cut_with_torch_pruning, removals, seconds_of
from evo.candidate import Candidate
from evo.fitness.gradients import Batch, GradientRatio, gradients, layer_weights
from evo.network.zoo import INPUTS, ZOO
from evo.training import Samples
from evo.training.datasets import digits

STRAIGHTFORWARD, EXACT, ROBUST, BFLOAT16, SMALL, SMALL_BFLOAT16 = (
    "straightforward",
    "exact",
    "robust",
    "bfloat16",
    "small batch",
    "small batch, bfloat16",
)
WAYS = (STRAIGHTFORWARD, EXACT, ROBUST, BFLOAT16, SMALL, SMALL_BFLOAT16)


@dataclass(frozen=True)
class Work:
    """What to do.

    Attributes:
        network: name in the zoo.
        size: images per batch.
        small: images per small batch.
        candidates: for each of the workers.
        ways: to score them.
        threads: of torch.
    """

    network: str
    size: int
    small: int
    candidates: int
    ways: tuple[str, ...] = WAYS
    threads: int = 1


def images_of(network: str, count: int) -> Samples:
    """Return real images of the network's shape."""
    if INPUTS[network][0] == 1:
        found = digits()[0]
        return found.take(np.resize(np.arange(len(found)), max(count, 100)))
    return read_images(data_folder() / "cifar10_jpeg_train.npz", max(count, 100))


class Scores:
    """All ways to score one candidate after another."""

    def __init__(self, work: Work) -> None:
        torch.manual_seed(0)
        self.model = ZOO[work.network]()
        images = images_of(work.network, 2 * work.size + 100)
        self.task = evo.Task(self.model, images, val=100 / len(images))
        robust = {"batches": 2, "penalty": False}
        self.fitnesses = {
            EXACT: evo.ScoreOfFrame(batch_size=work.size, literal=True, signed=True, **robust),
            ROBUST: evo.ScoreOfFrame(batch_size=work.size, **robust),
            BFLOAT16: evo.ScoreOfFrame(batch_size=work.size, dtype="bfloat16", **robust),
            SMALL: evo.ScoreOfFrame(batch_size=work.small, **robust),
            SMALL_BFLOAT16: evo.ScoreOfFrame(batch_size=work.small, dtype="bfloat16", **robust),
        }

    def candidate(self, index: int) -> Candidate:
        """Return a random candidate: 30 to 90 % of the channels of each group that FNP frees, which no addition ties."""
        rng = np.random.default_rng(index)
        masks = {}
        for group in self.task.network.groups:
            share = rng.uniform(0.3, 0.9) if len(group.producers) == 1 else 1
            masks[group.name] = rng.permutation(np.arange(group.size) < share * group.size)
        return Candidate(self.task, self.task.network.repaired(masks), 0)

    def ways(self, candidate: Candidate) -> dict[str, Callable[[], float]]:
        """Return what scores it in each way."""
        batches = self.fitnesses[EXACT].draw(candidate, channels_last=False)
        removed = removals(self.task.network, candidate.blueprint)

        def ours(fitness: evo.ScoreOfFrame) -> Callable[[], float]:
            return lambda: fitness(candidate)["score"]

        found = {name: ours(fitness) for name, fitness in self.fitnesses.items()}
        return {STRAIGHTFORWARD: lambda: straightforward(self.model, removed, batches), **found}

    def flops(self, candidate: Candidate, size: int) -> float:
        """Return floating-point operations of a score: forward, and backward to weights and to inputs but the images."""
        network = self.task.network
        first = network.costs.layers[0]
        weights = int(network.costs.weights(network.counts(candidate.blueprint))[0])
        return 2.0 * 2 * size * (3 * candidate.costs["macs"] - weights * first.uses)


def straightforward(model: nn.Module, removed: Mapping[str, list[int]], batches: Sequence[Batch]) -> float:
    """Copy, prune with Torch-Pruning, a backward pass per batch, ZiCo as its public code computes it, in NumPy.

    The gradients are cleared between the batches, which that code does not do.
    """
    small = cut_with_torch_pruning(model, batches[0][0][:1], dict(removed)).train()
    layers = [module for module in small.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    found: list[list[NDArray[np.float32]]] = [[] for _ in layers]
    for images, labels in batches:
        small.zero_grad()
        nn.functional.cross_entropy(small(images), labels).backward()  # type: ignore[no-untyped-call]
        for layer, own in zip(layers, found, strict=True):
            assert layer.weight.grad is not None
            own.append(layer.weight.grad.reshape(-1).numpy())
    return zico_with_numpy(found)


def zico_with_numpy(layers: Sequence[Sequence[NDArray[np.float32]]]) -> float:
    """Return Σ log Σ E|g| / σ(g), σ ≠ 0, of gradients of every layer and batch."""
    score = 0.0
    for layer in layers:
        stacked = np.array(layer)
        deviation = np.std(stacked, axis=0)
        varies = np.nonzero(deviation)[0]
        total = np.sum(np.mean(np.abs(stacked), axis=0)[varies] / deviation[varies])
        if total:
            score += float(np.log(total))
    return score


def peak() -> float:
    """Return the floating-point operations per second of a large float32 convolution, the best of several."""
    weight = torch.randn(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    images = torch.randn(16, 256, 28, 28).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = min(seconds_of(lambda: nn.functional.conv2d(images, weight, padding=1), 12, 5))
    return 2.0 * images.numel() * 256 * 9 / seconds


def overheads(scores: Scores, candidate: Candidate) -> dict[str, float]:
    """Return the seconds that making a candidate takes, and summing its gradients; medians."""
    network = scores.task.network
    build = statistics.median(seconds_of(lambda: network.untrained(candidate.blueprint), 30, 5))
    model = network.untrained(candidate.blueprint)
    batch = scores.fitnesses[SMALL].draw(candidate)[0]
    found = gradients(model, batch, layer_weights(model))
    seconds = []
    for _ in range(10):
        copies = [[gradient.clone() for gradient in found] for _ in range(2)]
        start = time.perf_counter()
        GradientRatio().of(copies, [1] * len(found))
        seconds.append(time.perf_counter() - start)
    return {"build": build, "reduce": statistics.median(seconds)}


def agreement(scores: Scores, candidate: Candidate) -> float:
    """Return how far our ratio is from NumPy's of the very same gradients, relative: the sums are the same."""
    model = scores.task.network.untrained(candidate.blueprint)
    weights = layer_weights(model)
    found = [gradients(model, batch, weights) for batch in scores.fitnesses[SMALL].draw(candidate)]
    theirs = zico_with_numpy([[part.numpy().reshape(-1) for part in layer] for layer in zip(*found, strict=True)])
    ours = GradientRatio.printed(signed=True).of(
        [[part.clone() for part in batch] for batch in found], [1] * len(weights)
    )
    return abs(ours - theirs) / abs(theirs)


def run(work: Work, number: int, workers: int, barrier: Any, results: Any) -> None:
    """Be worker `number`: pinned to a processor of its own; all workers do the same thing at the same time."""
    processors = sorted(os.sched_getaffinity(0))
    if workers > 1:
        os.sched_setaffinity(0, {processors[number % len(processors)]})
    torch.set_num_threads(work.threads)
    scores = Scores(work)
    candidates = [scores.candidate(number + workers * index) for index in range(work.candidates)]
    first = scores.ways(candidates[0])
    for name in work.ways:
        first[name]()  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in work.ways}
    values: dict[str, list[float]] = {name: [] for name in work.ways}
    peaks = []
    for index, candidate in enumerate(candidates):
        barrier.wait()
        peaks.append(peak())
        ways = scores.ways(candidate)
        for turn in range(len(work.ways)):
            name = work.ways[(turn + index) % len(work.ways)]
            barrier.wait()
            start = time.perf_counter()
            value = ways[name]()
            seconds[name].append(time.perf_counter() - start)
            values[name].append(value if math.isfinite(value) else math.nan)
    barrier.wait()
    alone = None
    if number == 0 and ROBUST in work.ways:
        robust = [scores.ways(candidate)[ROBUST] for candidate in candidates]
        start = time.perf_counter()
        for way in robust:
            way()
        alone = time.perf_counter() - start
    barrier.wait()
    results.put(
        {
            "number": number,
            "seconds": seconds,
            "scores": values,
            "peak": max(peaks),
            "flops": [scores.flops(candidate, work.size) for candidate in candidates],
            "alone": alone,
            "agreement": agreement(scores, candidates[0]),
            **overheads(scores, candidates[0]),
        }
    )
