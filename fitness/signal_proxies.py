"""Zero-shot proxies that follow signals through a network and need no labels: SynFlow, Zen-score, NASWOT."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.fitness.frame import Frame, mean_over
from evo.fitness.gradients import Batch, hooked, layer_weights
from evo.network.modes import DispatchMode
from evo.network.template import LAYERS

ZEN_NOISE = 0.01
"""α of Zen-score: share of the second Gaussian input that is added to the first."""


def synflow(frame: Frame) -> float:
    """Σ |w · ∂R/∂w| over all weights, R the sum of the outputs for an input of ones (Tanaka et al. 2020).

    Needs no data. All parameters and buffers are replaced by their absolute values in double precision; evaluation mode;
    batch normalisation is passed by, as in the public code of Abdelfattah et al. 2021, for it would undo the flow.
    """
    model = frame.model.eval()
    named = [*model.named_parameters(), *model.named_buffers()]
    absolute = {
        name: tensor.detach().double().abs() if tensor.is_floating_point() else tensor for name, tensor in named
    }
    held = {id(weight) for weight in layer_weights(model)}
    weights = [absolute[name].requires_grad_() for name, tensor in named if id(tensor) in held]
    example = frame.batches[0][0]
    ones = torch.ones((1, *example.shape[1:]), dtype=torch.float64, device=example.device)

    def pass_by(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return inputs[0]

    with hooked(model, nn.modules.batchnorm._BatchNorm, pass_by):
        flow = torch.func.functional_call(model, absolute, (ones,)).sum()
    found = torch.autograd.grad(flow, weights, materialize_grads=True)
    return float(
        torch.stack([(weight.detach() * g).abs().sum() for weight, g in zip(weights, found, strict=True)]).sum()
    )


def zen(frame: Frame) -> float:
    """log of how much a small change of the input changes the last feature map, without batch normalisation's damping.

    Zen-score (Lin et al. 2021): log mean ‖f(x) − f(x + αε)‖₁ + Σ over batch normalisations of log √(mean variance), where x
    and ε are Gaussian and α = 0.01, convolutional and linear weights drawn from N(0, 1), biases 0, training mode. Needs no
    data; mean over as many draws as there are batches, of their shapes. Unlike in the authors' code, variances are those of
    the batch itself, not running averages, and shortcuts stay. The last feature map is the last value of four dimensions and
    more than one position, before global pooling; a network without any is judged by its output.
    """
    model = frame.model.train()
    variances: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        variances.append(values.float().var(1, unbiased=False).mean())

    def of(shape: torch.Size, like: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)

        def draw(size: Sequence[int]) -> Tensor:
            return torch.randn(size, generator=generator).to(like)

        drawn = _gaussian(model, draw)
        variances.clear()
        one, other = draw(shape), draw(shape)
        hooks = [
            module.register_forward_pre_hook(watch)
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        try:
            first = _last_map(model, drawn, one)
        finally:
            for hook in hooks:
                hook.remove()
        change = (_last_map(model, drawn, one + ZEN_NOISE * other) - first).abs().float().flatten(1).sum(1).mean()
        return change.log() + sum(variance.log() / 2 for variance in variances)

    with torch.no_grad():
        scores = [of(x.shape, x, frame.seed + number) for number, (x, _) in enumerate(frame.batches)]
    return float(torch.stack(scores).mean())


def _gaussian(model: nn.Module, draw: Callable[[Sequence[int]], Tensor]) -> dict[str, Tensor]:
    """Return N(0, 1) for every weight of a layer and 0 for its bias, by dotted name; the first, where layers share one."""
    drawn: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            prefix = f"{name}." if name else ""
            for own, parameter in module._parameters.items():
                if parameter is None or id(parameter) in known:
                    continue
                known.add(id(parameter))
                if own == "weight":
                    drawn[prefix + own] = draw(parameter.shape)
                elif own == "bias":
                    drawn[prefix + own] = torch.zeros_like(parameter)
    return drawn


class _Maps(DispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the last value of four dimensions and more than one position that an operation returned."""

    last: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            # Pooling returns positions, too.
            image = isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()
            if image and value.shape[2] * value.shape[3] > 1:
                self.last = value
        return result


def _last_map(model: nn.Module, drawn: dict[str, Tensor], inputs: Tensor) -> Tensor:
    with _Maps() as maps:
        output: Tensor = torch.func.functional_call(model, drawn, (inputs,), tie_weights=True)
    return output if maps.last is None else maps.last


_RECTIFIERS = {"_prelu_kernel"} | {
    name + end for name in ("relu", "leaky_relu", "hardtanh", "threshold") for end in ("", "_")
}
"""Names of torch's operations whose slope changes at 0: those of nn.ReLU, ReLU6, LeakyReLU, Threshold and PReLU."""


class _Codes(DispatchMode):  # type: ignore[no-untyped-call]
    """Sums, over all rectifiers, for every pair of images the number of units that are on or off in both."""

    agreement: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the inputs' signs, then run the operation, which may overwrite them."""
        if func.overloadpacket.__name__ in _RECTIFIERS:
            signs = (args[0].flatten(1) > 0).float().mul_(2).sub_(1)
            # Exact: a product is a whole number of at most the number of units, of which float32 counts 16 million.
            agreement = (signs @ signs.T).double().add_(signs.shape[1]).div_(2)
            self.agreement = agreement if self.agreement is None else self.agreement + agreement
        return func(*args, **(kwargs or {}))


def naswot(frame: Frame) -> float:
    """log |det K|, K the numbers of ReLUs that two images of a batch have on or off alike (Mellor et al. 2021).

    In training mode, mean over batches; every rectifier counts, as a module or a function. Two images that no unit tells
    apart give −∞, which `score` refuses.

    Raises:
        SettingsError: the network has no rectifier.
    """
    model = frame.model

    def of(batch: Batch) -> Tensor:
        with torch.no_grad(), _Codes() as codes:
            model(batch[0])
        if codes.agreement is None:
            raise SettingsError("naswot: it reads the signs in front of ReLUs, but the network has none")
        logarithm: Tensor = torch.linalg.slogdet(codes.agreement).logabsdet
        return logarithm

    return mean_over(of, frame.batches)
