import copy
import pickle
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import evo
from evo.encodings.base import Encoding
from evo.encodings.budgeted import Budgeted
from evo.encodings.channel_vector import ChannelVector, ChannelVectorSpace
from evo.errors import SettingsError
from evo.importance import FilterSelection, importance_matrix
from evo.importance.filters import free_groups
from evo.network import Network
from evo.testing import EncodingContract, small_task
from tests.importance.zoo import network_of, task_around, task_of

TASK = small_task()
NETWORK = TASK.network
SPACE = ChannelVector().bind(TASK, (1.0,))


class TestImportanceMatrix(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return ChannelVector()


class TestRandom(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return ChannelVector(initial="random", select="l1", perturb=1, mutation=1.0)


class TestFreeGroups(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return ChannelVector(free=("layer*.conv1",), min_channels=2, lam=10, gamma=0.4)

    @pytest.fixture
    def task(self) -> evo.Task:
        return task_of("resnet20")


class TestParts(EncodingContract):
    """Grouped convolutions, kept in multiples that do not divide the layers."""

    @pytest.fixture
    def encoding(self) -> Encoding:
        return ChannelVector(select="random")

    @pytest.fixture
    def task(self) -> evo.Task:
        return task_of("alexnet", 5)


class TestDepthwise(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return ChannelVector(select="bn_scale", lam=0, gamma=0.7)

    @pytest.fixture
    def task(self) -> evo.Task:
        return task_of("mobilenet_v2")


@cache
def spaces() -> list[ChannelVectorSpace]:
    return [
        SPACE,
        ChannelVector(free=("layer*.conv1",), perturb=2, mutation=0.5).bind(task_of("resnet20"), (1.0,)),
        ChannelVector(min_channels=3).bind(task_of("alexnet", 5), (1.0,)),
    ]


def levels_of(space: ChannelVectorSpace, network: Network, least: int) -> list[list[int]]:
    """All numbers of channels that each free group can keep, by trying every one."""
    free = free_groups(network, space.settings.free)
    return [
        [
            count
            for count in range(1, group.size + 1)
            if group.legal_count(count) == count and count >= min(least, group.size)
        ]
        for group, own in zip(network.groups, free, strict=True)
        if own
    ]


def test_a_gene_per_free_group_in_module_order() -> None:
    task = task_of("resnet20")
    network = task.network
    space = ChannelVector(free=("layer3.*", "layer1.?.conv1")).bind(task, (1.0,))
    assert space.size == 3 + 4
    genes = np.arange(1, 8)
    counts = space.decode(space.individual(genes)).counts
    free = [name for name in (group.name for group in network.groups) if name[:6] in ("layer1", "layer3")]
    assert [counts.pop(name) for name in free] == genes.tolist()
    assert counts == {group.name: group.size for group in network.groups if group.name not in free}
    assert (
        space.counts(space.individual(genes)).tolist() == network.counts(space.decode(space.individual(genes))).tolist()
    )


def test_the_selection_decides_which_filters_stay() -> None:
    task = task_of("resnet20")
    network = task.network
    for select in ("knn", "l1", "bn_scale"):
        space = ChannelVector(select=select).bind(task, (1.0,))
        genome = space.initial(1, np.random.default_rng(0))[0]
        masks = FilterSelection(network, select).masks(space.counts(genome))
        assert space.decode(genome) == evo.Blueprint.from_masks(masks)


def test_the_first_population_is_mutations_of_v_star() -> None:
    task = task_of("vgg16_cifar")
    network = task.network
    space = ChannelVector(gamma=0.6, lam=0.3).bind(task, (1.0,))
    assert list(space.start) == importance_matrix(network, 0.6, 0.3).tolist()
    assert space.gamma == 0.6
    population = space.initial(200, np.random.default_rng(0))
    difference = np.array([list(one) for one in population]) - np.array(list(space.start))
    assert (difference != 0).any(1).all()
    assert np.abs(difference).max() == 4
    assert 1 <= (difference != 0).sum(1).mean() < 3


def test_mutation_moves_a_gene_by_a_quarter_of_its_range_at_most() -> None:
    space = ChannelVector(initial="random", mutation=1.0).bind(task_of("vgg16_cifar"), (1.0,))
    widths = np.array(list(space.seeds[0]))
    assert set(widths) == {8, 12, 16}
    assert widths.tolist() == space._network.costs.sizes.tolist()
    middle = space.individual(widths // 2)
    rng = np.random.default_rng(0)
    moved = np.array([list(space.mutate(space.individual(widths // 2), rng)[0]) for _ in range(200)]) - list(middle)
    assert (moved != 0).all()
    # Of 1 to 8 there are 7 steps, of 1 to 12 there are 11.
    assert np.abs(moved).max(0).tolist() == [{8: 2, 12: 3, 16: 4}[width] for width in widths]


def test_only_a_random_first_population_has_the_whole_network_and_only_within_the_budget() -> None:
    assert SPACE.seeds == []
    space = ChannelVector(initial="random").bind(TASK, (1.0,))
    assert [space.decode(one) for one in space.seeds] == [TASK.network.full]
    assert Budgeted(space, evo.Budget(params=0.5).bind(TASK.network.costs)).seeds == []


def test_v_star_is_a_new_individual_every_time() -> None:
    space = ChannelVector().bind(TASK, (1.0,))
    space.mutate(space.start, np.random.default_rng(0))
    assert space.decode(space.start) == SPACE.decode(SPACE.start)


def test_gamma_is_the_smallest_within_the_budget_or_a_half() -> None:
    task = task_of("resnet20")
    network = task.network
    assert ChannelVector().bind(task, (1.0,)).gamma == 0.5
    limits = evo.Budget(params=0.4).bind(network.costs)
    space = ChannelVector(lam=5.0).bind(task, (1.0,), limits)
    params = int(network.costs.costs(space.counts(space.start), ["params"])["params"])
    assert 0.38 < params / int(network.costs.costs(network.costs.sizes, ["params"])["params"]) <= 0.4
    assert list(space.start) == importance_matrix(network, space.gamma, 5.0).tolist()
    assert ChannelVector(gamma=0.1).bind(task, (1.0,), limits).gamma == 0.1


def test_a_budget_that_no_candidate_can_meet_is_refused() -> None:
    task = task_of("resnet20")
    network = task.network
    limits = evo.Budget(macs=0.3).bind(network.costs)
    for initial in ("importance_matrix", "random"):
        with pytest.raises(SettingsError, match=r"budget: macs ≤ .* cannot be met; with fewest channels .* macs \d"):
            ChannelVector(free=("layer1.0.conv1",), initial=initial).bind(task, (1.0,), limits)


def test_a_budget_that_no_gamma_meets_is_refused() -> None:
    """Where all weights are equal none falls."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Flatten())
    nn.init.ones_(model.get_parameter("0.weight"))
    network = Network.analyse(model, torch.randn(1, 1, 3, 3))
    task = task_around(network, 1, 3, 3)
    limits = evo.Budget(params=0.5).bind(network.costs)
    with pytest.raises(SettingsError, match=r"params ≤ 49 .* is not met by V\* at any gamma; set gamma, or initial"):
        ChannelVector().bind(task, (1.0,), limits)
    assert len(ChannelVector(initial="random").bind(task, (1.0,), limits).initial(3, np.random.default_rng(0))) == 3


def test_random_widths_are_uniform_in_their_logarithm() -> None:
    task = task_of("lenet")
    space = ChannelVector(initial="random", free=("fc1", "conv1"), min_channels=4).bind(task, (1.0,))
    widths = np.array([list(one) for one in space.initial(4000, np.random.default_rng(0))])
    assert widths.min(0).tolist() == [4, 4]
    assert widths[:, 0].max() == 20
    assert 480 < widths[:, 1].max() <= 500
    below = (widths[:, 1] < 45).mean()  # 45 lies in the middle of 4 and 501
    assert abs(below - np.log(45 / 4) / np.log(501 / 4)) < 0.03


def test_random_networks_of_many_layers_are_small_and_large() -> None:
    task = task_of("vgg16_cifar")
    space = ChannelVector(initial="random", select="l1").bind(task, (1.0,))
    widths = np.array([list(one) for one in space.initial(500, np.random.default_rng(0))])
    costs = task.network.costs
    params = costs.costs(widths, ["params"])["params"] / costs.costs(costs.sizes, ["params"])["params"]
    rng = np.random.default_rng(0)
    alone = np.array([rng.permutation(column) for column in widths.T]).T  # the same numbers, drawn layer by layer
    independent = costs.costs(alone, ["params"])["params"] / costs.costs(costs.sizes, ["params"])["params"]
    assert np.log(params).std() > 1.4 * np.log(independent).std()
    assert np.quantile(params, 0.05) < 0.5 * np.quantile(independent, 0.05)
    assert np.quantile(params, 0.95) > 1.5 * np.quantile(independent, 0.95)


@pytest.mark.parametrize("which", range(3))
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), start=st.sampled_from(["start", "full", "least", "random"]))
def test_mutation_moves_genes_by_steps_within_their_range(which: int, seed: int, start: str) -> None:
    space = spaces()[which]
    network = [NETWORK, network_of("resnet20"), network_of("alexnet", 5)][which]
    levels = levels_of(space, network, space.settings.min_channels)
    rng = np.random.default_rng(seed)
    genes = {
        "start": list(space.start),
        "full": [each[-1] for each in levels],
        "least": [each[0] for each in levels],
        "random": [int(rng.choice(each)) for each in levels],
    }[start]
    child = space.individual(np.array(genes))
    space.mutate(child, rng)
    moves = [each.index(after) - each.index(before) for each, before, after in zip(levels, genes, child, strict=True)]
    assert any(moves)
    assert max(map(abs, moves)) <= space.settings.perturb


def test_mutation_is_as_likely_and_as_far_as_the_settings_say() -> None:
    task = task_of("vgg16_cifar")
    space = ChannelVector(perturb=3, mutation=0.3, gamma=0.4, lam=0).bind(task, (1.0,))
    middle = space.individual(np.full(space.size, 8))
    moves = np.array(
        [list(space.mutate(copy.deepcopy(middle), np.random.default_rng(seed))[0]) for seed in range(3000)]
    )
    moves = moves[:, 4:] - 8  # 16 filters: the range is too wide to be cut off
    assert abs((moves != 0).mean() - 0.3) < 0.02
    assert set(np.unique(moves)) == {-3, -2, -1, 0, 1, 2, 3}
    shares = [(moves == move).mean() / (moves != 0).mean() for move in (-3, -2, -1, 1, 2, 3)]
    assert max(abs(share - 1 / 6) for share in shares) < 0.02


def test_at_least_one_gene_changes_and_if_none_can_none_does() -> None:
    space = ChannelVector(mutation=1e-9).bind(TASK, (1.0,))
    for seed in range(50):
        child = space.mutate(space.start, np.random.default_rng(seed))[0]
        assert sum(a != b for a, b in zip(child, space.start, strict=True)) == 1
    whole = ChannelVector(min_channels=1000).bind(TASK, (1.0,))
    assert list(whole.mutate(whole.start, np.random.default_rng(0))[0]) == [6, 8, 12]


@given(st.integers(0, 2**32 - 1))
def test_crossover_swaps_genes_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = SPACE.individual(np.array([1, 2, 3])), SPACE.individual(np.array([4, 5, 6]))
    SPACE.mate(first, second, rng)
    assert sorted(zip(first, second, strict=True)) in [
        sorted(pairs)
        for pairs in (
            [(a, b), (c, d), (e, f)]
            for a, b in ((1, 4), (4, 1))
            for c, d in ((2, 5), (5, 2))
            for e, f in ((3, 6), (6, 3))
        )
    ]


def test_crossover_swaps_half_of_the_genes_each_as_often() -> None:
    task = task_of("vgg16_cifar")
    space = ChannelVector().bind(task, (1.0,))
    rng = np.random.default_rng(0)
    swapped = np.zeros(space.size)
    for _ in range(2000):
        first, second = space.individual(np.full(space.size, 1)), space.individual(np.full(space.size, 2))
        space.mate(first, second, rng)
        swapped += np.array(first) == 2
    assert np.abs(swapped / 2000 - 0.5).max() < 0.05


@given(st.lists(st.integers(-5, 30), min_size=7, max_size=7))
def test_repair_takes_the_next_legal_number(genes: list[int]) -> None:
    space = spaces()[2]
    individual = space.individual(np.array(genes))
    space.repair(individual)
    for before, after, legal in zip(genes, individual, levels_of(space, network_of("alexnet", 5), 3), strict=True):
        assert after == next((count for count in legal if count >= before), legal[-1])


def test_structures_it_cannot_express_are_refused() -> None:
    task = task_of("resnet20")
    network = task.network
    space = ChannelVector(free=("layer*.conv1",), min_channels=2).bind(task, (1.0,))
    masks = dict(network.full.masks)
    masks["conv1"] = np.arange(8) < 5
    with pytest.raises(SettingsError, match=r"conv1: the structure keeps 5 of 8 channels, which this encoding cannot"):
        space.encode(evo.Blueprint.from_masks(masks))
    masks = dict(network.full.masks)
    masks["layer2.1.conv1"] = np.arange(16) < 1
    with pytest.raises(SettingsError, match=r"layer2\.1\.conv1: the structure keeps 1 of 16 channels"):
        space.encode(evo.Blueprint.from_masks(masks))


def test_other_filters_of_the_same_number_encode_to_those_selected() -> None:
    masks = dict(NETWORK.full.masks)
    masks["0"] = np.array([False, True, False, True, False, False])
    again = SPACE.decode(SPACE.encode(evo.Blueprint.from_masks(masks)))
    assert again.counts == {"0": 2, "4": 8, "9": 12}


def test_packing_takes_two_bytes_per_gene() -> None:
    assert SPACE.pack(SPACE.individual(np.array([6, 7, 12]))) == bytes([6, 0, 7, 0, 12, 0])


def test_packing_takes_four_bytes_for_very_wide_layers() -> None:
    model = nn.Sequential(nn.Linear(1, 70_000), nn.Linear(70_000, 1))
    space = ChannelVector(initial="random").bind(task_around(Network.analyse(model, torch.randn(1, 1)), 1), (1.0,))
    packed = space.pack(space.individual(np.array([69_999])))
    assert packed == (69_999).to_bytes(4, "little")
    assert list(space.unpack(packed)) == [69_999]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "own_scores.py").write_text(
        "import evo\n\n@evo.importance.criterion\ndef by_index(material):\n"
        "    return {group.name: range(group.size) for group in material.network.groups}\n\n"
        "def bare(material):\n    return {}\n\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_scores"
    sys.modules.pop("own_scores", None)


def test_a_selection_of_ones_own_is_named_by_module_and_attribute(own_module: str) -> None:
    encoding = ChannelVector(select=f"{own_module}:by_index")
    assert ChannelVector(**encoding.to_dict()) == encoding
    space = encoding.bind(TASK, (1.0,))
    genome = space.individual(np.array([2, 3, 4]))
    kept: Mapping[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = space.decode(genome).masks
    assert {name: np.flatnonzero(mask).tolist() for name, mask in kept.items()} == {
        "0": [4, 5],
        "4": [5, 6, 7],
        "9": [8, 9, 10, 11],
    }
    assert pickle.loads(pickle.dumps(space)).decode(genome) == space.decode(genome)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"select": "knnn"},
            r"ChannelVector\.select: got 'knnn'; .*did you mean 'knn'\? \(your own is named as module:attr",
        ),
        ({"select": "own_scores:by_indx"}, r"module 'own_scores' has no 'by_indx'; did you mean 'by_index'\?"),
        ({"select": "own_scores:number"}, r"own_scores:number is an int; expected a evo\.importance\.criteria:Crit"),
        ({"select": "own_scores:bare"}, r"own_scores:bare is a function; decorate it with @evo\.importance\.criterion"),
        ({"select": 3}, r"ChannelVector\.select: got 3; select: got an int; expected a"),
        ({"select": print}, r"got a builtin_function_or_method; decorate it with @evo\.importance\.criterion"),
        ({"select": "no_such_module:scores"}, r"there is no module 'no_such_module'"),
        ({"free": ()}, r"ChannelVector\.free: got \(\)"),
        ({"gamma": 1.0}, r"ChannelVector\.gamma: got 1\.0"),
        ({"lam": -1}, r"ChannelVector\.lam: got -1"),
        ({"perturb": 0}, r"ChannelVector\.perturb: got 0"),
        ({"mutation": 0.0}, r"ChannelVector\.mutation: got 0\.0"),
    ],
)
@pytest.mark.usefixtures("own_module")
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ChannelVector(**settings)


def test_free_groups_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"free: unknown coupling group 'layer\*\.conv1'"):
        ChannelVector(free=("layer*.conv1",)).bind(TASK, (1.0,))
