import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

import evo
from evo.budget import Limits
from evo.errors import SettingsError
from evo.network import COSTS, CostModel, LayerCost, Width
from evo.testing import small_task

TASK = small_task()
NETWORK = TASK.network
ORIGINAL = NETWORK.cost_of(NETWORK.full)
RIGHT = r"expected a share of the original in \(0, 1\], such as 0\.5, or a whole number ≥ 2"


def one_layer(inputs: int) -> CostModel:
    """A linear layer with one output per channel: `inputs` weights for each."""
    layer = LayerCost("fc", 1, Width(inputs), Width(0, ((0, 1),)), Width(inputs), 1, 1)
    return CostModel([100], [layer])


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (True, f"got True; {RIGHT}"),
        (False, f"got False; {RIGHT}"),
        (0, f"got 0; {RIGHT}"),
        (0.0, f"got 0.0; {RIGHT}"),
        (-3, f"got -3; {RIGHT}"),
        (-0.5, f"got -0.5; {RIGHT}"),
        (1.5, f"got 1.5; {RIGHT}"),
        (1, f"got 1; {RIGHT}; all of the original is 1.0"),
        (3e5, f"got 300000.0; {RIGHT}; write 300000"),
        (float("nan"), f"got nan; {RIGHT}"),
        (float("inf"), f"got inf; {RIGHT}"),
        ("0.3", f"got '0.3'; {RIGHT}"),
        ([0.3], rf"got \[0.3\]; {RIGHT}"),
    ],
)
def test_what_is_neither_a_share_nor_a_number_is_refused(value: Any, refused: str) -> None:
    with pytest.raises(SettingsError, match=rf"^Budget\.macs: {refused}$"):
        evo.Budget(macs=value)


def test_a_budget_without_an_entry_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^Budget: got {}; name at least one cost to limit, e\.g\. params = 0\.3$"):
        evo.Budget()
    with pytest.raises(SettingsError, match=r"^run\.toml: budget: got {}; name at least one cost"):
        evo.Budget.parse({}, "run.toml: budget")
    with pytest.raises(SettingsError, match="unknown setting 'flops'; known are: bytes, feature_maps, macs"):
        evo.Budget(**{"flops": 0.5})


def test_every_cost_can_be_limited_and_what_is_written_stays() -> None:
    assert set(evo.Budget.model_fields) == set(COSTS)
    budget = evo.Budget(params=np.float64(0.25), macs=np.int64(9000), bytes=1.0, peak_memory=2)
    assert budget.amounts == {"params": 0.25, "macs": 9000, "bytes": 1.0, "peak_memory": 2}
    assert [type(amount) for amount in budget.amounts.values()] == [float, int, float, int]
    text = tomli_w.dumps({name: value for name, value in budget.to_dict().items() if value is not None})
    assert text == "params = 0.25\nmacs = 9000\nbytes = 1.0\npeak_memory = 2\n"


@given(st.floats(0, 1, exclude_min=True), st.integers(100, 10**9))
def test_shares_are_exact(share: float, inputs: int) -> None:
    model = one_layer(inputs)
    (most,) = evo.Budget(weights=share).bind(model, [0]).maxima  # without channels a candidate costs nothing
    exact = Fraction(repr(share)) * 100 * inputs
    assert most <= exact < most + 1


@pytest.mark.parametrize(("share", "most"), [(0.29, 29), (0.3, 30), (0.57, 57), (0.999, 99), (1.0, 100), (1e-2, 1)])
def test_a_share_means_what_is_written(share: float, most: int) -> None:
    assert evo.Budget(weights=share).bind(one_layer(1), [1]).maxima == (most,)


@pytest.mark.parametrize("names", [("params",), ("macs", "params"), tuple(COSTS)])
def test_limits_agree_with_the_networks_that_are_built(names: tuple[str, ...]) -> None:
    budget = evo.Budget(**{name: 0.6 if name in ("feature_maps", "peak_memory") else 0.4 for name in names})
    limits = budget.bind(NETWORK.costs, NETWORK.fewest)
    space = evo.FilterBits().bind(TASK, (1.0,))
    blueprints = [space.decode(one) for one in space.initial(200, np.random.default_rng(0))]
    counts = NETWORK.counts(blueprints)
    fits = limits.fits(counts)
    maxima = dict(zip(limits.names, limits.maxima, strict=True))
    expected = [all(NETWORK.cost_of(one)[name] <= most for name, most in maxima.items()) for one in blueprints]
    assert fits.tolist() == expected
    assert 5 < sum(expected) < 195
    assert [bool(limits.fits(row)) for row in counts] == expected
    if "params" in maxima:
        sizes = [sum(weight.numel() for weight in NETWORK.build(one).parameters()) for one in blueprints]
        assert all(size <= maxima["params"] for size, fit in zip(sizes, expected, strict=True) if fit)


