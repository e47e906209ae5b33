import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from torch import Tensor, nn

import evo
from evo.errors import NetworkError, SettingsError
from evo.importance import CRITERIA, FilterSelection, Material, criterion, magnitude
from evo.importance.filters import filter_vectors
from evo.importance.magnitude import l1
from evo.importance.neighbours import reciprocal_order
from evo.importance.norm_scale import bn_scale
from tests.importance.zoo import MAKE, network_of, task_of
from tests.network.random_networks import networks

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]


def drawn_counts(network: evo.Network, seed: int) -> Counts:
    """Legal counts of every group, uniformly."""
    rng = np.random.default_rng(seed)
    return np.array(
        [group.legal_count(int(rng.integers(1, group.size + 1))) for group in network.groups], dtype=np.int64
    )


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in MAKE for method in CRITERIA if (name, method) != ("alexnet", "bn_scale")],
)
def test_choices_are_legal_and_build(name: str, method: str) -> None:
    network = network_of(name)
    selection = FilterSelection(network, method, samples=task_of(name).train)
    for seed in range(2):
        counts = drawn_counts(network, seed)
        masks = selection.masks(counts)
        assert [mask.sum() for mask in masks.values()] == counts.tolist()
        blueprint = evo.Blueprint.from_masks(masks)
        assert network.repaired(masks) == blueprint
        network.build(blueprint)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(made=networks(), seed=st.integers(0, 1000), method=st.sampled_from(["l1", "knn", "kmeans", "random"]))
def test_any_network(made: tuple[nn.Module, tuple[Tensor, ...]], seed: int, method: str) -> None:
    network = evo.Network.analyse(*made)
    counts = drawn_counts(network, seed)
    blueprint = evo.Blueprint.from_masks(FilterSelection(network, method).masks(counts))
    assert network.counts(blueprint).tolist() == counts.tolist()
    network.build(blueprint)


@pytest.mark.parametrize("method", ["l1", "l2", "bn_scale"])
def test_scores_keep_the_largest(method: str) -> None:
    network = network_of("resnet20")
    masks = FilterSelection(network, method).masks([3] * len(network.groups))
    score = {"l1": l1, "l2": lambda network, group: magnitude(network)[group.name], "bn_scale": bn_scale}[method]
    for group in network.groups:
        best = np.argsort(-score(network, group), kind="stable")[:3]
        assert np.flatnonzero(masks[group.name]).tolist() == sorted(best)


def test_neighbours_are_those_of_the_flattened_filters() -> None:
    network = network_of("vgg16_cifar")
    masks = FilterSelection(network, "knn").masks([5] * len(network.groups))
    for group in network.groups:
        best = reciprocal_order(filter_vectors(network, group))[:5]
        assert np.flatnonzero(masks[group.name]).tolist() == sorted(best)


@pytest.mark.parametrize("method", ["l1", "knn", "kmeans", "random"])
def test_parts_of_a_grouped_convolution_are_chosen_one_by_one(method: str) -> None:
    network = network_of("alexnet")
    masks = FilterSelection(network, method).masks([4, 6, 8, 8, 6, 10, 10])
    for group in network.groups[:5]:
        assert group.parts == 2
        halves = masks[group.name].reshape(2, -1)
        assert halves.sum(1).tolist() == [halves.sum() / 2] * 2
        if method == "knn":
            for half, vectors in zip(halves, np.split(filter_vectors(network, group), 2), strict=True):
                assert np.flatnonzero(half).tolist() == sorted(reciprocal_order(vectors)[: half.sum()])


def test_all_channels_need_no_method() -> None:
    """A network without batch normalisation can keep everything."""
    network = network_of("alexnet")
    selection = FilterSelection(network, "bn_scale")
    assert all(mask.all() for mask in selection.masks(network.costs.sizes).values())
    with pytest.raises(NetworkError, match="conv1: no batch normalisation"):
        selection.masks(network.costs.sizes - 2)


