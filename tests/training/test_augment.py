"""Random order and augmentation."""

import numpy as np
import pytest
import torch

from evo.training import Recipe
from evo.training.augment import augment, batches


@pytest.mark.parametrize(("count", "size", "number"), [(100, 32, 3), (96, 32, 3), (20, 32, 1), (33, 32, 1)])
def test_an_epoch_takes_every_image_once_at_most(count: int, size: int, number: int) -> None:
    drawn = list(batches(count, size, np.random.default_rng(0)))
    assert [len(batch) for batch in drawn] == [min(size, count)] * number
    order = np.random.default_rng(0).permutation(count)
    assert np.array_equal(np.concatenate(drawn), order[: number * size])


@pytest.mark.parametrize(("shift", "flip"), [(2, False), (0, True), (1, True), (0, False)])
def test_augmentation_moves_every_image_by_its_own_draw(shift: int, flip: bool) -> None:
    images = torch.randn(50, 2, 5, 7)
    moved = augment(images, Recipe(shift=shift, flip=flip), np.random.default_rng(0))
    # The same image by image, with the same draws.
    rng = np.random.default_rng(0)
    down = rng.integers(0, 2 * shift + 1, 50) if shift else np.zeros(50, dtype=int)
    right = rng.integers(0, 2 * shift + 1, 50) if shift else np.zeros(50, dtype=int)
    mirrored = rng.random(50) < 0.5 if flip else np.zeros(50, dtype=bool)
    for index, image in enumerate(images):
        expected = torch.zeros_like(image)
        for row in range(5):
            for column in range(7):
                y, x = row + int(down[index]) - shift, column + int(right[index]) - shift
                if 0 <= y < 5 and 0 <= x < 7:
                    expected[:, row, column] = image[:, y, x]
        if mirrored[index]:
            expected = expected.flip(2)
        assert torch.equal(moved[index], expected)
    if shift:
        assert set(down.tolist()) == set(right.tolist()) == set(range(2 * shift + 1))
