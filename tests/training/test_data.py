import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from evo.errors import DataError
from evo.training import Samples, balanced_subset, load_samples, split


class Pairs(Dataset[Any]):
    """A map-style data set without tensors of its own."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


X = torch.randn(6, 1, 4, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    "data",
    [
        Samples(X, Y),
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        (X, Y.to(torch.int32)),
        (X, Y.to(torch.uint8)),
        TensorDataset(X, Y),
        Pairs(X, Y),
        Pairs(X.numpy(), Y.tolist()),
        list(zip(X, Y.tolist(), strict=True)),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_usual_form_is_decoded(data: Any) -> None:
    samples = load_samples(data, "train")
    assert torch.equal(samples.x, X)
    assert torch.equal(samples.y, Y)
    assert samples.y.dtype == torch.int64
    assert (len(samples), samples.classes) == (6, 3)


def test_two_pairs_are_a_data_set_and_not_a_pair_of_arrays() -> None:
    samples = load_samples([(X[0], 1), (X[1], 0)], "train")
    assert samples.y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:5]), "expected as many labels as inputs and at least one, got 6, 5"),
        ((X[:0], Y[:0]), "at least one, got 0, 0"),
        ([], "expected"),
        ((X, Y.float()), "labels must be class numbers 0, 1, …, got torch.float32"),
        ((X, Y - 1), "labels must be class numbers"),
        ((X, Y[:, None]), r"labels must be class numbers .* of shape \(6, 1\)"),
        (((X * 50).to(torch.uint8), Y), "inputs must be floating point and normalised, got torch.uint8"),
        ((torch.where(X > 1, torch.nan, X), Y), "NaN or infinite"),
        ((torch.arange(6.0), Y), "inputs need a batch dimension"),
        (Pairs([torch.zeros(2), torch.zeros(3)], [0, 1]), "got Pairs"),
        (Pairs(["cat"], [0]), "got Pairs"),
        (Pairs(X, ["a"] * 6), "got Pairs"),
        (17, "got int"),
        (None, "got NoneType"),
    ],
)
def test_anything_else_is_refused_with_the_reason(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_samples(data, "val")
    assert str(raised.value).startswith("val: ")
    assert "\n" not in str(raised.value)


def test_digest_depends_on_content_alone() -> None:
    samples = Samples(X, Y)
    assert samples.digest == Samples(X.clone(), Y.clone()).digest
    others = [Samples(X + 1e-6, Y), Samples(X, Y.flip(0)), Samples(X.reshape(6, 1, 2, 8), Y), Samples(X.double(), Y)]
    assert len({samples.digest, *(other.digest for other in others)}) == 5


def test_take_copies() -> None:
    samples = Samples(X.clone(), Y)
    taken = samples.take(np.array([4, 0]))
    taken.x.zero_()
    assert taken.y.tolist() == [1, 0]
    assert torch.equal(samples.x, X)


def test_pickles_with_shared_read_only_memory() -> None:
    buffers: list[pickle.PickleBuffer] = []
    samples = Samples(X, Y)
    packed = pickle.dumps(samples, protocol=5, buffer_callback=buffers.append)
    received = pickle.loads(packed, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert len(packed) < 1000, "the content travels out of band"
    assert received.digest == samples.digest


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_a_balanced_subset_takes_equally_from_every_class(labels: list[int], images: int, seed: int) -> None:
    chosen = balanced_subset(torch.tensor(labels), images, np.random.default_rng(seed))
    assert len(chosen) == min(images, len(labels)) == len(set(chosen.tolist()))
    sizes = {label: labels.count(label) for label in set(labels)}
    taken = {label: [labels[index] for index in chosen].count(label) for label in sizes}
    # A class with less than the largest share has given all it has, or is one short of it.
    most = max(taken.values())
    assert all(taken[label] >= most - 1 or taken[label] == sizes[label] for label in sizes)


def test_a_balanced_subset_is_random_in_choice_and_order() -> None:
    labels = torch.arange(300) % 3
    draws = [balanced_subset(labels, 30, np.random.default_rng(seed)).tolist() for seed in range(200)]
    assert draws[0] == balanced_subset(labels, 30, np.random.default_rng(0)).tolist()
    counts = np.bincount(np.concatenate(draws), minlength=300)
    # Each index is drawn with probability 1/10: 200 times give 20 ± 4.2.
    assert abs(counts - 20).max() < 5 * 4.25
    classes = np.array([[index % 3 for index in draw] for draw in draws])
    assert abs((classes == 0).mean(0) - 1 / 3).max() < 5 * (2 / 9 / 200) ** 0.5, "no class comes first"


def test_split_keeps_everything_once() -> None:
    samples = Samples(torch.arange(40.0)[:, None], torch.arange(40) % 4)
    rest, part = split(samples, 0.3, np.random.default_rng(0))
    assert (len(rest), len(part)) == (28, 12)
    assert torch.bincount(part.y).tolist() == [3, 3, 3, 3]
    assert sorted([*rest.x.flatten().tolist(), *part.x.flatten().tolist()]) == list(range(40))
    assert torch.equal(part.y, part.x.flatten().long() % 4)
