"""What takes part in a training: called at fixed points of every step, in `train` or in a loop of one's own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn


class Hook:
    """Takes part in a training; every method does nothing unless it is overridden.

    One object belongs to one training. `train(…, hooks=[…])` calls it; a loop of one's own does it like this::

        hook.begin(model)
        for x, y in batches:
            hook.before_forward()
            loss = criterion(model(x), y)
            extra = hook.penalty()
            if extra is not None:
                loss = loss + extra
            optimizer.zero_grad()
            loss.backward()
            hook.before_step()
            optimizer.step()
            hook.after_step()
        hook.end()
        hook.close()

    What is measured in between belongs into `with hook.judging():`. A training that is to be resumed keeps `tensors()`; after
    `begin`, `restore(…)` takes them back.
    """

    def begin(self, model: nn.Module) -> None:
        """The first step is about to be made: `model` is in training mode and on its device."""

    def before_forward(self) -> None:
        """A forward pass over a batch begins; there may be several before a step."""

    def penalty(self) -> Tensor | None:
        """Return what the loss is to be increased by, a scalar; None for nothing."""
        return None

    def before_step(self) -> None:
        """The gradients are there, and the optimiser is about to use them."""

    def after_step(self) -> None:
        """The optimiser has changed the weights."""

    def judging(self) -> AbstractContextManager[None]:
        """Return a context in which the weights are as they would be handed over, if training ended here."""
        return nullcontext()

    def after_epoch(self, error: float | None) -> None:
        """An epoch has ended with this error on the validation images, in [0, 1]; None if it was not measured."""

    def end(self) -> None:
        """The weights are final, of the last step or of the best epoch; what is to be done to them for good is done here."""

    def close(self) -> None:
        """Let go of the model; called last, also if training fails."""

    def tensors(self) -> dict[str, Tensor]:
        """Return, by name, everything that the next step depends on besides the weights: the tensors themselves, no copies."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` once returned: by default it is written into those of now.

        To be overridden by a hook whose tensors change their number or shape in the course of a training.
        """
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other hooks, as plain values: a training is resumed with equal hooks only."""
        return {"name": type(self).__name__}


class Hooks(Hook):
    """Several hooks as one, called in their order."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = tuple(hooks)

    def begin(self, model: nn.Module) -> None:
        """Begin all."""
        for hook in self.hooks:
            hook.begin(model)

    def before_forward(self) -> None:
        """Tell all."""
        for hook in self.hooks:
            hook.before_forward()

    def penalty(self) -> Tensor | None:
        """Return the sum of all penalties."""
        penalties = [penalty for penalty in (hook.penalty() for hook in self.hooks) if penalty is not None]
        return sum(penalties[1:], penalties[0]) if penalties else None

    def before_step(self) -> None:
        """Tell all."""
        for hook in self.hooks:
            hook.before_step()

    def after_step(self) -> None:
        """Tell all."""
        for hook in self.hooks:
            hook.after_step()

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Enter the contexts of all."""
        with ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.judging())
            yield

    def after_epoch(self, error: float | None) -> None:
        """Tell all."""
        for hook in self.hooks:
            hook.after_epoch(error)

    def end(self) -> None:
        """End all."""
        for hook in self.hooks:
            hook.end()

    def close(self) -> None:
        """Close all, even if one of them fails."""
        with ExitStack() as stack:
            for hook in self.hooks:
                stack.callback(hook.close)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of all, their names beginning with "0.", "1.", …."""
        return {
            f"{index}.{name}": tensor
            for index, hook in enumerate(self.hooks)
            for name, tensor in hook.tensors().items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Give each its own."""
        for index, hook in enumerate(self.hooks):
            start = f"{index}."
            own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            hook.restore(own)

    def describe(self) -> dict[str, Any]:
        """Return the descriptions of all."""
        return {"name": "Hooks", "hooks": [hook.describe() for hook in self.hooks]}
