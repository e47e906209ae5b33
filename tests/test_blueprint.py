import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo.blueprint import Blueprint
from evo.errors import SettingsError

masks = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=40).filter(any),
    min_size=1,
    max_size=4,
)
bits = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 31), max_size=4)


def make(kept: dict[str, list[bool]]) -> Blueprint:
    return Blueprint.from_masks({name: np.array(bits) for name, bits in kept.items()})


@given(masks)
def test_keeps_what_it_was_made_from(kept: dict[str, list[bool]]) -> None:
    blueprint = make(kept)
    assert {name: mask.tolist() for name, mask in blueprint.masks.items()} == kept
    assert blueprint.counts == {name: sum(bits) for name, bits in kept.items()}


@given(masks, bits)
def test_goes_through_json_and_pickle(kept: dict[str, list[bool]], bits: dict[str, int]) -> None:
    blueprint = make(kept).with_bits(bits)
    assert blueprint.bits == bits
    for again in (Blueprint.from_json(blueprint.to_json()), pickle.loads(pickle.dumps(blueprint))):
        assert again == blueprint
        assert hash(again) == hash(blueprint)
        assert again.key == blueprint.key


def test_travels_without_what_was_derived_from_it() -> None:
    blueprint = Blueprint.from_masks({"layer": np.ones(8000, dtype=bool)})
    size = len(pickle.dumps(blueprint))
    assert blueprint.counts == {"layer": 8000}
    assert len(pickle.dumps(blueprint)) == size < 1200


@given(masks, masks, bits, bits)
def test_equal_keys_mean_equal_structures(
    one: dict[str, list[bool]], other: dict[str, list[bool]], bits: dict[str, int], other_bits: dict[str, int]
) -> None:
    assert (make(one).key == make(other).key) == (one == other)
    assert (make(one).with_bits(bits).key == make(one).with_bits(other_bits).key) == (bits == other_bits)
    assert (make(one).with_bits(bits).key == make(other).key) == (one == other and not bits)


def test_key_depends_on_names_sizes_and_bits() -> None:
    variants: list[dict[str, list[bool]]] = [
        {"a": [True, False]},
        {"b": [True, False]},
        {"a": [False, True]},
        {"a": [True, False, False]},  # the same packed bits
        {"a": [True, False], "b": [True]},
        {"a": [True], "b": [True, False]},
    ]
    assert len({make(kept).key for kept in variants}) == len(variants)


def test_order_of_groups_does_not_matter() -> None:
    assert make({"a": [True], "b": [True, False]}) == make({"b": [True, False], "a": [True]})


def test_key_stays_the_same_for_ever() -> None:
    # Run folders and the randomness of every candidate rely on it.
    blueprint = make({"a": [index % 2 == 0 for index in range(9)], "b": [True] * 3})
    assert blueprint.key == "07a3df8c375056011ce4e6fb2e59a666"


def test_json_says_what_is_kept() -> None:
    assert json.loads(make({"conv": [False, True, True]}).to_json()) == {
        "kept": {"conv": {"of": 3, "kept": [1, 2]}},
        "bits": {},
    }


def test_full_precision_is_the_same_as_no_bits() -> None:
    plain = make({"conv": [False, True, True]})
    assert plain.with_bits({"conv": 32}) == plain
    assert plain.with_bits({"conv": 8, "fc": 32}) == plain.with_bits({"conv": np.int64(8)})  # type: ignore[dict-item]
    assert plain.with_bits({"conv": 8}).with_bits({}) == plain
    assert plain.with_bits({"b": 2, "a": 1}) == plain.with_bits({"a": 1, "b": 2})


@pytest.mark.parametrize("value", [0, 33, -1, 8.0, True, "8", None])
def test_bits_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"^conv: weight bits are a whole number from 1 to 32, got "):
        make({"conv": [True]}).with_bits({"conv": value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"kept": {}}',
        '{"kept": [], "bits": {}}',
        '{"kept": {"conv": {"of": 3, "kept": [3]}}, "bits": {}}',
        '{"kept": {"conv": {"of": 3, "kept": [-1]}}, "bits": {}}',
        '{"kept": {"conv": {"of": 3, "kept": []}}, "bits": {}}',
        '{"kept": {"conv": {"of": 3}}, "bits": {}}',
        '{"kept": {"conv": {"of": 3, "kept": [1]}}, "bits": {"conv": 99}}',
        '{"kept": {"conv": {"of": 3, "kept": [1]}}, "bits": 4}',
    ],
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        Blueprint.from_json(text)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(4, dtype=bool), "conv: the keep mask keeps none of 4 channels"),
        (np.zeros(0, dtype=bool), "conv: the keep mask keeps none of 0 channels"),
        (np.array([0, 1]), r"conv: a keep mask is one-dimensional and boolean, got int64\(2,\)"),
        (np.ones((2, 2), dtype=bool), r"got bool\(2, 2\)"),
    ],
)
def test_masks_that_are_none_are_refused(mask: np.ndarray[tuple[int], np.dtype[np.bool_]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Blueprint.from_masks({"conv": mask})
