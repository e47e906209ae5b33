"""Zero-shot proxies: numbers that rank untrained networks by how well they may do once trained; larger is better.

`PROXIES` names them, `score` computes one for any network. The closed forms (`params`, `macs`, `log_weights`, `capacity`)
need only the widths of a candidate, no network. All others look at a network as it is; what they are for is random weights,
but none requires them. Layers are the convolutional and linear ones, the classifier included, as in the public code of the
proxies.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evo.errors import SettingsError, unknown_name
from evo.fitness.frame import Frame, ModelFrame, mean_over, preserved
from evo.fitness.gradients import Batch, GradientRatio, gradients, hooked, layer_weights, loss_of, seeded
from evo.fitness.signal_proxies import naswot, synflow, zen
from evo.network.costs import RESOLUTION, relative_positions
from evo.network.template import LAYERS

Proxy = Callable[[Frame], float]
"""A score of a network; larger is better."""


def params(frame: Frame) -> float:
    """Learnable parameters."""
    return float(frame.params)


def macs(frame: Frame) -> float:
    """Multiply-accumulate operations of convolutional and linear layers for one input."""
    return float(frame.macs)


def log_weights(frame: Frame) -> float:
    """Σ over convolutional and linear layers of log(number of weights): the gradient ratios of weights that are alike."""
    return float(np.log(frame.layer_sizes).sum())


def capacity(frame: Frame) -> float:
    """Σ over layers of r^0.2 · log(number of weights), r the layer's share of the most output positions (`CostModel.capacity`).

    For candidates that differ by their widths alone it ranks as well as the robust score of the frame, at no cost.
    """
    return float(relative_positions(frame.layer_positions) ** RESOLUTION @ np.log(frame.layer_sizes))


def grad_norm(frame: Frame) -> float:
    """Σ over layers of the Euclidean norm of the gradient (Abdelfattah et al. 2021), in training mode, mean over batches."""
    weights = layer_weights(frame.model)

    def of(batch: Batch) -> Tensor:
        return torch.stack([gradient.norm() for gradient in gradients(frame.model, batch, weights)]).sum()

    return mean_over(of, frame.batches)


def snip(frame: Frame) -> float:
    """Σ |w · g| over all weights (SNIP, Lee et al. 2019, without its normalisation), in training mode, mean over batches."""
    weights = layer_weights(frame.model)

    def of(batch: Batch) -> Tensor:
        pairs = zip(weights, gradients(frame.model, batch, weights), strict=True)
        return torch.stack([(weight.detach() * gradient).abs().sum() for weight, gradient in pairs]).sum()

    return mean_over(of, frame.batches)


def grasp(frame: Frame) -> float:
    """Σ −w · Hg over all weights (GraSP, Wang et al. 2020), in training mode, mean over batches.

    H is the Hessian of the loss and g its gradient, both of the same batch and without GraSP's temperature. The sign is
    that of the public code of Abdelfattah et al. 2021: large is good.
    """
    weights = layer_weights(frame.model)

    def of(batch: Batch) -> Tensor:
        # Of torch's ways to compute attention, only this one can be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH):
            first = gradients(frame.model, batch, weights, create_graph=True)
        product = torch.stack([(gradient.detach() * gradient).sum() for gradient in first]).sum()
        second = torch.autograd.grad(product, weights, materialize_grads=True)
        return -torch.stack([(w.detach() * hg).sum() for w, hg in zip(weights, second, strict=True)]).sum()

    return mean_over(of, frame.batches)


def fisher(frame: Frame) -> float:
    """Σ over layers and channels of ½ mean over images of (Σ over positions of a · ∂L/∂a)², a the layer's output.

    The Fisher information of a gate on every channel (Theis et al. 2018; Turner et al. 2020), L the mean loss of the batch,
    in training mode, mean over batches. A layer that is called several times counts every call.
    """
    seen: list[Tensor] = []
    channels: list[int] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.requires_grad_())  # unless its weight is computed from frozen ones, it does already
        channels.append(-1 if isinstance(module, nn.Linear) else 1)
        return output.clone()  # what follows may write into it

    def of(batch: Batch) -> Tensor:
        seen.clear()
        channels.clear()
        with hooked(frame.model, LAYERS, keep):
            loss = loss_of(frame.model, batch)
        total = torch.zeros((), dtype=loss.dtype, device=loss.device)
        found = torch.autograd.grad(loss, seen, materialize_grads=True)
        for values, gradient, dim in zip(seen, found, channels, strict=True):
            product = (values.detach() * gradient).to(loss.dtype).movedim(dim, 1)
            gates = product.flatten(2).sum(2) if product.dim() > 2 else product
            total = total + gates.square().mean(0).sum() / 2
        return total

    return mean_over(of, frame.batches)


def zico(frame: Frame) -> float:
    """ZiCo (Li et al. 2023): FNP eq. 8 and 10 with σ of the signed gradients, as in its public code; two batches at least."""
    return GradientRatio.printed(signed=True)(frame.model, frame.batches)


def sof(frame: Frame) -> float:
    """The robust score of the frame without its penalty (see `evo.ScoreOfFrame`); two batches at least."""
    return GradientRatio()(frame.model, frame.batches)


def sof_printed(frame: Frame) -> float:
    """FNP eq. 8 to 10 as printed; two batches at least."""
    return GradientRatio.printed()(frame.model, frame.batches)


PROXIES: dict[str, Proxy] = {
    "sof": sof,
    "sof_printed": sof_printed,
    "zico": zico,
    "grad_norm": grad_norm,
    "snip": snip,
    "grasp": grasp,
    "fisher": fisher,
    "synflow": synflow,
    "zen": zen,
    "naswot": naswot,
    "params": params,
    "macs": macs,
    "log_weights": log_weights,
    "capacity": capacity,
}

CLOSED_FORMS = frozenset({"params", "macs", "log_weights", "capacity"})
"""Proxies that need neither a network nor data."""

RATIOS = frozenset({"sof", "sof_printed", "zico"})
"""Proxies that need two batches at least."""


def proxy_named(name: str) -> Proxy:
    """Return the proxy of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in PROXIES:
        raise SettingsError(unknown_name("proxy", name, PROXIES))
    return PROXIES[name]


def score(model: nn.Module, batches: Sequence[Batch], proxy: str | Proxy = "sof", *, seed: int = 0) -> float:
    """Return the score of any network with the weights it has; it is left as it was.

    Args:
        model: the network; classifies inputs of shape (N, …) as scores of shape (N, classes).
        batches: pairs of inputs and class labels of shape (N,), on the network's device; two at least for gradient ratios.
        proxy: a name of `PROXIES`, or a function from a `Frame` to a number, such as one that calls a `GradientRatio`.
        seed: of dropout, and of what a proxy draws.

    Raises:
        SettingsError: an unknown proxy, no batch, or a network without a layer that has weights of its own.
        ValueError: the score is not finite, or a gradient ratio got one batch.
    """
    chosen = proxy_named(proxy) if isinstance(proxy, str) else proxy
    if not batches:
        raise SettingsError("score: got no batch, expected one at least")
    with preserved(model), seeded(batches[0][0].device, seed):
        model.train()
        return finite(chosen(ModelFrame(model, batches, seed)), proxy)


def finite(value: float, proxy: str | Proxy) -> float:
    """Return `value`.

    Raises:
        ValueError: it is NaN or infinite.
    """
    if not math.isfinite(value):
        name = proxy if isinstance(proxy, str) else getattr(proxy, "__name__", type(proxy).__name__)
        raise ValueError(f"the score {name!r} is {value}, expected a finite number")
    return value
