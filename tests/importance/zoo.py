"""Networks of the zoo, small and untrained but for random scales of their batch normalisation, analysed once."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

import evo
from evo.network.zoo import alexnet, lenet, mobilenet_v2, resnet20, vgg16_cifar
from evo.training import Samples

MAKE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (lenet, (1, 28, 28)),
    "resnet20": (lambda: resnet20(width=8), (3, 16, 16)),
    "vgg16_cifar": (lambda: vgg16_cifar(widths=[8, 8, 12, 12, *[16] * 9]), (3, 32, 32)),
    "mobilenet_v2": (lambda: mobilenet_v2(10, multiplier=0.25, small_input=True), (3, 16, 16)),
    "alexnet": (lambda: alexnet(10, widths=[8, 12, 16, 16, 12, 20, 20]), (3, 67, 67)),
}


@cache
def network_of(name: str, multiple: int = 1) -> evo.Network:
    """Return one of them, its groups kept in multiples of `multiple`."""
    make, shape = MAKE[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
        return evo.Network.analyse(model, torch.randn(1, *shape), multiple=multiple)


@cache
def task_of(name: str, multiple: int = 1) -> evo.Task:
    """Return a task of one of them."""
    return task_around(network_of(name, multiple), *MAKE[name][1])


def task_around(network: evo.Network, *shape: int) -> evo.Task:
    """Return a task of `network` and two images of this shape."""
    images = Samples(torch.linspace(0, 1, 2 * math.prod(shape)).reshape(2, *shape), torch.tensor([0, 0]))
    return evo.Task(network, images, images)
