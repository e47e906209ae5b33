"""What a measurement reports, and that it leaves everything as it was; how long things take is not tested."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.errors import NetworkError, SettingsError
from evo.network.latency import Latency, latency, summarise


class Watched(nn.Module):
    """A network that notes in which circumstances it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout()
        self.seen: list[dict[str, Any]] = []

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        self.seen.append(
            {
                "shapes": [tuple(each.shape) for each in (x, scale) if each is not None],
                "types": [each.dtype for each in (x, scale) if each is not None],
                "threads": torch.get_num_threads(),
                "training": [module.training for module in self.modules()],
                "inference": torch.is_inference_mode_enabled(),
                "input": x.clone(),
            }
        )
        result: Tensor = self.dropout(self.norm(x.to(self.norm.weight.dtype)))
        return result


def test_runs_in_evaluation_mode_on_batches_like_the_example() -> None:
    model = Watched()
    example = torch.zeros(3, 5), torch.ones(3, 2, dtype=torch.int64)
    measured = latency(model, example, batch=4, threads=2, warmup=3, repeats=25, tolerance=1e-12)
    assert (measured.batch, measured.threads, measured.device) == (4, 2, "cpu")
    assert len(model.seen) == measured.repeats + 3
    for seen in model.seen:
        assert seen["shapes"] == [(4, 5), (4, 2)]
        assert seen["types"] == [torch.float32, torch.int64]
        assert seen["threads"] == 2
        assert seen["training"] == [False] * 3
        assert seen["inference"]
        assert torch.equal(seen["input"], model.seen[0]["input"])
    assert model.seen[0]["input"].std() > 0.5


@pytest.mark.parametrize("fails", [False, True])
def test_leaves_everything_as_it_was(fails: bool) -> None:
    model = Watched()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    example = torch.zeros(1, 7 if fails else 5)
    if fails:
        with pytest.raises(NetworkError, match=r"Watched does not run on an input of shape \(1, 7\): "):
            latency(model, example, threads=threads + 1)
    else:
        latency(model, example, threads=threads + 1, repeats=20)
    assert [module.training for module in model.modules()] == [True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_stops_as_soon_as_the_median_is_known() -> None:
    model = nn.Linear(5, 5).double()
    example = torch.zeros(1, 5, dtype=torch.float64)
    sure = latency(model, example, tolerance=1e9, repeats=10**6)
    assert (20 <= sure.repeats < 10**6, sure.converged) == (True, True)
    # Times are known to a nanosecond or so: stretches without any spread do not happen.
    unsure = latency(model, example, tolerance=1e-12, repeats=321)
    assert (unsure.repeats, unsure.converged) == (321, False)
    hurried = latency(model, example, tolerance=1e-12, seconds=1e-9)
    assert (hurried.repeats, hurried.converged) == (20, False)
    for measured in (sure, unsure, hurried):
        assert 0 < measured.minimum <= measured.lower <= measured.median <= measured.upper


def summary(times: NDArray[np.float64], tolerance: float = 0.02) -> Latency:
    return summarise(times.tolist(), tolerance, batch=1, threads=1, device="cpu")


def test_summary_of_known_times() -> None:
    # Ten stretches with medians 5.5, 15.5, …, 95.5.
    measured = summary(np.arange(1.0, 101.0))
    assert (measured.minimum, measured.lower, measured.median, measured.upper) == (1, 25.75, 50.5, 75.25)
    assert measured.noise == 49.5 / 50.5
    assert measured.error == pytest.approx(2.262 * math.sqrt(825 / 9 * 10) / math.sqrt(10))
    assert not measured.converged
    assert summary(np.arange(1.0, 101.0), measured.error / 50.4).converged
    steady = summary(np.full(100, 2.0))
    assert (steady.median, steady.noise, steady.error, steady.converged) == (2.0, 0.0, 0.0, True)


@pytest.mark.parametrize("burst", [1, 20])
def test_the_interval_holds_the_true_median_as_often_as_it_says(burst: int) -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        # Skewed as times are: a floor, and disturbances that only add, and that last for some passes.
        measured = summary(1 + rng.exponential(size=(400 // burst, 1)).repeat(burst, axis=1).ravel())
        inside += abs(measured.median - (1 + math.log(2))) <= measured.error
    assert 900 <= inside <= 980


def test_reads_as_one_line() -> None:
    measured = Latency(1.2345, 1.2, 1.25, 1.1, 0.0123, 120, True, 1, 1, "cpu")
    assert str(measured) == "1.23 ms ± 0.01 (noise 4%, 120 passes of batch 1, cpu, 1 thread)"
    slow = Latency(12345.6, 12000.0, 15000.0, 11000.0, 250.0, 20, False, 64, 2, "cuda:0")
    assert str(slow) == "12346 ms ± 250 (noise 24%, 20 passes of batch 64, cuda:0, 2 threads, not converged)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "latency: batch is 0, expected at least 1"),
        ({"threads": 0}, "threads is 0"),
        ({"warmup": 0}, "warmup is 0"),
        ({"repeats": 19}, "repeats is 19, expected at least 20"),
        ({"seconds": 0.0}, "seconds is 0.0, expected a number above 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"device": "cpu:x"}, "device 'cpu:x' cannot be used"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        latency(nn.Linear(5, 5), torch.zeros(1, 5), **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_absent_gpu_is_refused() -> None:
    with pytest.raises(SettingsError, match="device 'cuda' cannot be used"):
        latency(nn.Linear(5, 5), torch.zeros(1, 5), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_a_copy() -> None:
    model = nn.Linear(5, 5)
    measured = latency(model, torch.zeros(1, 5), device="cuda", repeats=20)
    assert measured.device.startswith("cuda")
    assert model.weight.device.type == "cpu"
