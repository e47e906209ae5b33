"""Training and fine-tuning on tensors in memory."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.training.appraisal import ConnectionAppraisal
from evo.training.augment import augment, batches
from evo.training.checkpoint import Best, Checkpoint, TrainingState, describe_job
from evo.training.data import Samples
from evo.training.hooks import Hook, Hooks
from evo.training.inference import CPU, error_in_place, layout_of, place
from evo.training.optimizer import optimizer_of
from evo.training.recipe import Recipe
from evo.training.schedule import learning_rate
from evo.training.straight_through import with_straight_through

if TYPE_CHECKING:
    from evo.task import Task


@dataclass(frozen=True)
class EpochReport:
    """How a training stands after an epoch.

    Attributes:
        epoch: its number, from 1; the last one may be a fraction of an epoch.
        epochs: how many there will be, unless training stops early.
        loss: mean loss on the training images, penalties of hooks included.
        lr: learning rate of its last step.
        error: top-1 error on the validation images, in [0, 1]; None if there are none.
        best_epoch, best_error: those of the lowest error so far; None if there are no validation images.
        last: whether training ends with this epoch.
        seconds: time since training began, or since it was resumed.
        seconds_left: at this pace, without stopping early.
    """

    epoch: int
    epochs: int
    loss: float
    lr: float
    error: float | None
    best_epoch: int | None
    best_error: float | None
    last: bool
    seconds: float
    seconds_left: float


def train(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    on_epoch: Callable[[EpochReport], None] | None = None,
    teacher: nn.Module | None = None,
    val: Samples | None = None,
    checkpoint: str | Path | None = None,
    hooks: Sequence[Hook] = (),
) -> nn.Module:
    """Train `model` in place on `samples` and return it in evaluation mode.

    Everything random (order, augmentation, dropout) comes from `rng`. Killed and called again with the same arguments, a
    training with a checkpoint goes on after the last epoch that was finished, and ends with the same weights, bit for bit;
    one that has ended hands them back at once.

    Args:
        model: trained on `recipe.device` and returned on the CPU.
        samples: training data; never written to.
        recipe: see Recipe.
        rng: source of all randomness.
        on_epoch: called after every epoch; `reports.append` collects the history.
        teacher: the network to distil from, in evaluation mode; needed if `recipe.distill` is positive.
        val: images to measure the error on after every epoch, if `on_epoch` or `recipe.patience` asks for it; needed for
            the latter. Without patience they play no part in the result.
        checkpoint: file that the whole state is written to after every epoch: twice the network's size, three times with
            Adam, and once more with patience; yours to delete, unless there is a FloatingPointError. Hooks add their tensors.
        hooks: what takes part in every step, see Hook; made for this training alone. A network whose blueprint has bits is
            trained with a StraightThrough besides.

    Raises:
        FloatingPointError: the loss became NaN or infinite, or the network's output on `val` did.
        NetworkError: the checkpoint cannot be written, is damaged, or belongs to another training.
        SettingsError: `recipe.distill` is positive without a teacher, or `recipe.patience` given without `val`.
    """
    if recipe.distill and teacher is None:
        raise SettingsError(f"distill: got {recipe.distill:g}, but there is no original network here to distil from")
    if recipe.patience and val is None:
        raise SettingsError(f"patience: got {recipe.patience}, but there are no validation images here to stop by")
    if not (on_epoch or recipe.patience):
        val = None
    steps = recipe.steps(len(samples))
    appraisal = None if recipe.appraisal is None else ConnectionAppraisal(recipe.appraisal, steps)
    party = Hooks([*with_straight_through(model, hooks), *([] if appraisal is None else [appraisal])])
    if steps == 0:
        with closing(party):
            party.begin(model)
            party.end()
        return model.eval()
    file = None
    if checkpoint is not None:
        file = Checkpoint(Path(checkpoint), describe_job(model, samples, val, recipe, rng, teacher, party))
    device = torch.device(recipe.device)
    # Layers that draw random numbers of their own (dropout) take them from torch's global generators.
    own = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=own), torch.enable_grad(), closing(party):
        torch.manual_seed(int(rng.integers(2**63)))
        training = _Training(model, samples, recipe, rng, teacher, val, party)
        try:
            training.run(on_epoch, file)
        except FloatingPointError:
            if file is not None:
                file.path.unlink(missing_ok=True)  # going on from there would end the same way
            raise
    if appraisal is not None:
        appraisal.note_on(model)
    return place(model, CPU, torch.contiguous_format).eval()


def finetune(
    model: nn.Module,
    task: "Task",
    *,
    seed: int = 0,
    on_epoch: Callable[[EpochReport], None] | None = None,
    checkpoint: str | Path | None = None,
    hooks: Sequence[Hook] = (),
    **recipe: object,
) -> nn.Module:
    """Train `model` in place on the whole training set of `task` and return it.

    Args:
        model: usually what `Run.build` returned.
        task: where the training images come from; its validation images say when to stop, with `patience`.
        seed: of data order and augmentation.
        on_epoch, checkpoint, hooks: see `evo.training.train`.
        recipe: any setting of Recipe, e.g. `epochs=10, lr=0.02, shift=2`; with `distill`, the task's original network teaches.
    """
    settings = Recipe(**recipe)
    teacher = task.network.build(task.network.full) if settings.distill else None
    rng = np.random.default_rng(seed)
    return train(
        model,
        task.train,
        settings,
        rng,
        on_epoch=on_epoch,
        teacher=teacher,
        val=task.val,
        checkpoint=checkpoint,
        hooks=hooks,
    )


class _Training:
    """One training under way."""

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        recipe: Recipe,
        rng: np.random.Generator,
        teacher: nn.Module | None,
        val: Samples | None,
        hooks: Hooks,
    ) -> None:
        self.samples, self.recipe, self.val = samples, recipe, val
        self.steps, self.per_epoch = recipe.steps(len(samples)), recipe.steps_per_epoch(len(samples))
        self.device, self.layout = torch.device(recipe.device), layout_of(samples)
        place(model, self.device, self.layout).train()
        hooks.begin(model)
        self.state = TrainingState(model, optimizer_of(model, recipe), rng, hooks)
        self.teacher = None
        if recipe.distill and teacher is not None:
            self.teacher = place(copy.deepcopy(teacher), self.device, self.layout).eval()

    def run(self, on_epoch: Callable[[EpochReport], None] | None, file: Checkpoint | None) -> None:
        """Train to the end, from the beginning or from where `file` says."""
        state = self.state
        if file is not None and not file.restore(state):
            file.write(state)  # now, and not only after a long epoch, it shows whether it can be written
        begun, first = time.perf_counter(), state.step
        while not self.ended:
            loss = self._epoch()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the training loss became {loss} in epoch {self.epoch}; lower the learning rate"
                )
            error = self._judge()
            state.hooks.after_epoch(error)
            if file is not None:
                file.write(state)
            if on_epoch:
                seconds = time.perf_counter() - begun
                left = seconds / (state.step - first) * (self.steps - state.step)
                on_epoch(self._report(loss, error, seconds, left))
        if self.recipe.patience and state.best is not None:
            state.use_best()
        state.hooks.end()

    @property
    def epoch(self) -> int:
        """Epochs begun so far: the number of the present one."""
        return math.ceil(self.state.step / self.per_epoch)

    @property
    def ended(self) -> bool:
        """Whether all steps are done, or the error has not improved for too long."""
        best, patience = self.state.best, self.recipe.patience
        return self.state.step >= self.steps or bool(patience and best and self.epoch - best.epoch >= patience)

    def _epoch(self) -> float:
        """Train until the next epoch begins; return the mean loss."""
        state, recipe, first, hooks = self.state, self.recipe, self.state.step, self.state.hooks
        stop = min(first + self.per_epoch, self.steps)
        loss_sum = torch.zeros((), device=self.device)
        for step, batch in zip(
            range(first, stop), batches(len(self.samples), recipe.batch_size, state.rng), strict=False
        ):
            lr = learning_rate(recipe, step, self.steps, self.per_epoch)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            rows = torch.from_numpy(batch)
            x = augment(self.samples.x.index_select(0, rows), recipe, state.rng)
            x = x.to(device=self.device, memory_format=self.layout)
            y = self.samples.y.index_select(0, rows).to(self.device)
            hooks.before_forward()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
                original = None if self.teacher is None else self.teacher(x.clone())
                loss = _loss(state.model(x), y, original, recipe)
            penalty = hooks.penalty()
            if penalty is not None:
                loss = loss + penalty
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            hooks.before_step()
            state.optimizer.step()
            hooks.after_step()
            loss_sum += loss.detach()
        state.step = stop
        return float(loss_sum) / (stop - first)

    def _judge(self) -> float | None:
        """Return the error on the validation images, if there are any, and note the best."""
        if self.val is None:
            return None
        state = self.state
        with state.hooks.judging():
            error = error_in_place(state.model, self.val, 1000, self.device)
            if state.best is None or error < state.best.error:
                state.best = Best.of(state.model, self.epoch, error, keep=self.recipe.patience is not None)
        return error

    def _report(self, loss: float, error: float | None, seconds: float, left: float) -> EpochReport:
        best = self.state.best
        return EpochReport(
            epoch=self.epoch,
            epochs=math.ceil(self.steps / self.per_epoch),
            loss=loss,
            lr=float(self.state.optimizer.param_groups[0]["lr"]),
            error=error,
            best_epoch=None if best is None else best.epoch,
            best_error=None if best is None else best.error,
            last=self.ended,
            seconds=seconds,
            seconds_left=left,
        )


def _loss(scores: Tensor, labels: Tensor, original: Tensor | None, recipe: Recipe) -> Tensor:
    """Return cross-entropy, mixed with the divergence from the original network's softened scores if there are any.

    The divergence is scaled by the squared temperature, which keeps its gradients as large as the other's (Hinton et al.).
    """
    loss = nn.functional.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
    if original is None:
        return loss
    ours, theirs = (nn.functional.log_softmax(each / recipe.temperature, 1) for each in (scores, original.detach()))
    divergence = nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * divergence
