"""A task small enough to analyse and evaluate in milliseconds."""

import torch
from torch import nn

from evo.task import Task
from evo.training import Samples


def small_task() -> Task:
    """Return a task of 96 training and 48 validation images (1, 8, 8) in three classes, the same at every call.

    Its network has two convolutions with batch normalisation and two linear layers, 26 searchable channels, and weights
    as they are initialised.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 4, 12),
            nn.ReLU(),
            nn.Linear(12, 3),
        )
        labels = torch.arange(144) % 3
        # A bar whose place is the class, under noise: learnable within an epoch.
        images = 0.5 * torch.randn(144, 1, 8, 8)
        for label in range(3):
            images[labels == label, :, 2 * label + 1] += 1.0
    return Task(model, Samples(images[:96], labels[:96]), Samples(images[96:], labels[96:]))
