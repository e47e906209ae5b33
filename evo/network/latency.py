"""How long a network takes: measured, with how sure the figure is."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evo.errors import NetworkError, SettingsError
from evo.network.modes import evaluating, using_threads

_LEAST = 20
"""Passes that are measured at least; fewer say nothing about their spread."""

_SPAN = 0.1
"""Seconds that are measured at least: several turns of the processor's other tasks."""

_STRETCHES = 10
_STUDENT = 2.262
"""Student's t for 95 % with one degree of freedom less than there are stretches."""


@dataclass(frozen=True)
class Latency:
    """Wall times of forward passes of one batch, in milliseconds.

    Attributes:
        median: half of the passes took at most this; the figure to compare networks by.
        lower, upper: the quartiles; half of the passes took between these.
        minimum: the fastest pass.
        error: half the width of the 95 % confidence interval of the median over the time it was measured for.
        repeats: passes that were measured.
        converged: whether the error came below the tolerance; if not, the machine is too noisy or the time was too short.
        batch: inputs per pass.
        threads: torch threads of the passes.
        device: where they ran.
    """

    median: float
    lower: float
    upper: float
    minimum: float
    error: float
    repeats: int
    converged: bool
    batch: int
    threads: int
    device: str

    @property
    def noise(self) -> float:
        """Spread of the passes: interquartile range / median."""
        return (self.upper - self.lower) / self.median

    def __str__(self) -> str:
        """Return one line, like "1.23 ms ± 0.01 (noise 4 %, 120 passes of batch 1, cpu, 1 thread)"."""
        digits = max(0, 2 - math.floor(math.log10(self.median)))
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        unsure = "" if self.converged else ", not converged"
        return (
            f"{self.median:.{digits}f} ms ± {self.error:.{digits}f} "
            f"(noise {self.noise:.0%}, {self.repeats} passes of batch {self.batch}, {self.device}, {threads}{unsure})"
        )


def latency(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    batch: int = 1,
    threads: int = 1,
    warmup: int = 10,
    repeats: int = 1000,
    seconds: float = 10.0,
    tolerance: float = 0.02,
    device: str | torch.device = "cpu",
) -> Latency:
    """Measure forward passes of `model` until the median is known well enough.

    Passes run one by one in inference mode on random inputs. After `warmup` of them, measuring goes on until the median's
    error is at most `tolerance` times the median, but for 20 passes and 0.1 s at least, or until `repeats` passes or
    `seconds` are spent. The figure is of this machine in its present state: whatever else runs on it counts, and a load that
    comes or goes between two measurements shows in neither error. Compare networks measured in the same circumstances.

    Args:
        model: left as it is, modes included; moved to another device than the CPU as a copy.
        example: a batch of inputs, shape (N, …), or one per input of the network; real numbers are replaced by random ones.
        batch: inputs per pass, at least 1.
        threads: torch threads, at least 1; restored afterwards.
        warmup: passes before the first that counts, at least 1.
        repeats: most passes to measure, at least 20.
        seconds: time after which no further pass begins, unless there are fewer than 20 yet; above 0.
        tolerance: relative error of the median to stop at, above 0.
        device: torch device, e.g. "cpu" or "cuda".

    Raises:
        SettingsError: a number out of its range, or a device that is not there.
        NetworkError: the model does not run on such a batch.
    """
    limits = (("batch", batch, 1), ("threads", threads, 1), ("warmup", warmup, 1), ("repeats", repeats, _LEAST))
    for name, given, least in limits:
        if given < least:
            raise SettingsError(f"latency: {name} is {given}, expected at least {least}")
    for name, positive in (("seconds", seconds), ("tolerance", tolerance)):
        if not positive > 0:
            raise SettingsError(f"latency: {name} is {positive}, expected a number above 0")
    place = available(device)
    inputs = [_random(each, batch, place) for each in ([example] if isinstance(example, Tensor) else example)]
    model = model if place.type == "cpu" else copy.deepcopy(model).to(place)

    def once() -> float:
        start = time.perf_counter()
        model(*inputs)
        if place.type != "cpu":
            torch.accelerator.synchronize(place)  # passes on an accelerator return before they are done
        return 1000 * (time.perf_counter() - start)

    with using_threads(threads), evaluating(model), torch.inference_mode():
        try:
            once()
        except Exception as error:
            shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
            raise NetworkError(f"{type(model).__name__} does not run on an input of shape {shapes}: {error}") from error
        for _ in range(warmup - 1):
            once()
        times = _measure(once, repeats, seconds, tolerance)
    return summarise(times, tolerance, batch=batch, threads=threads, device=str(place))


def available(device: str | torch.device) -> torch.device:
    """Return the device.

    Raises:
        SettingsError: there is no such device here.
    """
    try:
        place = torch.device(device)
        torch.ones(1, device=place).item()  # "meta" has no numbers, and nothing to time
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(f"latency: device {str(device)!r} cannot be used ({reason})") from None
    return place


def summarise(times: Sequence[float], tolerance: float, *, batch: int, threads: int, device: str) -> Latency:
    """Return what `times`, in milliseconds, say."""
    minimum, lower, median, upper = np.quantile(times, [0, 0.25, 0.5, 0.75]).tolist()
    error = _error(times)
    converged = error <= tolerance * median
    return Latency(median, lower, upper, minimum, error, len(times), converged, batch, threads, device)


def _measure(once: Callable[[], float], repeats: int, seconds: float, tolerance: float) -> list[float]:
    """Return the times of passes, measured until their median is known or a limit is reached."""
    times: list[float] = []
    start = time.perf_counter()
    check = _LEAST
    while len(times) < _LEAST or (len(times) < repeats and time.perf_counter() < start + seconds):
        times.append(once())
        if len(times) >= check:
            if time.perf_counter() >= start + _SPAN and _error(times) <= tolerance * float(np.median(times)):
                break
            check += check // 4
    return times


def _error(times: Sequence[float]) -> float:
    """Return half the width of the median's 95 % confidence interval, from the spread of the medians of ten stretches.

    Passes that follow each other are disturbed alike, so that the spread of single ones promises too much.
    """
    medians = [float(np.median(stretch)) for stretch in np.array_split(np.asarray(times), _STRETCHES)]
    return _STUDENT * float(np.std(medians, ddof=1)) / math.sqrt(_STRETCHES)


def _random(example: Tensor, batch: int, device: torch.device) -> Tensor:
    """Return a batch like `example`: normal numbers, or its first entry over and over where it holds no real numbers."""
    if not example.is_floating_point():
        return example[:1].expand(batch, *example.shape[1:]).to(device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *example.shape[1:], generator=generator).to(device, example.dtype)
