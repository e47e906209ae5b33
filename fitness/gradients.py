"""Gradients of an untrained network, batch by batch, and the statistics of them that zero-shot scores are made of."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.costs import RESOLUTION, relative_positions
from evo.network.template import LAYERS

Batch = tuple[Tensor, Tensor]
"""Inputs of shape (N, C, H, W) and class labels of shape (N,), on the network's device."""


def layer_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of all convolutional and linear layers in module order, each once, the classifier's included.

    Raises:
        SettingsError: there is none.
    """
    held = [module._parameters.get("weight") for module in model.modules() if isinstance(module, LAYERS)]
    weights = list({id(weight): weight for weight in held if weight is not None}.values())
    if not weights:
        raise SettingsError(
            f"score: {type(model).__name__} has no convolutional or linear layer with a weight of its own, expected one at "
            "least"
        )
    return weights


@contextmanager
def hooked(model: nn.Module, kinds: Any, hook: Callable[..., Any]) -> Iterator[None]:
    """Call `hook` after every module of these kinds."""
    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def positions_of(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[list[int]]:
    """Watch one forward pass; the list then has the output positions of the layers with these `weights`, over all calls.

    1 for a weight that is used otherwise than by calling its layer.
    """
    index = {id(weight): place for place, weight in enumerate(weights)}
    positions = [0] * len(weights)

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        place = index.get(id(module._parameters.get("weight")))
        if place is not None:  # otherwise it is computed from other parameters
            # A convolution's channels are its second dimension, a linear layer's the last.
            own = output.shape[1:-1] if isinstance(module, nn.Linear) else output.shape[2:]
            positions[place] += math.prod(own)

    with hooked(model, LAYERS, count):
        yield positions
    positions[:] = [max(1, number) for number in positions]


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Let torch draw from `seed` on the processor and on `device`, and record gradients; restore both afterwards.

    Dropout and its like then are the same for every network of a run, whatever ran before.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of one batch, in float32 at least."""
    inputs, labels = batch
    scores = model(inputs)
    if scores.dtype in (torch.bfloat16, torch.float16):
        scores = scores.float()
    return nn.functional.cross_entropy(scores, labels)


def gradients(
    model: nn.Module, batch: Batch, weights: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return the gradients of one batch's loss with respect to `weights`; zeros for those that it does not depend on."""
    return torch.autograd.grad(loss_of(model, batch), weights, create_graph=create_graph, materialize_grads=True)


def _printed(mean: Tensor, deviation: Tensor, cap: float) -> Tensor:
    """Σ E|g| / σ over the weights whose σ is not 0, as FNP eq. 10 and the public ZiCo code have it."""
    constant = deviation == 0
    return mean.div_(deviation).masked_fill_(constant, 0).sum()


def _capped(mean: Tensor, deviation: Tensor, cap: float) -> Tensor:
    """Σ min(E|g| / σ, cap): a weight whose σ is 0 counts as the cap, one whose gradient is always 0 as nothing."""
    # Dividing by the smallest normal number in place of 0 gives 0 for 0 and more than any cap for everything else.
    return mean.div_(deviation.clamp_(min=torch.finfo(deviation.dtype).tiny)).clamp_(max=cap).sum()


Estimator = Literal["capped", "printed"]

ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor, float], Tensor]] = {"capped": _capped, "printed": _printed}
"""Ways to sum the ratios of one layer from E|g|, σ (both may be scaled alike) and the cap; the tensors may be used up."""


