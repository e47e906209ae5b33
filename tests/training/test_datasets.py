"""The built-in data."""

import pytest
import torch

from evo.errors import SettingsError
from evo.training.datasets import DATASETS, digits


def test_digits_are_split_evenly_and_normalised() -> None:
    parts = DATASETS["digits"]()
    assert [len(part) for part in parts] == [1078, 360, 359]
    for part in parts:
        assert part.x.shape[1:] == (1, 28, 28)
        counts = torch.bincount(part.y, minlength=10)
        assert int(counts.max() - counts.min()) <= 10  # the classes themselves differ by nine
    assert float(parts[0].x.mean()) == pytest.approx(0, abs=2e-3)
    assert float(parts[0].x.std()) == pytest.approx(1, abs=2e-3)


def test_digits_are_the_same_with_any_number_of_threads() -> None:
    digests = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        digests.append([part.digest for part in digits()])
    torch.set_num_threads(1)
    assert digests[0] == digests[1]


def test_digits_overlap_nowhere() -> None:
    first = digits(8)
    images = {image.numpy().tobytes() for part in first for image in part.x}
    assert len(images) == sum(map(len, first))


def test_a_size_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"^digits: size is a whole number ≥ 8, got 7$"):
        digits(7)
