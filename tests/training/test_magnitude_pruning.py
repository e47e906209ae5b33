"""Magnitude pruning removes the smallest weights along its schedule, of all layers together or of each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evo.errors import SettingsError
from evo.training import EpochReport, MagnitudePruning, Recipe, Samples, sparsity, train
from tests.training.small import content, network, same

RECIPE = Recipe(batch_size=20, epochs=3)  # 24 steps


def test_it_follows_its_schedule_and_takes_the_smallest(some: Samples) -> None:
    shares, steps = [], []

    class Watched(MagnitudePruning):
        def remove(self) -> None:
            before = torch.cat([entry.weight.detach()[~entry.gone].abs() for entry in self.connections])
            super().remove()
            after = torch.cat([entry.weight.detach()[~entry.gone].abs() for entry in self.connections])
            assert torch.equal(after.sort().values, before.sort().values[len(before) - len(after) :])
            shares.append(1 - sum(entry.alive for entry in self.connections) / 1268)
            steps.append(self.step)

    hook = Watched(0.6, 24, every=4, start=0.2, stop=0.9)
    model = train(network(), some, RECIPE, np.random.default_rng(0), hooks=[hook])
    at = dict(zip(steps, shares, strict=True))
    expected = {8: 1 - (3 / 4) ** 3, 12: 1 - (2 / 4) ** 3, 16: 1 - (1 / 4) ** 3, 20: 1.0}
    assert at[7] == 0
    for step, share in expected.items():
        assert at[step] == pytest.approx(0.6 * share, abs=1e-3)
    assert at[24] == at[20]
    assert sparsity(model) == pytest.approx(0.6, abs=1e-3)


def test_every_layer_may_have_a_share_of_its_own(some: Samples) -> None:
    hook = MagnitudePruning({"0": 0.25, "7": 0.5}, 24)
    train(network(), some, RECIPE, np.random.default_rng(0), hooks=[hook])
    assert [entry.alive for entry in hook.connections] == [27, 1152, 40]


def test_it_survives_a_crash_bit_for_bit(some: Samples, tmp_path: Path) -> None:
    def kill(report: EpochReport) -> None:
        raise KeyboardInterrupt

    def run(path: Path | None, on_epoch: Callable[[EpochReport], None] | None = None) -> torch.nn.Module:
        hooks = [MagnitudePruning(0.8, 24, every=5)]
        return train(network(), some, RECIPE, np.random.default_rng(0), hooks=hooks, checkpoint=path, on_epoch=on_epoch)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "training", kill)
    assert same(content(run(tmp_path / "training")), content(run(None)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MagnitudePruning(1.0, 10), r"^sparsity: a share of the connections is in \[0, 1\), got 1\.0$"),
        (lambda: MagnitudePruning({"0": -1}, 10), "got -1"),
        (lambda: MagnitudePruning(0.5, 9), r"^steps: got 9, but every 10 between 10% and 80% there is none$"),
        (lambda: MagnitudePruning(0.5, 99, every=0), r"^expected every ≥ 1 and 0 ≤ start < stop ≤ 1, got every 0"),
        (lambda: MagnitudePruning(0.5, 99, start=0.9), r"got every 10, start 0\.9, stop 0\.8$"),
        (
            lambda: MagnitudePruning({"8": 0.5}, 100).begin(network()),
            r"^sparsity: unknown layer '8'; known are: 0, 4, 7$",
        ),
    ],
)
def test_mistakes_are_one_sentence(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        make()