@pytest.mark.parametrize("method", ["random", "kmeans"])
def test_chance_depends_on_seed_and_group_alone(method: str) -> None:
    network = network_of("resnet20")
    half = np.array([group.size // 2 for group in network.groups])
    masks = FilterSelection(network, method, 3).masks(half)
    later = FilterSelection(network, method, 3)
    later.masks(half - 1)
    assert all((later.masks(half)[name] == mask).all() for name, mask in masks.items())
    other = FilterSelection(network, method, 4).masks(half)
    assert any((other[name] != mask).any() for name, mask in masks.items())
    if method == "random":
        assert len({mask.tobytes() for mask in masks.values() if mask.size == 8}) > 1


def digest() -> str:
    """A hash of some choices that could depend on a process."""
    network = network_of("resnet20")
    half = [group.size // 2 for group in network.groups]
    masks = [FilterSelection(network, method, 7).masks(half) for method in ("knn", "random", "kmeans")]
    return hashlib.sha256(b"".join(mask.tobytes() for each in masks for mask in each.values())).hexdigest()


def test_choices_are_the_same_in_any_process() -> None:
    code = "from tests.importance.test_selection import digest; print(digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest()


def test_a_choice_is_made_once_and_cannot_be_changed() -> None:
    selection = FilterSelection(network_of("lenet"), "knn")
    first = selection.masks([3, 5, 7])
    assert all(again is mask for again, mask in zip(selection.masks([3, 5, 7]).values(), first.values(), strict=True))
    with pytest.raises(ValueError, match="read-only"):
        first["conv1"][0] = True


@pytest.mark.parametrize("method", ["knn", "kmeans"])
def test_pickles(method: str) -> None:
    selection = FilterSelection(network_of("lenet"), method)
    before = selection.masks([3, 5, 7])
    copied = pickle.loads(pickle.dumps(selection))
    for counts in ([3, 5, 7], [4, 9, 20]):
        for name, mask in selection.masks(counts).items():
            assert (copied.masks(counts)[name] == mask).all()
    assert before["conv1"].sum() == 3


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        ("lenet", [0, 5, 7], r"conv1: cannot keep 0 of 20 channels; 1 would be legal$"),
        ("lenet", [3, 51, 7], r"conv2: cannot keep 51 of 50 channels; 50 would be legal$"),
        ("alexnet", [3, 2, 2, 2, 2, 2, 2], r"conv1: cannot keep 3 of 8 channels; 4 would be legal$"),
        ("lenet", [3, 5], r"counts: got int64 of shape \(2,\), expected 3 integers, one per group"),
        ("lenet", [3.0, 5.0, 7.0], r"counts: got float64 of shape \(3,\), expected 3 integers"),
    ],
)
def test_illegal_counts_are_refused(name: str, counts: list[int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FilterSelection(network_of(name), "l1").masks(counts)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"select: unknown importance criterion 'knnn'; did you mean 'knn'\?"):
        FilterSelection(network_of("lenet"), "knnn")


@criterion
def last_first(material: Material) -> Mapping[str, ArrayLike]:
    return {group.name: range(group.size) for group in material.network.groups}


def test_a_function_of_ones_own_scores_all_channels() -> None:
    masks = FilterSelection(network_of("lenet"), last_first).masks([3, 5, 7])
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "conv1": [17, 18, 19],
        "conv2": [45, 46, 47, 48, 49],
        "fc1": list(range(493, 500)),
    }


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"conv1": np.zeros(19)}, r"select: conv1 got scores of shape \(19,\); expected 20 numbers, one per channel"),
        ({}, r"select: conv1 got scores of shape \(0,\); expected 20 numbers"),
        ({"conv1": np.full(20, np.nan)}, r"select: conv1 got NaN or infinity; expected 20 numbers"),
        ({"conv1": np.full(20, np.inf)}, r"select: conv1 got NaN or infinity; expected 20 numbers"),
        ({"conv1": ["a"] * 20}, r"select: conv1 got what NumPy cannot read as numbers \(could not convert"),
        ({"conv1": torch.ones(20, requires_grad=True)}, r"select: conv1 got what NumPy cannot read as numbers .* grad"),
        ([1, 2], r"select: got list from .*<lambda>; expected scores per channel by name of the group"),
    ],
)
def test_wrong_scores_of_a_function_are_refused(scores: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FilterSelection(network_of("lenet"), criterion(lambda _: scores)).masks([3, 5, 7])  # type: ignore[arg-type, return-value]
