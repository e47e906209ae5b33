"""CIFAR-10, re-encoded as JPEG: say "CIFAR-10 (JPEG)" beside any accuracy."""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evo.training import Samples, split

MEAN, DEVIATION = (0.49125, 0.48209, 0.44652), (0.24523, 0.24278, 0.26063)


def read_images(path: Path, count: int | None = None) -> Samples:
    """Return the first `count` images (default all) of one of the two files, normalised, shape (N, 3, 32, 32)."""
    if not path.is_file():
        raise SystemExit(f"{path} is missing; set EVO_DATA to the folder that has it")
    with np.load(path, allow_pickle=False) as arrays:
        data, offsets, labels = arrays["bytes"], arrays["offsets"], arrays["labels"].astype(np.int64)[:count]
    decoded = [
        np.asarray(Image.open(io.BytesIO(data[start:stop].tobytes())))
        for start, stop in pairwise(offsets[: len(labels) + 1])
    ]
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    pixels = (np.stack(decoded).astype(np.float32) / 255 - mean) / deviation
    return Samples(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))), torch.from_numpy(labels))


def load_cifar10(folder: Path, most: int | None = None) -> dict[str, Samples]:
    """Return `train` (45,000 images), `val` (5,000 of the training images, class-balanced) and `test` (10,000).

    Of each the first `most`, if given.
    """
    everything = read_images(folder / "cifar10_jpeg_train.npz")
    train, val = split(everything, 0.1, np.random.default_rng(0))
    parts = {"train": train, "val": val, "test": read_images(folder / "cifar10_jpeg_test.npz")}
    return parts if most is None else {name: part.take(np.arange(min(most, len(part)))) for name, part in parts.items()}


def batches(images: Samples, size: int, count: int, seed: int) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    """Return `count` batches of `size` different images, drawn by `seed`."""
    rows = np.random.default_rng(seed).permutation(len(images))[: size * count].reshape(count, size)
    return [(part.x, part.y) for part in map(images.take, rows)]
