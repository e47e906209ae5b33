"""How much faster is OCNNA's importance than the loop that its paper describes?

Question: Algorithm 1 runs scikit-learn's PCA on the feature map of every filter for every image, in parallel over all
processors. How long does a filter and image take so, how long in `evo.importance`, and how long does all of VGG-16 take?

Set-up: VGG-16 for CIFAR-10 as it is initialised, class-balanced training images of CIFAR-10 (JPEG), two worker processes of one
thread each. Both ways get the same feature maps of every convolution and return the Frobenius norm of what holds 95 % of the
variance; the loop does `PCA(n_components=0.95, svd_solver="full").fit_transform` and a norm per map, on a sample of them, the
other way all maps of one batch. Times are the best of a few repetitions, while the other process does the same work. Norms
have to agree to 1e-6, or there is no result. "Whole" is `ocnna` from the call to the scores: with the start of the
processes, the forward passes, and everything else. For the loop that is the time per map by the number of maps, with the same
one forward pass per image (Algorithm 1 would do one per image and filter).

Outputs: `results/ocnna_speed.json` and a table. Targets: 200 times faster per filter and image; VGG-16 with 5,000 images in
minutes.

Run: `python -m benchmarks.ocnna_speed` (about two minutes on two processors; `--quick` some 20 seconds). The images are read
from the folder `EVO_DATA`.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from torch import Tensor

import evo
from benchmarks.cifar10 import read_images
from benchmarks.common import ROOT, data_folder, write_results
from evo.importance import ocnna_scores
from evo.importance.feature_maps import CHUNK
from evo.importance.ocnna import SHARD
from evo.importance.retained_norm import retained_norms
from evo.network.zoo import vgg16_cifar
from evo.training import Samples, balanced_subset

TARGET = 200.0
WORKERS = 2
REPETITIONS = 5
VARIANCE = 0.95


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        network: with convolutions.
        samples: images to make feature maps of.
        sample: maps that the loop does at a time.
    """

    network: evo.Network
    samples: Samples
    sample: int


def feature_maps(subject: Subject, layer: str) -> Tensor:
    """Return what a layer returns for the images of one shard, shape (N, C, H, W)."""
    found: list[Tensor] = []
    model = subject.network.build(subject.network.full)
    with torch.no_grad():
        model.get_submodule(layer).register_forward_hook(lambda _, inputs, output: found.append(output.clone()))
        model(subject.samples.x[:SHARD])
    return found[0]


def loop(maps: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    """Return the norms of maps as the paper tells it."""
    norms = []
    for one in maps:
        projected = PCA(n_components=VARIANCE, svd_solver="full").fit_transform(one)
        norms.append(float(np.linalg.norm(projected)))
    return norms


def best(function: Callable[[], object]) -> float:
    """Return the seconds of the fastest repetition."""
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measured(subject: Subject, item: tuple[str, int]) -> dict[str, Any]:
    """Return seconds per map of both ways for one layer, in a worker; the sample depends on the item's number."""
    layer, number = item
    maps = feature_maps(subject, layer)
    flat = maps.flatten(0, 1)
    rows = np.random.default_rng(number).choice(len(flat), min(subject.sample, len(flat)), replace=False)
    sample = flat[torch.from_numpy(rows)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scikit-learn divides by the variance of constant maps
        expected = loop(sample.double().numpy())
        literal = best(lambda: loop(sample.numpy())) / len(sample)
    np.testing.assert_allclose(retained_norms(sample, VARIANCE).numpy(), expected, rtol=1e-6, err_msg=layer)
    parts = torch.split(maps, max(1, CHUNK // maps[0].numel()))
    own = best(lambda: [retained_norms(part.flatten(0, 1), VARIANCE) for part in parts]) / len(flat)
    return {"layer": layer, "filters": maps.shape[1], "map": list(maps.shape[2:]), "loop": literal, "own": own}


def by_layer(subject: Subject) -> list[dict[str, Any]]:
    """Return a row per layer: seconds per filter and image of `WORKERS` processes together."""
    layers = [group.name for group in subject.network.groups]
    items = [(layer, number) for layer in layers for number in range(WORKERS)]
    found = evo.LocalEvaluator(workers=WORKERS).map(measured, subject, items)
    rows = []
    for index in range(0, len(found), WORKERS):
        several = found[index : index + WORKERS]
        mean = {way: float(np.mean([row[way] for row in several])) / WORKERS for way in ("loop", "own")}
        rows.append({**several[0], **mean, "faster": mean["loop"] / mean["own"]})
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some 20 seconds that only show that it runs")
    parser.add_argument("--images", type=int, default=5000, help="that VGG-16's importance is computed on")
    options = parser.parse_args()
    images = 200 if options.quick else options.images
    everything = read_images(data_folder() / "cifar10_jpeg_train.npz", 1000 if options.quick else None)
    chosen = everything.take(balanced_subset(everything.y, images, np.random.default_rng(0)))
    torch.manual_seed(0)
    network = evo.Network.analyse(vgg16_cifar(), chosen.x[:1])
    rows = by_layer(Subject(network, chosen, 20 if options.quick else 200))
    start = time.perf_counter()
    ocnna_scores(network, chosen, images=images, map_items=evo.LocalEvaluator(workers=WORKERS).map)
    whole = time.perf_counter() - start
    total = {way: images * sum(row["filters"] * row[way] for row in rows) for way in ("loop", "own")}
    passes = max(0.0, whole - total["own"])
    results = {
        "images": images,
        "workers": WORKERS,
        "layers": rows,
        "filter_images": images * sum(row["filters"] for row in rows),
        "pca_seconds": total,
        "faster": total["loop"] / total["own"],
        "whole_seconds": whole,
        "whole_seconds_of_the_loop": total["loop"] + passes,
        "whole_faster": (total["loop"] + passes) / whole,
        "target": TARGET,
        "reached": total["loop"] / total["own"] >= TARGET,
    }
    show(results, Console())
    print(f"written to {write_results('ocnna_speed', results, folder=ROOT / '.cache' if options.quick else None)}")


def show(results: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table(
        "layer", "filters", "map", "loop, µs", "own, µs", "faster", title="A filter and image, two processes together"
    )
    for row in results["layers"]:
        size = "×".join(map(str, row["map"]))
        figures = (f"{1e6 * row['loop']:.1f}", f"{1e6 * row['own']:.3f}", f"{row['faster']:.0f}×")
        table.add_row(row["layer"], str(row["filters"]), size, *figures)
    console.print(table)
    seconds = results["pca_seconds"]
    console.print(
        f"{results['filter_images']:,} filters and images: {seconds['loop']:.0f} s by the loop, {seconds['own']:.1f} s here, "
        f"{results['faster']:.0f}×; the target of {TARGET:.0f}× is {'reached' if results['reached'] else 'missed'}."
    )
    console.print(
        f"Whole, {results['images']} images: {results['whole_seconds']:.1f} s, {results['whole_faster']:.0f}× faster."
    )


if __name__ == "__main__":
    main()
