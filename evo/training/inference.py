"""A network on its device, and what takes forward passes alone: batch-norm statistics and the error."""

import torch
from torch import nn

from evo.errors import SettingsError
from evo.network import evaluating
from evo.training.data import Samples
from evo.training.recipe import Recipe

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CPU = torch.device("cpu")


def layout_of(samples: Samples) -> torch.memory_format:
    """Return the memory format that convolutions on these samples run fastest in."""
    return torch.channels_last if samples.x.dim() == 4 else torch.contiguous_format


def place(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """Move `model` to `device` and its convolutions' weights to `layout`, in place, and return it."""
    model.to(device)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return model


def recalibrate(model: nn.Module, samples: Samples, recipe: Recipe, images: int | None = None) -> nn.Module:
    """Replace the running statistics of every batch-norm layer by those of `samples`, in place; return `model`.

    A sliced network's activations differ from the ones its statistics were collected on; one forward pass mends that.
    Statistics are plain averages over the batches; a last batch of a single image, which has no variance, is left out.

    Args:
        model: any mode; a layer that keeps no statistics is left alone.
        samples: in an order that makes every batch a fair sample.
        recipe: its batch_size, device and dtype count.
        images: only the first so many; default all.

    Raises:
        SettingsError: fewer than two images.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
    if not norms:
        return model
    used = samples.x[:images]
    if len(used) < 2:
        raise SettingsError(f"recalibrate: statistics need two images or more, got {len(used)}")
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    device, layout = torch.device(recipe.device), layout_of(samples)
    try:
        with evaluating(place(model, device, layout)):
            for norm in norms:
                norm.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
                for x in torch.split(used, recipe.batch_size):
                    if len(x) > 1:
                        model(x.clone(memory_format=layout).to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        place(model, CPU, torch.contiguous_format)
    return model


def error_rate(model: nn.Module, samples: Samples, *, batch_size: int = 1000, device: str = "cpu") -> float:
    """Return the top-1 error of `model` on `samples`, in [0, 1]; the model's mode is left as it is.

    Raises:
        FloatingPointError: the network's output is not finite.
    """
    target = torch.device(device)
    place(model, target, layout_of(samples))
    error = error_in_place(model, samples, batch_size, target)
    place(model, CPU, torch.contiguous_format)
    return error


def error_in_place(model: nn.Module, samples: Samples, batch_size: int, device: torch.device) -> float:
    """Return what `error_rate` does, of a network that is on `device` already and stays as it is there."""
    wrong, layout = 0, layout_of(samples)
    with evaluating(model):
        for x, y in zip(torch.split(samples.x, batch_size), torch.split(samples.y, batch_size), strict=True):
            scores = model(x.clone(memory_format=layout).to(device))  # it may work in place
            if not bool(torch.isfinite(scores).all()):
                raise FloatingPointError("the network's output is not finite")
            wrong += int((scores.argmax(1).cpu() != y).sum())
    return wrong / len(samples)
