"""Networks that come with `evo`; `ZOO` names every factory."""

from collections.abc import Callable

from torch import nn

from evo.network.zoo.lenet import LeNet, lenet
from evo.network.zoo.resnet import CifarResNet, resnet20

ZOO: dict[str, Callable[..., nn.Module]] = {"lenet": lenet, "resnet20": resnet20}

__all__ = ["ZOO", "CifarResNet", "LeNet", "lenet", "resnet20"]
