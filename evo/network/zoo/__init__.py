"""Networks that come with `evo`: `ZOO` names every factory, `INPUTS` what its network reads."""

from collections.abc import Callable

from torch import nn

from evo.network.zoo.adalayernet import AdaLayerNet, adalayernet
from evo.network.zoo.alexnet import AlexNet, alexnet
from evo.network.zoo.channelbench import ChannelBench, channel_bench
from evo.network.zoo.cifar_resnet import CifarResNet, resnet20, resnet56, resnet110
from evo.network.zoo.densenet import DenseNet, densenet40, densenet_bc100
from evo.network.zoo.googlenet import GoogLeNet, googlenet
from evo.network.zoo.lenet import LeNet, lenet
from evo.network.zoo.mlp import MLP, mlp
from evo.network.zoo.mobilenet import MobileNetV1, MobileNetV2, mobilenet_v1, mobilenet_v2
from evo.network.zoo.nasbench201 import NasBench201, nasbench201
from evo.network.zoo.resnet import ResNet, resnet18, resnet50
from evo.network.zoo.shufflenet import ShuffleNetV2, shufflenet_v2
from evo.network.zoo.vgg import VGG, vgg16, vgg16_cifar, vgg19, vgg19_cifar
from evo.plugins import Registry

_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "adalayernet": adalayernet,
    "alexnet": alexnet,
    "channel_bench": channel_bench,
    "densenet40": densenet40,
    "densenet_bc100": densenet_bc100,
    "googlenet": googlenet,
    "lenet": lenet,
    "mlp": mlp,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "nasbench201": nasbench201,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet50": resnet50,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "shufflenet_v2": shufflenet_v2,
    "vgg16": vgg16,
    "vgg16_cifar": vgg16_cifar,
    "vgg19": vgg19,
    "vgg19_cifar": vgg19_cifar,
}


def _complaint(found: object) -> str | None:
    fits = callable(found) or isinstance(found, nn.Module)
    return None if fits else "expected a torch.nn.Module or a function returning one"


ZOO: Registry[Callable[..., nn.Module]] = Registry("network", "evo.networks", _FACTORIES, _complaint)

INPUTS: dict[str, tuple[int, ...]] = {
    "adalayernet": (3, 32, 32),
    "alexnet": (3, 227, 227),
    "channel_bench": (3, 32, 32),
    "densenet40": (3, 32, 32),
    "densenet_bc100": (3, 32, 32),
    "googlenet": (3, 32, 32),
    "lenet": (1, 28, 28),
    "mlp": (7,),
    "mobilenet_v1": (3, 224, 224),
    "mobilenet_v2": (3, 224, 224),
    "nasbench201": (3, 32, 32),
    "resnet18": (3, 224, 224),
    "resnet20": (3, 32, 32),
    "resnet50": (3, 224, 224),
    "resnet56": (3, 32, 32),
    "resnet110": (3, 32, 32),
    "shufflenet_v2": (3, 224, 224),
    "vgg16": (3, 224, 224),
    "vgg16_cifar": (3, 32, 32),
    "vgg19": (3, 224, 224),
    "vgg19_cifar": (3, 32, 32),
}
"""The shape, without the batch, of what a network with default arguments is meant for: (C, H, W), or (features,)."""

__all__ = [
    "INPUTS",
    "MLP",
    "VGG",
    "ZOO",
    "AdaLayerNet",
    "AlexNet",
    "ChannelBench",
    "CifarResNet",
    "DenseNet",
    "GoogLeNet",
    "LeNet",
    "MobileNetV1",
    "MobileNetV2",
    "NasBench201",
    "ResNet",
    "ShuffleNetV2",
    "adalayernet",
    "alexnet",
    "channel_bench",
    "densenet40",
    "densenet_bc100",
    "googlenet",
    "lenet",
    "mlp",
    "mobilenet_v1",
    "mobilenet_v2",
    "nasbench201",
    "resnet18",
    "resnet20",
    "resnet50",
    "resnet56",
    "resnet110",
    "shufflenet_v2",
    "vgg16",
    "vgg16_cifar",
    "vgg19",
    "vgg19_cifar",
]
