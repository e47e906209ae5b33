"""Data sets that need no download; `DATASETS` names them."""

from typing import Any

import numpy as np
import torch

from evo.errors import SettingsError
from evo.plugins import Registry
from evo.training.data import Samples, split


def digits(size: int = 28) -> tuple[Samples, Samples, Samples]:
    """Return 1,797 handwritten digits, ten classes, as (train, val, test): 60, 20 and 20 % of every class.

    The 8×8 images that come with scikit-learn (the test set of UCI's Optical Recognition of Handwritten Digits), resized
    bilinearly to `size` × `size` and normalised by the mean and deviation of the training images. Always the same split.

    Args:
        size: height and width; 28 suits LeNet.

    Raises:
        SettingsError: `size` is not a whole number ≥ 8.
    """
    from sklearn.datasets import load_digits

    if not isinstance(size, int) or size < 8:
        raise SettingsError(f"digits: size is a whole number ≥ 8, got {size!r}")
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.astype(np.float32).reshape(-1, 1, 8, 8) / 16)
    x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    rng = np.random.default_rng(0)
    rest, test = split(Samples(x, torch.from_numpy(labels.astype(np.int64))), 0.2, rng)
    train, val = split(rest, 0.25, rng)
    # Rounded: sums differ in the last bits with the number of threads, and these data must be the same everywhere.
    mean, deviation = (round(float(value), 3) for value in (train.x.double().mean(), train.x.double().std()))
    parts = [Samples((part.x - mean) / deviation, part.y) for part in (train, val, test)]
    return parts[0], parts[1], parts[2]


def _complaint(found: object) -> str | None:
    return None if callable(found) or isinstance(found, tuple | list) else "expected data, or a function returning them"


DATASETS: Registry[Any] = Registry("data set", "evo.datasets", {"digits": digits}, _complaint)
