"""Training with weights of few bits: the straight-through estimator."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evo.errors import NetworkError
from evo.network.origin import origin_of
from evo.quantization import dequantize, quantize, quantized_weights, represent
from evo.quantization.latent import forget, latent
from evo.training.hooks import Hook


class StraightThrough(Hook):
    """Trains weights that are quantised in every forward pass (Bengio et al. 2013; AdaLayerNet's quantisation-aware training).

    Loss and gradients are those of the quantised weights; the optimiser applies these gradients to weights of full precision,
    which are kept aside meanwhile. It begins with those that `Network.build` has quantised, where they still are as it left
    them, and else with what is there. No module and no name in the state dict changes. In the end the weights are quantised.
    Penalties of other hooks see quantised weights too. `train` adds it by itself to a network whose blueprint has bits.
    """

    def __init__(self, bits: Mapping[str, int]) -> None:
        """Take weight bits from 1 to 32 by dotted layer name; with 32 a layer is not quantised."""
        self.bits = dict(bits)
        self._weights: dict[nn.Parameter, tuple[str, int, int]] = {}
        self._full: dict[nn.Parameter, Tensor] = {}
        self._model: nn.Module | None = None

    def begin(self, model: nn.Module) -> None:
        """Find the weights, and give them full precision if it is known.

        Raises:
            NetworkError: there is no such layer, it has no weight of its own that could be quantised, or two layers that share
                a weight want it differently.
            SettingsError: bits are out of range.
        """
        self._model = model
        self._weights = quantized_weights(model, self.bits)
        known = latent(model)
        for weight, (name, bits, dim) in self._weights.items():
            full = known.get(name)
            if full is not None and full.shape == weight.shape:
                full = full.to(weight)
                if torch.equal(dequantize(*quantize(full, bits, dim), weight.dtype, dim), weight):
                    _write(weight, full)

    def before_forward(self) -> None:
        """Quantise the weights for this pass.

        Raises:
            FloatingPointError: some have become NaN or infinite.
        """
        for weight in self._weights:
            if weight not in self._full:
                quantised = self._quantised(weight)
                self._full[weight] = weight.detach().clone()
                _write(weight, quantised)

    def before_step(self) -> None:
        """Give the optimiser the weights of full precision."""
        for weight, full in self._full.items():
            _write(weight, full)
        self._full.clear()

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Quantise the weights meanwhile."""
        self.before_forward()
        try:
            yield
        finally:
            self.before_step()

    def end(self) -> None:
        """Quantise the weights for good; those that are, as of the best epoch, stay as they are to the last bit."""
        for weight, (_, bits, dim) in self._weights.items():
            if represent(weight.detach(), bits, dim) is None:
                _write(weight, self._quantised(weight))
        if self._model is not None:
            forget(self._model)

    def close(self) -> None:
        """Let go of the model; if training failed in a forward pass, its weights of full precision come back."""
        self.before_step()
        self._weights, self._model = {}, None

    def describe(self) -> dict[str, Any]:
        """Return its name and the bits."""
        return {**super().describe(), "bits": self.bits}

    def _quantised(self, weight: nn.Parameter) -> Tensor:
        name, bits, dim = self._weights[weight]
        try:
            return dequantize(*quantize(weight, bits, dim), weight.dtype, dim)
        except NetworkError:
            raise FloatingPointError(f"{name}: its weights became NaN or infinite; lower the learning rate") from None


def with_straight_through(model: nn.Module, hooks: Sequence[Hook]) -> list[Hook]:
    """Return `hooks`, and before them a StraightThrough of their own for a network whose blueprint has bits.

    It is the first so that the others begin with the weights of full precision, of which few are 0.
    """
    blueprint = origin_of(model).blueprint
    if blueprint is None or not blueprint.layer_bits or any(isinstance(hook, StraightThrough) for hook in hooks):
        return list(hooks)
    return [StraightThrough(blueprint.bits), *hooks]


def _write(weight: nn.Parameter, values: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(values)
