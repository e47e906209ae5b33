"""Filters and bits per layer as a genome."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.encodings.base import Encoding
from evo.encodings.budgeted import Budgeted, bind_within
from evo.encodings.layer_policy import LayerPolicy, LayerPolicySpace
from evo.errors import NetworkError, SettingsError
from evo.importance import FilterSelection
from evo.policy import AdaLayer, closed_form
from evo.task import Task
from evo.testing import EncodingContract, small_task
from evo.training import Samples
from tests.importance.zoo import task_of

TASK = small_task()
NETWORK = TASK.network
A = {"0": 0.2, "4": 1.0, "9": 0.1}


class TestClosedForm(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return LayerPolicy(contributions=A)


class TestRandom(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return LayerPolicy(initial="random", select="random", bits=(1, 32), perturb=1.0, perturb_bits=9, mutation=1.0)


class TestTiedLayers(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return LayerPolicy(initial="random", free=("layer*.conv1", "conv1"), min_channels=2)

    @pytest.fixture
    def task(self) -> Task:
        return task_of("resnet20")


class TestParts(EncodingContract):
    """Grouped convolutions, kept in multiples that do not divide the layers."""

    @pytest.fixture
    def encoding(self) -> Encoding:
        return LayerPolicy(initial="random")

    @pytest.fixture
    def task(self) -> Task:
        return task_of("alexnet", 5)


@cache
def policies(**settings: Any) -> LayerPolicySpace:
    return LayerPolicy(**{"initial": "random", **settings}).bind(TASK, (1.0,))


def genome(*genes: int) -> Any:
    return policies().individual(np.array(genes))


def test_channels_of_the_groups_come_first_and_then_the_bits_of_the_layers() -> None:
    blueprint = policies().decode(genome(2, 3, 4, 8, 2, 7, 5))
    assert blueprint.counts == {"0": 2, "4": 3, "9": 4}
    assert blueprint.bits == {"0": 8, "4": 2, "9": 7, "11": 5}
    assert blueprint.masks.keys() == NETWORK.full.masks.keys()
    for name, mask in FilterSelection(NETWORK, "l1").masks([2, 3, 4]).items():
        assert blueprint.masks[name].tolist() == mask.tolist()


def test_a_search_begins_with_the_closed_form() -> None:
    limits = evo.Budget(bytes=0.15, macs=0.6).bind(NETWORK.costs, NETWORK.fewest)
    settings = AdaLayer(alpha=0.3, b_min=3)
    space = LayerPolicy(closed_form=settings, contributions=A, bits=(3, 8)).bind(TASK, (1.0,), limits)
    (first,) = space.seeds
    policy = closed_form(NETWORK, A, settings, limits)
    assert space.decode(first) == policy.blueprint(FilterSelection(NETWORK, "l1"))
    assert limits.fits(space.counts(first), space.bits(first))
    spread = np.array([list(one) for one in space.initial(200, np.random.default_rng(0))]) - np.array(list(first))
    assert (spread != 0).any(1).all()
    assert 1 <= (spread != 0).sum(1).mean() < 2
    assert np.abs(spread[:, 3:]).max() == 2
    assert LayerPolicy(initial="random").bind(TASK, (1.0,)).seeds == []


def test_a_closed_form_beyond_the_budget_is_no_seed() -> None:
    space = LayerPolicy(closed_form=AdaLayer(gamma=0.0), contributions=A).bind(TASK, (1.0,))
    limits = evo.Budget(bytes=0.1).bind(NETWORK.costs)
    assert len(Budgeted(space, evo.Budget(bytes=1.0).bind(NETWORK.costs)).seeds) == len(space.seeds) == 1
    assert Budgeted(space, limits).seeds == []


def test_contributions_are_measured_unless_they_are_given() -> None:
    space = LayerPolicy().bind(TASK, (1.0,))
    assert list(space.seeds[0]) == list(LayerPolicy().bind(TASK, (1.0,)).seeds[0])
    assert list(space.seeds[0]) != list(LayerPolicy(contributions=dict.fromkeys(A, 1.0)).bind(TASK, (1.0,)).seeds[0])


def test_random_policies_use_the_whole_range() -> None:
    drawn = np.array([list(one) for one in policies(bits=(3, 6)).initial(400, np.random.default_rng(0))])
    assert drawn.min(0).tolist() == [1, 1, 1, 3, 3, 3, 3]
    assert drawn.max(0).tolist() == [6, 8, 12, 6, 6, 6, 6]
    assert 0.2 < (drawn[:, 3:] == 3).mean() < 0.3


def test_mutation_moves_channels_by_a_share_and_bits_by_a_number() -> None:
    space = policies(perturb=0.25, perturb_bits=3, mutation=0.5)
    children = np.array(
        [list(space.mutate(genome(3, 4, 6, 5, 5, 5, 5), np.random.default_rng(seed))[0]) for seed in range(500)]
    )
    assert np.abs(children - [3, 4, 6, 5, 5, 5, 5]).max(0).tolist() == [1, 2, 3, 3, 3, 3, 3]


def test_crossover_keeps_a_layers_channels_and_bits_together() -> None:
    seen = set()
    for seed in range(100):
        first, second = genome(1, 1, 1, 2, 2, 2, 2), genome(4, 4, 4, 8, 8, 8, 8)
        policies().mate(first, second, np.random.default_rng(seed))
        swapped = [gene in (4, 8) for gene in first]
        assert swapped[:3] == swapped[3:6]
        assert [a + b for a, b in zip(first, second, strict=True)] == [5, 5, 5, 10, 10, 10, 10]
        seen.add(tuple(swapped))
    assert len(seen) == 16, "every layer on its own, the last one, which has no free channels, too"


def test_crossover_swaps_layers_of_the_same_channels_together() -> None:
    task = task_of("resnet20")
    space = LayerPolicy(initial="random").bind(task, (1.0,))
    group = next(group for group in task.network.groups if group.name == "conv1")
    assert len(group.producers) > 1
    first, second = space.initial(2, np.random.default_rng(0))
    one, two = space.decode(first), space.decode(second)
    space.mate(first, second, np.random.default_rng(1))
    child = space.decode(first)
    source = one if child.counts["conv1"] == one.counts["conv1"] else two
    assert {child.bits[name] for name in group.producers} == {source.bits[name] for name in group.producers}
    assert [child.bits[name] for name in group.producers] == [source.bits[name] for name in group.producers]


class Shared(nn.Module):
    """Two layers with one weight, one with a computed weight, and two that are quantised by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 5)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))
        self.wide = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(torch.relu(self.hidden(x))))))
        return torch.as_tensor(self.head(torch.relu(self.wide(torch.relu(self.computed(x))))))


