"""AdaLayerNet's closed form against its equations, its budget, and its degenerate cases."""

import copy
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

import evo
from evo.errors import SettingsError
from evo.importance import FilterSelection
from evo.importance.contributions import contributions, perturbations
from evo.network.zoo import adalayernet, resnet20
from evo.policy import AdaLayer, closed_form, layer_table, measured_contributions, uniform

CONTRIBUTED = {"0": 1.0, "4": 0.25, "9": 0.5}


@pytest.fixture(scope="module")
def network(digits_task: evo.Task) -> evo.Network:
    return digits_task.network


@pytest.fixture(scope="module")
def paper_network() -> evo.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return evo.Network.analyse(adalayernet(), torch.zeros(2, 3, 32, 32))


def literally(
    network: evo.Network, contributed: Mapping[str, float], settings: AdaLayer, gamma: float
) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Equations 1 to 3, layer by layer: importance, pruning ratio and bits by name."""
    model = network.build(network.full)
    names = [layer.name for layer in network.costs.layers]
    weights = {name: model.get_submodule(name).get_parameter("weight").detach().double() for name in names}
    macs = {layer.name: weights[layer.name].numel() * layer.uses for layer in network.costs.layers}
    variances = {name: float(((weight - weight.mean()) ** 2).mean()) for name, weight in weights.items()}
    importance, ratio, bits = {}, {}, {}
    for name in names:
        a = next((contributed[group.name] for group in network.groups if name in group.producers), 1.0)
        importance[name] = settings.alpha * a + (1 - settings.alpha) * macs[name] / max(macs.values())
        redundancy = 1 - variances[name] / max(variances.values())
        exact = gamma * (1 - importance[name]) + settings.delta * redundancy
        ratio[name] = min(max(exact, 0.0), settings.p_max)
        rounded = round(settings.b_max - settings.lam * (1 - importance[name]))
        bits[name] = min(max(rounded, settings.b_min), settings.b_max)
    return importance, ratio, bits


class TestEquations:
    @pytest.mark.parametrize(
        "settings",
        [
            AdaLayer(gamma=0.4),
            AdaLayer(gamma=0.0, delta=0.3),
            AdaLayer(gamma=2.0, alpha=0.9, lam=9, b_min=2),
            AdaLayer(gamma=0.7, alpha=0, delta=0, lam=0),
        ],
    )
    def test_importance_pruning_and_bits_are_those_of_the_equations(
        self, network: evo.Network, settings: AdaLayer
    ) -> None:
        assert settings.gamma is not None
        policy = closed_form(network, CONTRIBUTED, settings)
        importance, ratio, bits = literally(network, CONTRIBUTED, settings, settings.gamma)
        assert policy.gamma == settings.gamma
        assert policy.layers["I"].to_dict() == pytest.approx(importance)
        assert policy.layers["P"].to_dict() == pytest.approx({**ratio, "11": 0.0}), "the classifier stays whole"
        assert dict(policy.bits) == bits
        sizes = {group.name: group.size for group in network.groups}
        kept = {name: max(1, round((1 - ratio[name]) * size)) for name, size in sizes.items()}
        assert dict(zip(sizes, policy.counts.tolist(), strict=True)) == kept

    def test_tied_layers_lose_the_mean_of_their_ratios_by_their_weights(self) -> None:
        network = evo.Network.analyse(resnet20(), torch.zeros(2, 3, 32, 32))
        contributed = {group.name: index / 20 for index, group in enumerate(network.groups)}
        settings = AdaLayer(gamma=0.6)
        _, ratio, _ = literally(network, contributed, settings, 0.6)
        counts = closed_form(network, contributed, settings).counts
        weights = dict(
            zip((layer.name for layer in network.costs.layers), network.costs.weights(network.costs.sizes), strict=True)
        )
        tied = [index for index, group in enumerate(network.groups) if len(group.producers) > 1]
        assert tied
        for index in tied:
            group = network.groups[index]
            total = sum(weights[name] for name in group.producers)
            share = sum(ratio[name] * weights[name] for name in group.producers) / total
            assert counts[index] == round((1 - share) * group.size)

    def test_a_contribution_is_what_is_lost_with_half_the_filters_silenced(self, digits_task: evo.Task) -> None:
        network = digits_task.network
        measured = measured_contributions(digits_task, FilterSelection(network, "l1"))
        whole = network.build(network.full)
        original = evo.error_rate(whole, digits_task.val)
        errors = {}
        for name, norm in (("0", "1"), ("4", "5"), ("9", "9")):
            silenced = copy.deepcopy(whole)
            weight = silenced.get_parameter(f"{name}.weight").detach()
            weakest = weight.abs().flatten(1).sum(1).argsort(stable=True)[: len(weight) // 2]
            with torch.no_grad():
                for part in ("weight", "bias"):
                    silenced.get_parameter(f"{norm}.{part}")[weakest] = 0
            errors[name] = evo.error_rate(silenced, digits_task.val)
        assert measured == contributions(original, errors)
        assert max(measured.values()) == 1.0


class TestBudget:
    @pytest.mark.parametrize(
        "budget", [evo.Budget(params=0.4), evo.Budget(bytes=0.1), evo.Budget(params=0.6, bytes=0.12, macs=0.3)]
    )
    def test_gamma_is_the_smallest_within_it(self, network: evo.Network, budget: evo.Budget) -> None:
        limits = budget.bind(network.costs, network.fewest)
        policy = closed_form(network, CONTRIBUTED, AdaLayer(), limits)
        bits = network.costs.bits_of(policy.bits)
        assert limits.fits(policy.counts, bits)
        before = AdaLayer(gamma=math.nextafter(policy.gamma, 0))
        larger = closed_form(network, CONTRIBUTED, before).counts
        assert policy.gamma > 0
        assert not limits.fits(larger, bits), "a little less pruning would be too much"

    def test_its_structure_costs_what_the_table_says(self, network: evo.Network) -> None:
        limits = evo.Budget(bytes=0.15).bind(network.costs)
        policy = closed_form(network, CONTRIBUTED, None, limits)
        blueprint = policy.blueprint(FilterSelection(network, "l1"))
        costs = network.cost_of(blueprint)
        norms = 2 * int(policy.counts[:2].sum())  # scales and shifts of two batch normalisations
        assert costs["params"] == policy.layers["kept_params"].sum() + norms
        assert costs["macs"] == policy.layers["kept_macs"].sum()
        floats = costs["params"] - network.costs.weights(policy.counts).sum()
        assert costs["bytes"] == policy.layers["kept_bytes"].sum() + 4 * floats
        assert costs["bytes"] <= limits.maxima[0]

    def test_a_generous_one_needs_no_unimportance(self, network: evo.Network) -> None:
        limits = evo.Budget(params=1.0).bind(network.costs)
        assert closed_form(network, CONTRIBUTED, AdaLayer(delta=0), limits).gamma == 0

    def test_an_unreachable_one_is_refused_with_what_is_left(self, network: evo.Network) -> None:
        limits = evo.Budget(params=0.1).bind(network.costs)
        with pytest.raises(
            SettingsError, match=r"^budget: params ≤ .* is not met by the closed form with gamma .*, p_max 0.5"
        ):
            closed_form(network, CONTRIBUTED, AdaLayer(p_max=0.5), limits)
        with pytest.raises(SettingsError, match=r"with gamma 0\.1, p_max 0\.9 and 5 to 7 bits.*try another gamma"):
            closed_form(network, CONTRIBUTED, AdaLayer(gamma=0.1, alpha=0.5), limits)

    def test_uniform_treats_all_layers_alike(self, network: evo.Network) -> None:
        limits = evo.Budget(bytes=0.1).bind(network.costs)
        policy = uniform(network, 6, limits)
        assert set(policy.bits.values()) == {6}
        shares = [count / group.size for count, group in zip(policy.counts.tolist(), network.groups, strict=True)]
        assert max(shares) - min(shares) <= 1 / 8, "but for rounding to whole filters"
        assert limits.fits(policy.counts, network.costs.bits_of(policy.bits))
        fewer = uniform(network, 3, limits)
        assert (fewer.counts >= policy.counts).all(), "fewer bits leave room for more filters"


class TestDegenerate:
    def test_where_nothing_contributes_flops_alone_decide(self, network: evo.Network) -> None:
        nothing = contributions(0.5, {"0": 0.5, "4": 0.2, "9": 0.4})
        assert set(nothing.values()) == {0.0}
        layers = closed_form(network, nothing, AdaLayer(gamma=0.5, alpha=0.5)).layers
        np.testing.assert_allclose(layers["I"].iloc[:-1], 0.5 * layers["F"].iloc[:-1])

    def test_constant_weights_are_all_redundant(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.5)
        network = evo.Network.analyse(model, torch.rand(2, 4))
        layers = closed_form(network, {"1": 0.0}, AdaLayer(gamma=0.0, delta=0.5)).layers
        assert layers["R"].to_list() == [1.0, 1.0]
        assert layers["pruned"].to_list() == [0.5, 0.0]

    def test_a_layer_of_one_filter_cannot_be_perturbed_and_counts_as_important(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 3))
        network = evo.Network.analyse(model, torch.rand(2, 4))
        assert list(perturbations(network, FilterSelection(network, "l1"))) == ["3"]
        policy = closed_form(network, {"3": 0.0}, AdaLayer(gamma=5.0, alpha=1))
        assert policy.layers["A"].to_list() == [1.0, 0.0, 1.0]
        assert policy.layers["pruned"].to_list() == [0.0, pytest.approx(5 / 6), 0.0]

    def test_what_is_not_free_stays_whole_and_keeps_its_bits(self, network: evo.Network) -> None:
        policy = closed_form(network, CONTRIBUTED, AdaLayer(gamma=9.0, alpha=1), free=["9"], min_channels=3)
        assert policy.counts.tolist() == [8, 12, 3]
        assert dict(policy.bits) == {"0": 8, "4": 8, "9": 6, "11": 8}

    def test_everything_important_is_beyond_any_budget(self, network: evo.Network) -> None:
        limits = evo.Budget(params=0.5).bind(network.costs)
        with pytest.raises(SettingsError, match="is not met by the closed form"):
            closed_form(network, dict.fromkeys(CONTRIBUTED, 1.0), AdaLayer(alpha=1, delta=0), limits)

    def test_one_bit(self, network: evo.Network) -> None:
        policy = closed_form(network, CONTRIBUTED, AdaLayer(gamma=0.2, b_min=1, b_max=1))
        assert set(policy.bits.values()) == {1}

    @pytest.mark.parametrize(
        ("contributed", "sentence"),
        [
            ({"0": 1.0, "44": 0.5}, r"^contributions: unknown coupling group '44'; did you mean '4'\?$"),
            ({"0": 1.0, "4": -0.5}, r"^contributions: that of '4' is a share in \[0, 1\], got -0\.5$"),
            ({"0": math.nan}, "got nan"),
        ],
    )
    def test_contributions_of_no_group_or_out_of_range(
        self, network: evo.Network, contributed: dict[str, float], sentence: str
    ) -> None:
        with pytest.raises(SettingsError, match=sentence):
            closed_form(network, contributed)

    def test_settings_that_contradict_each_other(self) -> None:
        with pytest.raises(SettingsError, match="b_min 9 is more than b_max 8"):
            AdaLayer(b_min=9)
        with pytest.raises(SettingsError, match="unknown coupling group"):
            closed_form(evo.Network.analyse(_small(), torch.rand(2, 4)), {}, free=["nothing"])


def _small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


class TestTable:
    def test_the_papers_parameters(self, paper_network: evo.Network) -> None:
        table = layer_table(paper_network, paper_network.costs.sizes, {})
        assert table["params"].to_list()[:8] == [864, 18_432, 73_728, 147_456, 294_912, 589_824, 131_584, 131_328]
        assert (table["params"] == table["kept_params"]).all()
        assert (table["bits"] == 32).all()
        assert (table["pruned"] == 0).all()
        assert (table["bytes"] == table["kept_bytes"]).all()

    def test_a_budget_is_used_up_to_a_filter_or_two(self, paper_network: evo.Network) -> None:
        limits = evo.Budget(bytes=0.12).bind(paper_network.costs)
        contributed = {group.name: 1 / (1 + index) for index, group in enumerate(paper_network.groups)}
        policy = closed_form(paper_network, contributed, AdaLayer(), limits)
        used = int(paper_network.costs.bytes(policy.counts, paper_network.costs.bits_of(policy.bits)))
        assert 0.99 * limits.maxima[0] < used <= limits.maxima[0]
        assert set(policy.bits.values()) <= set(range(4, 9))
