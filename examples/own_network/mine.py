"""A network, data and a fitness of one's own: everything that run.toml names as `mine:…`."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import evo
from evo.training import Recipe, Samples, balanced_subset, error_rate, train


class SmallNet(nn.Module):
    """Three convolutions with a shortcut around the second, for 8×8 images."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.classify = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.stem(images)
        x = torch.relu(x + self.block(x))
        scores: Tensor = self.classify(self.head(x).mean((2, 3)))
        return scores


def network(width: int = 16) -> SmallNet:
    """Return the network; run.toml sets `width` in [task.model_args] and trains it in [task.train]."""
    return SmallNet(width)


def data() -> tuple[Samples, Samples, Samples]:
    """Return (train, val, test): here tensors in memory, but any torch data set of (image, class number) will do."""
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.astype(np.float32).reshape(-1, 1, 8, 8) / 8 - 1)
    y = torch.from_numpy(labels.astype(np.int64))
    shuffled = Samples(x, y).take(np.random.default_rng(0).permutation(len(y)))
    parts = (slice(1000), slice(1000, 1400), slice(1400, None))
    train_part, val_part, test_part = (Samples(shuffled.x[part], shuffled.y[part]) for part in parts)
    return train_part, val_part, test_part


@evo.fitness(maximize="score", minimize=("error", "macs"))
def accurate_and_quick(candidate: evo.Candidate) -> dict[str, float]:
    """Judge a candidate by its accuracy after a short fine-tuning and by the multiplications it saves.

    Costs such as `macs` are known exactly and need not be returned.
    """
    task, rng = candidate.task, candidate.rng()
    subset = task.train.take(balanced_subset(task.train.y, 400, rng))
    model = train(candidate.build(), subset, Recipe(epochs=2, batch_size=50), rng)
    error = error_rate(model, task.val)
    saved = 1 - candidate.costs["macs"] / task.network.cost_of(task.network.full)["macs"]
    return {"score": 1 - error + 0.3 * saved, "error": error}