class Bare(nn.Module):
    """Its weights are no layers'."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(nn.functional.linear(x, self.first)), self.second)


def task_around(model: nn.Module) -> Task:
    samples = Samples(torch.randn(20, 4), torch.arange(20) % 3)
    return Task(model, samples, samples)


def test_a_shared_weight_is_one_gene_and_a_computed_one_is_none() -> None:
    task = task_around(Shared())
    assert task.network.quantisable == ("hidden", "first", "wide", "head")
    space = LayerPolicy(initial="random").bind(task, (1.0,))
    individual = space.initial(1, np.random.default_rng(0))[0]
    blueprint = space.decode(individual)
    assert set(blueprint.bits) == set(task.network.quantisable)
    bits = space.bits(individual)
    names = [layer.name for layer in task.network.costs.layers]
    assert [names[index] for index in np.flatnonzero(bits < 32)] == list(task.network.quantisable)
    model = task.network.build(blueprint)
    assert isinstance(model, Shared)
    assert model.first.weight is model.second.weight
    with pytest.raises(NetworkError, match="bits: unknown layer with a weight of its own 'second'"):
        space.encode(task.network.full.with_bits({"second": 4}))


def test_what_it_cannot_express_is_refused() -> None:
    space = policies(bits=(4, 8))
    with pytest.raises(
        SettingsError, match=r"^0: the structure has weights of 32 bits, which .* its range is 4 to 8 \(bits"
    ):
        space.encode(NETWORK.full)
    low = dict.fromkeys(NETWORK.quantisable, 4)
    with pytest.raises(SettingsError, match=r"^9: the structure has weights of 3 bits"):
        space.encode(NETWORK.full.with_bits({**low, "9": 3}))
    for encoding in (evo.ChannelVector(), evo.FilterBits()):
        with pytest.raises(SettingsError, match=r"^0: the structure has weights of 4 bits, .* LayerPolicy can"):
            encoding.bind(TASK, (1.0,)).encode(NETWORK.full.with_bits(low))


def test_a_budget_that_only_few_bits_can_meet_is_met() -> None:
    """At 32 bits not even one filter per layer is within it."""
    least = int(NETWORK.costs.costs(NETWORK.fewest, ["bytes"])["bytes"])
    encoding = LayerPolicy(initial="random", bits=(2, 8), min_channels=1)
    space = bind_within(encoding, TASK, (1.0,), evo.Budget(bytes=least - 1))
    drawn = space.initial(20, np.random.default_rng(0))
    assert max(NETWORK.cost_of(space.decode(one))["bytes"] for one in drawn) < least
    with pytest.raises(SettingsError, match=r"budget: bytes ≤ .* cannot be met; even the smallest candidate has"):
        bind_within(evo.FilterBits(), TASK, (1.0,), evo.Budget(bytes=least - 1))
    with pytest.raises(SettingsError, match=r"budget: bytes ≤ 60 .* cannot be met; even the smallest candidate has"):
        bind_within(encoding, TASK, (1.0,), evo.Budget(bytes=60))
    with pytest.raises(SettingsError, match=r"cannot be met; with fewest channels .* candidates still have bytes \d"):
        bind_within(encoding.model_copy(update={"free": ("9",)}), TASK, (1.0,), evo.Budget(bytes=least - 1))


def test_packing_takes_two_bytes_per_group_and_one_per_layer() -> None:
    assert policies().pack(genome(6, 7, 12, 2, 3, 4, 8)) == bytes([6, 0, 7, 0, 12, 0, 2, 3, 4, 8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": (0, 8)}, r"LayerPolicy: .*bits is a range \(fewest, most\) with 1 ≤ fewest ≤ most ≤ 32"),
        ({"bits": (8, 4)}, r"bits is a range"),
        ({"bits": (5, 8)}, r"closed_form gives 4 to 8 bits \(b_min, b_max\), which are not all within bits, 5 to 8"),
        ({"closed_form": {"alpha": 2}}, r"^LayerPolicy\.closed_form\.alpha: got 2; input should be less than or"),
        ({"closed_form": {"alfa": 1}}, r"^LayerPolicy\.closed_form: unknown setting 'alfa'; did you mean 'alpha'"),
        ({"contributions": {"0": "much"}}, r"LayerPolicy\.contributions\.0: got 'much'"),
        ({"perturb": 0.0}, r"LayerPolicy\.perturb: got 0\.0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LayerPolicy(**settings)


def test_a_network_without_layers_to_quantise_is_refused() -> None:
    with pytest.raises(SettingsError, match="no layer of the network has weights that could be quantised"):
        LayerPolicy(initial="random").bind(task_around(Bare()), (1.0,))
