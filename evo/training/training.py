"""Training and fine-tuning on tensors in memory."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network import evaluating
from evo.settings import Settings
from evo.training.data import Samples

if TYPE_CHECKING:
    from evo.task import Task

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Dtype = Literal["float32", "bfloat16"]


class Recipe(Settings):
    """How to train: optimiser, schedule, augmentation, precision."""

    epochs: Annotated[float, Field(ge=0, description="passes over the training images; a fraction is allowed")] = 1.0
    batch_size: Annotated[int, Field(ge=2, description="images per step")] = 128
    optimizer: Annotated[Literal["sgd", "adam"], Field(description="SGD with Nesterov momentum, or Adam")] = "sgd"
    lr: Annotated[float, Field(gt=0, description="highest learning rate")] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty of the optimiser")] = 5e-4
    schedule: Annotated[
        Literal["constant", "cosine", "onecycle"],
        Field(
            description="learning rate over the steps: constant, cosine to zero, or a rise over the first fifth and back"
        ),
    ] = "cosine"
    shift: Annotated[int, Field(ge=0, description="augmentation: random shift by up to this many pixels")] = 0
    flip: Annotated[bool, Field(description="augmentation: random horizontal flip")] = False
    distill: Annotated[
        float,
        Field(ge=0, le=1, description="share of the loss that asks for the original network's outputs, not the labels"),
    ] = 0.0
    temperature: Annotated[float, Field(gt=0, description="softens both outputs before they are compared")] = 4.0
    device: Annotated[str, Field(description="torch device to train on, e.g. cpu or cuda")] = "cpu"
    dtype: Annotated[Dtype, Field(description="precision of forward and backward; bfloat16 trains mixed")] = "float32"


def train(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    rng: np.random.Generator,
    on_epoch: Callable[[int, float], None] | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Train `model` in place on `samples` and return it in evaluation mode.

    Everything random (order, augmentation) comes from `rng`.

    Args:
        model: trained on `recipe.device` and returned on the CPU.
        samples: training data; never written to.
        recipe: see Recipe.
        rng: source of all randomness.
        on_epoch: called after every epoch with its number, from 1, and its mean loss.
        teacher: the network to distil from, in evaluation mode; needed if `recipe.distill` is positive.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
        SettingsError: `recipe.distill` is positive without a teacher.
    """
    if recipe.distill and teacher is None:
        raise SettingsError(f"distill: got {recipe.distill:g}, but there is no original network here to distil from")
    steps_per_epoch = max(1, len(samples) // recipe.batch_size)
    steps = round(recipe.epochs * steps_per_epoch)
    if steps == 0:
        return model.eval()
    # Layers that draw random numbers of their own (dropout) take them from torch's global generator.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(rng.integers(2**63)))
        return _train(model, samples, recipe, rng, steps, steps_per_epoch, on_epoch, teacher)


def _train(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    rng: np.random.Generator,
    steps: int,
    steps_per_epoch: int,
    on_epoch: Callable[[int, float], None] | None,
    teacher: nn.Module | None,
) -> nn.Module:
    device = torch.device(recipe.device)
    layout = _layout(samples)
    model = _place(model, device, layout).train()
    optimizer = _optimizer(model, recipe)
    if teacher is not None:
        teacher = _place(copy.deepcopy(teacher), device, layout).eval()
    loss_sum, epoch = torch.zeros((), device=device), 1
    for step, batch in zip(range(steps), _batches(len(samples), recipe.batch_size, rng), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _rate(recipe.schedule, step / steps)
        rows = torch.from_numpy(batch)
        x = augment(samples.x.index_select(0, rows), recipe, rng)
        x = x.to(device=device, memory_format=layout)
        y = samples.y.index_select(0, rows).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            loss = _loss(model(x), y, teacher(x.clone()) if recipe.distill and teacher is not None else None, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.detach()
        if (step + 1) % steps_per_epoch == 0 or step + 1 == steps:
            mean = float(loss_sum) / (step % steps_per_epoch + 1)
            if not math.isfinite(mean):
                raise FloatingPointError(f"the training loss became {mean} in epoch {epoch}; lower the learning rate")
            if on_epoch:
                on_epoch(epoch, mean)
            loss_sum, epoch = torch.zeros((), device=device), epoch + 1
    return _place(model, torch.device("cpu"), torch.contiguous_format).eval()


def _loss(scores: Tensor, labels: Tensor, original: Tensor | None, recipe: Recipe) -> Tensor:
    """Return cross-entropy, mixed with the divergence from the original network's softened scores if there are any.

    The divergence is scaled by the squared temperature, which keeps its gradients as large as the other's (Hinton et al.).
    """
    loss = nn.functional.cross_entropy(scores, labels)
    if original is None:
        return loss
    ours, theirs = (nn.functional.log_softmax(each / recipe.temperature, 1) for each in (scores, original.detach()))
    divergence = nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * divergence


def _layout(samples: Samples) -> torch.memory_format:
    """Return the memory format that convolutions on these samples run fastest in."""
    return torch.channels_last if samples.x.dim() == 4 else torch.contiguous_format


def _place(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """Move `model` to `device` and its convolutions' weights to `layout`, in place, and return it."""
    model.to(device)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return model


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Yield index batches for ever: a new permutation every epoch, its incomplete last batch left out."""
    while True:
        order = rng.permutation(count)
        for start in range(0, max(1, count - size + 1), size):
            yield order[start : start + size]


def _rate(schedule: str, progress: float) -> float:
    """Return the share of the highest learning rate at `progress` in [0, 1)."""
    if schedule == "constant":
        return 1.0
    if schedule == "onecycle":
        if progress < 0.2:
            return 0.05 + 0.95 * progress / 0.2
        progress = (progress - 0.2) / 0.8
    return 0.5 * (1 + math.cos(math.pi * progress))


def augment(x: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Return a batch (N, C, H, W) shifted and flipped at random, each image by its own draw; edges are filled with zero."""
    count = len(x)
    if recipe.shift:
        reach, (height, width) = recipe.shift, x.shape[2:]
        padded = nn.functional.pad(x, (reach,) * 4)
        rows = torch.from_numpy(rng.integers(0, 2 * reach + 1, count))[:, None] + torch.arange(height)
        columns = torch.from_numpy(rng.integers(0, 2 * reach + 1, count))[:, None] + torch.arange(width)
        x = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if recipe.flip:
        flipped = torch.from_numpy(rng.random(count) < 0.5)
        x = torch.where(flipped[:, None, None, None], x.flip(3), x)
    return x


def finetune(
    model: nn.Module,
    task: "Task",
    *,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
    **recipe: object,
) -> nn.Module:
    """Train `model` in place on the whole training set of `task` and return it.

    Args:
        model: usually what `Run.build` returned.
        task: where the training images come from.
        seed: of data order and augmentation.
        on_epoch: called after every epoch with its number, from 1, and its mean loss.
        recipe: any setting of Recipe, e.g. `epochs=10, lr=0.02, shift=2`; with `distill`, the task's original network teaches.
    """
    settings = Recipe(**recipe)
    teacher = task.network.build(task.network.full) if settings.distill else None
    return train(model, task.train, settings, np.random.default_rng(seed), on_epoch, teacher)


def recalibrate(model: nn.Module, samples: Samples, recipe: Recipe) -> nn.Module:
    """Replace the running statistics of every batch-norm layer by those of `samples`, in place; return `model`.

    A sliced network's activations differ from the ones its statistics were collected on; one forward pass mends that.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
    if not norms:
        return model
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    device = torch.device(recipe.device)
    with evaluating(_place(model, device, _layout(samples))):
        for norm in norms:
            norm.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            for x in torch.split(samples.x, recipe.batch_size):
                if len(x) > 1:
                    model(x.clone(memory_format=_layout(samples)).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return _place(model, torch.device("cpu"), torch.contiguous_format)


def error_rate(model: nn.Module, samples: Samples, *, batch_size: int = 1000, device: str = "cpu") -> float:
    """Return the top-1 error of `model` on `samples`, in [0, 1]; the model's mode is left as it is.

    Raises:
        FloatingPointError: the network's output is not finite.
    """
    wrong = 0
    target = torch.device(device)
    _place(model, target, _layout(samples))
    with evaluating(model):
        for x, y in zip(torch.split(samples.x, batch_size), torch.split(samples.y, batch_size), strict=True):
            scores = model(x.clone(memory_format=_layout(samples)).to(target))  # it may work in place
            if not bool(torch.isfinite(scores).all()):
                raise FloatingPointError("the network's output is not finite")
            wrong += int((scores.argmax(1).cpu() != y).sum())
    _place(model, torch.device("cpu"), torch.contiguous_format)
    return wrong / len(samples)
