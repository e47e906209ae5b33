"""Random networks, random candidates: cut equals silenced, costs are exact, files give back what they were given."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import evo
from evo.network.formats import save_onnx, save_pt2
from tests.network.checking import distinct, drawn, outputs, reasons, searchable, verify
from tests.network.random_networks import networks

Made = tuple[nn.Module, tuple[Tensor, ...]]
# Networks are drawn from many small choices, and the first example pays for torch's start.
RANDOM = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 1000)


def assert_sound(made: Made, seed: int) -> None:
    """Whatever is found is true, and no rule claims what the proof has to disprove."""
    model, inputs = made
    network = verify(model, inputs, blueprints=2, seed=seed)
    assert [reason for reason in reasons(network).values() if "cutting" in reason] == []


@settings(RANDOM, max_examples=80)
@given(made=networks(), seed=seeds)
def test_random_networks(made: Made, seed: int) -> None:
    assert_sound(made, seed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(RANDOM, max_examples=2000)
@given(made=networks(depth=3), seed=seeds)
def test_many_random_networks(made: Made, seed: int) -> None:
    assert_sound(made, seed)


@settings(RANDOM, max_examples=25)
@given(made=networks(), seed=seeds)
def test_files_give_back_what_they_were_given(made: Made, seed: int, tmp_path: Path) -> None:
    model, inputs = made
    original = distinct(model, seed)
    network = evo.Network.analyse(original, tuple(x.double() for x in inputs))
    small = network.build(drawn(network, np.random.default_rng(seed)))
    again = evo.load(evo.save(small, tmp_path / "small.evo"), model=original)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in small.state_dict().items())
    results = [outputs(net, tuple(x.double() for x in inputs)) for net in (small, again)]
    assert all(map(torch.equal, *results))


@settings(RANDOM, max_examples=40)
@given(made=networks(), seed=seeds)
def test_what_was_cut_can_be_cut_again(made: Made, seed: int) -> None:
    model, inputs = made
    original = distinct(model, seed)
    network = evo.Network.analyse(original, inputs64 := tuple(x.double() for x in inputs))
    rng = np.random.default_rng(seed)
    # At least two of each part: what is left of a group is a group again.
    masks = {}
    for group in network.groups:
        width = group.size // group.parts
        keep = rng.integers(min(2, width), width + 1)
        masks[group.name] = np.concatenate([rng.permutation(np.arange(width) < keep) for _ in range(group.parts)])
    blueprint = network.repaired(masks)
    again = evo.Network.analyse(network.build(blueprint), inputs64)
    assert searchable(again) == blueprint.counts
    assert again.cost_of(again.full) == network.cost_of(blueprint)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(RANDOM, max_examples=8, phases=[Phase.generate])  # shrinking would take an hour
@given(made=networks(depth=1), seed=seeds)
def test_exported_networks_compute_the_same(made: Made, seed: int, tmp_path: Path) -> None:
    """Both exporters compare the file with the network and raise if they differ."""
    model, inputs = made
    assume(not any(isinstance(module, nn.AdaptiveMaxPool2d) for module in model.modules()))  # ONNX has none
    network = evo.Network.analyse(distinct(model, seed).float(), inputs)
    small = network.build(drawn(network, np.random.default_rng(seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporters think of themselves
        save_pt2(small, inputs[0], tmp_path / "small.pt2")
        save_onnx(small, inputs[0], tmp_path / "small.onnx")
    loaded = torch.export.load(tmp_path / "small.pt2").module()
    for mine, theirs in zip(outputs(small, inputs), outputs(loaded, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)