@dataclass(frozen=True)
class GradientRatio:
    """Σ over layers of r^resolution · log(‖g‖^gradient · Σ over weights of E|g| / σ): large gradients on which batches agree.

    g are the gradients of a layer's weights, one per batch; E and σ, the population's, are over the batches; ‖g‖ is the
    root mean square over batches of their Euclidean norms; r is the layer's number of output positions, as a share of the
    largest. With estimator "printed" and both exponents 0 it is FNP eq. 8 to 10, and with σ of the signed gradients ZiCo (Li
    et al. 2023); the public ZiCo code never clears the gradients, so that its second is the sum of the first two. A layer
    without gradients contributes nothing.

    The ratios are nearly the same for all networks, so that their sum counts weights. The constants were chosen on samples of
    two tables of trained networks; what each is worth is measured in `benchmarks/proxies.py`: the resolution much, the size
    of the gradients nothing for widths and little, if anything, for other structures.

    Attributes:
        estimator: "printed" leaves out weights with σ = 0; "capped" lets no weight count more than `cap`. The ratios of a few
            weights whose gradients agree by chance are so large that they decide the printed sum, which rounding changes.
        cap: most that a weight counts for.
        resolution: how much more a layer counts that works at a high resolution; 0 is not at all.
        gradient: how much the size of the gradients counts; 0 is not at all.
        signed: σ of g, as in the public ZiCo code; otherwise of |g|, as FNP eq. 9 prints it.
        reference: sum in float64 with NumPy, whatever it takes, to compare with other programs.
    """

    estimator: Estimator = "capped"
    cap: float = 10.0
    resolution: float = RESOLUTION
    gradient: float = 1.0
    signed: bool = False
    reference: bool = False

    @classmethod
    def printed(cls, *, signed: bool = False, reference: bool = False) -> "GradientRatio":
        """Return FNP eq. 8 to 10 as printed, or with `signed` ZiCo as in its public code."""
        return cls("printed", resolution=0.0, gradient=0.0, signed=signed, reference=reference)

    def __call__(self, model: nn.Module, batches: Sequence[Batch]) -> float:
        """Return the score of `model` in the mode that it is in, which is training mode for the paper's.

        Raises:
            ValueError: fewer than two batches.
        """
        if len(batches) < 2:
            raise ValueError(f"a deviation over batches needs two of them, got {len(batches)}")
        weights = layer_weights(model)
        with positions_of(model, weights) as positions:
            first = gradients(model, batches[0], weights)
        return self.of([first, *(gradients(model, batch, weights) for batch in batches[1:])], positions)

    def of(self, batches: Sequence[Sequence[Tensor]], positions: Sequence[int]) -> float:
        """Return the score of gradients, which are used up.

        Args:
            batches: for each of two batches at least, one tensor per layer.
            positions: of each layer's output.
        """
        weights = relative_positions(positions) ** self.resolution
        if self.reference:
            layers = [[part.float().cpu().numpy() for part in layer] for layer in zip(*batches, strict=True)]
            logarithms = np.array([self._with_numpy(layer) for layer in layers])
        else:
            batches = [_owned(batch) for batch in batches]
            norms = [[torch.linalg.vector_norm(part) for part in batch] for batch in batches]
            reduce = ESTIMATORS[self.estimator]
            statistics = self._of_two(*batches) if len(batches) == 2 else self._of_many(batches)
            sums = torch.stack([reduce(mean, deviation, self.cap) for mean, deviation in statistics]).double()
            sizes = torch.stack([torch.stack(batch) for batch in norms]).double().square().mean(0).sqrt()
            # 0 · log 0 would be NaN, where the size is not to count.
            size_logarithms = self.gradient * sizes.log() if self.gradient else torch.zeros_like(sizes)
            logarithms = (sums.log() + size_logarithms).cpu().numpy()
            logarithms[(sums == 0).cpu().numpy()] = 0  # NaN is not 0, and stays
        return float(weights @ logarithms)

    def _of_two(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield 2 E|g| and 2 σ of every layer: of two numbers, their sum and their difference."""
        for one, other in zip(first, second, strict=True):
            if self.signed:
                deviation = (one - other).abs_()
                yield one.abs_().add_(other.abs_()), deviation
            else:
                mean = one.abs_() + other.abs_()
                yield mean, one.sub_(other).abs_()

    def _of_many(self, batches: Sequence[Sequence[Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield E|g| and σ of every layer from running sums (Welford), which lose no digits where σ is small."""
        means: list[Tensor] = []
        centres: list[Tensor] = []
        spreads: list[Tensor] = []
        count = 0
        for values in batches:
            count += 1
            sizes = [value.abs() if self.signed else value.abs_() for value in values]
            if count == 1:
                means = sizes
                centres = list(values) if self.signed else means
                spreads = [torch.zeros_like(value) for value in values]
                continue
            for layer, value in enumerate(values):
                difference = value - centres[layer]
                centres[layer].add_(difference, alpha=1 / count)
                spreads[layer].addcmul_(difference, value.sub_(centres[layer]))
                if self.signed:
                    means[layer].lerp_(sizes[layer], 1 / count)
        for mean, spread in zip(means, spreads, strict=True):
            yield mean, spread.div_(count).sqrt_()

    def _with_numpy(self, layer: Sequence[np.ndarray]) -> float:
        """Return the logarithm of one layer, 0 without gradients."""
        values = np.stack(layer).astype(np.float64)
        deviation = (values if self.signed else np.abs(values)).std(0)
        mean = np.abs(values).mean(0)
        varies = deviation != 0
        ratio = np.zeros_like(mean)
        ratio[varies] = mean[varies] / deviation[varies]
        if self.estimator == "capped":
            ratio = np.minimum(np.where(~varies & (mean > 0), self.cap, ratio), self.cap)
        if ratio.sum() == 0:
            return 0.0
        size = np.sqrt((values**2).sum() / len(values))
        return float(np.log(ratio.sum()) + (self.gradient * np.log(size) if self.gradient else 0))


def _owned(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients in float32 at least, each in memory of its own, to be overwritten."""
    owned: dict[int, Tensor] = {}
    for gradient in gradients:
        if gradient.dtype in (torch.bfloat16, torch.float16):
            gradient = gradient.float()
        # Weights that are summed or joined have one tensor, or views of it, as gradients; that of a repeated one is a view of
        # fewer numbers.
        if gradient.untyped_storage().data_ptr() in owned or 0 in gradient.stride():
            gradient = gradient.clone(memory_format=torch.contiguous_format)
        owned[gradient.untyped_storage().data_ptr()] = gradient
    return list(owned.values())