def test_limits_on_bytes_count_bits() -> None:
    rng = np.random.default_rng(0)
    limits = evo.Budget(bytes=0.1, macs=0.7).bind(NETWORK.costs, NETWORK.fewest)
    space = evo.FilterBits().bind(TASK, (1.0,))
    blueprints = [
        space.decode(one).with_bits(dict.fromkeys(NETWORK.quantisable, int(rng.integers(1, 33))))
        for one in space.initial(200, rng)
    ]
    counts, bits = NETWORK.counts(blueprints), NETWORK.bits(blueprints)
    assert bits is not None
    found = [NETWORK.cost_of(one) for one in blueprints]
    assert limits.values(counts, bits).tolist() == [[cost[name] for name in limits.names] for cost in found]
    maxima = dict(zip(limits.names, limits.maxima, strict=True))
    expected = [all(cost[name] <= maxima[name] for name in maxima) for cost in found]
    assert limits.fits(counts, bits).tolist() == expected
    assert 5 < sum(expected) < 195
    assert [bool(limits.fits(count, depth)) for count, depth in zip(counts, bits, strict=True)] == expected


def test_the_fewest_bits_decide_whether_a_budget_can_be_met() -> None:
    low = NETWORK.costs.bits_of(dict.fromkeys(NETWORK.quantisable, 2))
    least = int(NETWORK.costs.bytes(NETWORK.fewest, low))
    assert evo.Budget(bytes=least).bind(NETWORK.costs, NETWORK.fewest, low).fits(NETWORK.fewest, low)
    with pytest.raises(SettingsError, match=f"bytes ≤ {least - 1} .* even the smallest candidate has {least}$"):
        evo.Budget(bytes=least - 1).bind(NETWORK.costs, NETWORK.fewest, low)
    with pytest.raises(SettingsError, match="cannot be met"):
        evo.Budget(bytes=least).bind(NETWORK.costs, NETWORK.fewest)


def test_the_limit_itself_is_allowed() -> None:
    limits = evo.Budget(params=ORIGINAL["params"], macs=1.0).bind(NETWORK.costs)
    assert limits.fits(NETWORK.costs.sizes)
    assert not evo.Budget(params=ORIGINAL["params"] - 1).bind(NETWORK.costs).fits(NETWORK.costs.sizes)


def test_what_even_the_smallest_candidate_exceeds_is_refused() -> None:
    least = {name: int(value) for name, value in NETWORK.costs.costs(NETWORK.fewest).items()}
    for name in COSTS:
        assert evo.Budget(**{name: least[name]}).bind(NETWORK.costs, NETWORK.fewest).fits(NETWORK.fewest)
        with pytest.raises(SettingsError) as caught:
            evo.Budget(**{name: least[name] - 1}).bind(NETWORK.costs, NETWORK.fewest)
        share = f"{100 * (least[name] - 1) / ORIGINAL[name]:.3g}"
        assert str(caught.value) == (
            f"budget: {name} ≤ {least[name] - 1:,} ({share} % of {ORIGINAL[name]:,}) cannot be met; "
            f"even the smallest candidate has {least[name]:,}"
        )


def test_the_smallest_candidate_is_a_legal_one() -> None:
    even = evo.Network.analyse(NETWORK.build(NETWORK.full), small_task().train.x[:2], multiple=4)
    assert even.fewest.tolist() == [4, 4, 4]
    least = int(even.costs.costs(even.fewest, ["params"])["params"])
    budget = evo.Budget(params=least - 1)
    assert budget.bind(even.costs).fits(np.ones(3, dtype=int)), "one channel each would do"
    with pytest.raises(SettingsError, match=f"even the smallest candidate has {least}$"):
        budget.bind(even.costs, even.fewest)


def test_limits_in_words() -> None:
    limits = evo.Budget(macs=5000, params=0.3).bind(NETWORK.costs)
    assert limits.describe() == "params ≤ 286 (29.9 % of 955), macs ≤ 5,000 (46.3 % of 10,788)"
    assert limits.entry("macs") == "macs ≤ 5,000 (46.3 % of 10,788)"
    with pytest.raises(ValueError, match="not in tuple"):
        limits.entry("bytes")


def test_limits_pickle() -> None:
    limits = evo.Budget(params=0.3).bind(NETWORK.costs)
    again = pickle.loads(pickle.dumps(limits))
    assert isinstance(again, Limits)
    assert (again.names, again.maxima) == (limits.names, limits.maxima)
    assert again.fits(NETWORK.fewest) == limits.fits(NETWORK.fewest)
