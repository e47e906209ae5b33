"""Connections are appraised as the formulas say, stay gone, and never take a unit with them that something reads."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.errors import SettingsError
from evo.network.origin import Origin, remember
from evo.training import (
    Appraisal,
    ConnectionAppraisal,
    EpochReport,
    Recipe,
    Samples,
    appraisals,
    sparsity,
    train,
)
from evo.training.connections import connections_of
from tests.training.small import content, network, same

EAGER = Appraisal(threshold=0.7, patience=2, decay=0.6, every=2, start=0, stop=1)


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutions(groups: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=groups),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


def batches(shape: tuple[int, ...], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(16, *shape, generator=generator)
        yield x, torch.stack([x.flatten(1)[:, 0], x.flatten(1).mean(1), x.flatten(1)[:, 1] ** 2], 1)


def fit(
    model: nn.Module,
    hook: ConnectionAppraisal,
    shape: tuple[int, ...],
    steps: int,
    make: Callable[[Any], torch.optim.Optimizer] = lambda parameters: torch.optim.SGD(parameters, 0.05, 0.9),
    after: Callable[[], None] = lambda: None,
) -> None:
    """A plain loop."""
    optimizer = make(model.parameters())
    hook.begin(model.train())
    for x, y in batches(shape, steps):
        hook.before_forward()
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        hook.before_step()
        optimizer.step()
        hook.after_step()
        after()
    hook.end()
    hook.close()


def connections(layer: Any) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield (index of the weight, input channel, unit) of every connection of a layer, one by one."""
    if isinstance(layer, nn.Linear):
        for unit, channel in np.ndindex(*layer.weight.shape):
            yield (unit, channel), channel, unit
    elif isinstance(layer, nn.Conv2d):
        per_group, filters = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        for unit, channel, row, column in np.ndindex(*layer.weight.shape):
            yield (unit, channel, row, column), unit // filters * per_group + channel, unit
    else:
        per_group, filters = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        for channel, unit, row, column in np.ndindex(*layer.weight.shape):
            yield (channel, unit, row, column), channel, channel // per_group * filters + unit


class Literal:
    """Appraises one connection after the other, with numbers in dictionaries."""

    def __init__(self, model: nn.Sequential, settings: Appraisal, steps: int) -> None:
        self.model: list[Any] = list(model)
        self.settings, self.steps, self.step = settings, steps, 0
        self.layers: list[Any] = [
            layer
            for name, layer in model.named_children()
            if hasattr(layer, "weight") and settings.layers in (("*",), (name,))
        ]
        self.seen: list[list[list[float]]] = [[] for _ in self.layers]
        self.average: list[dict[tuple[int, ...], float]] = [{} for _ in self.layers]
        self.weak: list[dict[tuple[int, ...], int]] = [{} for _ in self.layers]
        self.gone: list[set[tuple[int, ...]]] = [set() for _ in self.layers]
        self.dead = [0] * len(self.layers)

    def see(self, x: Tensor) -> None:
        number, settings = 0, self.settings
        if not settings.start * self.steps < self.step + 1 <= settings.stop * self.steps:
            return
        with torch.no_grad():
            for layer in self.model:
                if layer in self.layers:
                    self.seen[number].append([float(x[:, channel].abs().mean()) for channel in range(x.shape[1])])
                    number += 1
                x = layer(x)

    def appraise(self) -> None:
        self.step += 1
        settings = self.settings
        assert settings.every is not None
        if self.step % settings.every or not settings.start * self.steps < self.step <= settings.stop * self.steps:
            return
        for number, layer in enumerate(self.layers):
            gone, average, weak = self.gone[number], self.average[number], self.weak[number]
            weight: Tensor = layer.weight.detach()
            read = [sum(values) / len(values) for values in zip(*self.seen[number], strict=True)]
            self.seen[number] = []
            alive = [entry for entry in connections(layer) if entry[0] not in gone]
            parts = {index: abs(float(weight[index])) * read[channel] for index, channel, _ in alive}
            mean = sum(parts.values()) / len(parts)
            for index, part in parts.items():
                now = part / mean
                average[index] = settings.decay * average.get(index, now) + (1 - settings.decay) * now
                weak[index] = weak.get(index, 0) + 1 if average[index] < settings.threshold else 0
            condemned = {index for index in parts if weak[index] >= settings.patience}
            for unit in {unit for _, _, unit in alive}:
                own = [index for index, _, other in alive if other == unit]
                if condemned.issuperset(own):
                    condemned.remove(max(own, key=average.__getitem__))
            gone |= condemned
        if any(self.gone):
            for number in reversed(range(len(self.layers) - 1)):
                self.dead[number] = self._bury(number)

    def _bury(self, number: int) -> int:
        """Take the connections into the dead units of a layer away, and return how many units are dead."""
        layer, reader = self.layers[number], self.layers[number + 1]
        units = {unit for _, _, unit in connections(layer)}
        features = 1 + max(channel for _, channel, _ in connections(reader))
        per_unit = features // len(units)  # several where maps are flattened
        alive = {channel // per_unit for index, channel, _ in connections(reader) if index not in self.gone[number + 1]}
        self.gone[number] |= {index for index, _, unit in connections(layer) if unit not in alive}
        return len(units - alive)


@pytest.mark.parametrize(
    ("make", "shape", "settings"),
    [
        (perceptron, (6,), EAGER),
        (perceptron, (6,), Appraisal(threshold=1.5, patience=1, decay=0, every=3, start=0.2, stop=0.7)),
        (convolutions, (4, 5, 5), EAGER),
        (lambda: convolutions(2), (4, 5, 5), EAGER.model_copy(update={"layers": ("2",)})),
    ],
)
def test_it_is_the_literal_version_step_for_step(
    make: Callable[[], nn.Sequential], shape: tuple[int, ...], settings: Appraisal
) -> None:
    steps, model = 24, make()
    hook, literal = ConnectionAppraisal(settings, steps), Literal(model, settings, steps)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9)
    hook.begin(model)
    counts = []
    for x, y in batches(shape, steps):
        literal.see(x)
        hook.before_forward()
        loss = nn.functional.mse_loss(model(x)[:, :3], y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        hook.before_step()
        optimizer.step()
        literal.appraise()
        hook.after_step()
        for entry, gone in zip(hook.connections, literal.gone, strict=True):
            assert {tuple(index) for index in entry.gone.nonzero().tolist()} == gone
            assert bool((entry.weight[entry.gone] == 0).all())
        counts.append(sum(map(len, literal.gone)))
    assert counts[0] == 0 < counts[-1]
    assert len(set(counts)) > 2, "not all at once"
    rows = hook.history[hook.history["step"] == hook.history["step"].max()]
    assert list(rows["connections"] - rows["alive"]) == list(map(len, literal.gone))
    assert list(rows["dead_units"]) == literal.dead
    if settings.threshold > 1:
        assert sum(literal.dead) > 0


OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.05, 0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.01, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, 0.01, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_what_is_gone_stays_zero_under_any_optimiser(optimizer: str) -> None:
    model, hook = perceptron(), ConnectionAppraisal(EAGER, 40)
    gone: list[int] = []

    def check() -> None:
        for entry in hook.connections:
            assert bool((entry.weight.detach()[entry.gone] == 0).all())
        gone.append(sum(int(entry.gone.sum()) for entry in hook.connections))

    fit(model, hook, (6,), 40, OPTIMISERS[optimizer], check)
    assert gone == sorted(gone)
    assert gone[-1] > 10
    assert all(not torch.signbit(entry.weight.detach()[entry.gone]).any() for entry in hook.connections)


def test_every_output_and_every_unit_that_is_read_keeps_a_connection() -> None:
    model, hook = perceptron(), ConnectionAppraisal(EAGER.model_copy(update={"threshold": 1e9}), 60)
    fit(model, hook, (6,), 60)
    first, second, last = (entry.gone for entry in hook.connections)
    assert ((~last).sum(1) == 1).all(), "the outputs"
    for inputs, outputs in ((first, second), (second, last)):
        read = (~outputs).any(0)
        assert ((~inputs).sum(1) == read).all(), "one connection if it is read, none if it is dead"
        assert not read.all()
    rows = hook.history.groupby("layer", sort=False).last()
    assert list(rows["dead_units"]) == [int(gone.all(0).sum()) for gone in (second, last)] + [0]


def test_dead_units_lose_their_inputs_and_nothing_changes() -> None:
    model = perceptron()
    with torch.no_grad():
        model[2].weight[:, [1, 4]] = 0  # type: ignore[operator]
    x = torch.randn(50, 6)
    hook = ConnectionAppraisal(Appraisal(threshold=0, every=1, start=0, stop=1), 1)
    fit(model, hook, (6,), 1, lambda parameters: torch.optim.SGD(parameters, 1e-30))
    expected = perceptron()
    with torch.no_grad():
        expected[2].weight[:, [1, 4]] = 0  # type: ignore[operator]
    assert torch.equal(model(x), expected(x))
    assert model[0].weight.detach().eq(0).all(1).nonzero()[:, 0].tolist() == [1, 4]  # type: ignore[operator]
    assert list(hook.history["dead_units"]) == [2, 0, 0]


def test_what_was_zero_stays_so_but_a_layer_that_begins_with_zeros_may_learn() -> None:
    model = perceptron()
    with torch.no_grad():
        model[0].weight[:, 2] = 0  # type: ignore[operator]
        nn.init.zeros_(model[4].weight)  # type: ignore[arg-type]
    hook = ConnectionAppraisal(Appraisal(threshold=0, every=5), 20)
    fit(model, hook, (6,), 20)
    assert [int(entry.gone.sum()) for entry in hook.connections] == [8, 0, 0]
    assert sparsity(model) == 8 / (48 + 40 + 15)


class Odd(nn.Module):
    """One weight in two layers, one layer that is called twice and by name, one never, one whose weight is an embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 4)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.idle, self.scores = nn.Linear(6, 2), nn.Linear(4, 6)
        self.scores.weight = self.words.weight
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(input=self.first(x)).relu()
        scores: Tensor = self.last(self.second(x)) + self.scores(x[:, :4]).mean() + self.words.weight.sum()
        return scores


def test_a_weight_that_several_calls_share_is_appraised_over_all_of_them() -> None:
    torch.manual_seed(0)
    model = Odd()
    assert [entry.name for entry in connections_of(model)] == ["first", "idle", "last"]
    hook = ConnectionAppraisal(Appraisal(threshold=0, every=1, start=0, stop=1), 1)
    inputs: list[Tensor] = []
    for module in (model.first, model.second):
        module.register_forward_hook(
            lambda _, args, kwargs, out: inputs.append(args[0] if args else kwargs["input"]), with_kwargs=True
        )
    weight = model.first.weight.detach().clone()
    fit(model, hook, (6,), 1, lambda parameters: torch.optim.SGD(parameters, 0.0))
    assert len(inputs) == 3
    read = torch.cat(inputs).abs().mean(0)
    expected = (weight.abs() * read / (weight.abs() * read).mean()).detach()
    torch.testing.assert_close(hook.tensors()["average.first.weight"], expected)
    assert list(hook.history["q95"] > 0) == [True, False, True], "what no batch reached has no efficiency"


def test_passes_outside_of_steps_do_not_count() -> None:
    def observe(disturb: bool) -> Tensor:
        model, hook = perceptron(), ConnectionAppraisal(EAGER, 8)

        def look() -> None:
            if disturb:
                model(1000 * torch.ones(4, 6))

        fit(model, hook, (6,), 8, after=look)
        assert not any(module._forward_pre_hooks for module in model.modules())
        return hook.tensors()["average.0.weight"]

    assert torch.equal(observe(True), observe(False))


def test_the_first_appraisal_has_seen_a_batch_wherever_it_falls() -> None:
    model, hook = perceptron(), ConnectionAppraisal(Appraisal(threshold=0, every=1, start=0.1, stop=0.5), 25)
    fit(model, hook, (6,), 25)
    assert sorted(set(hook.history["step"])) == list(range(3, 13))
    assert (hook.history["q95"] > 0).all()


def test_it_works_under_autocast_and_on_inputs_of_any_rank() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    hook = ConnectionAppraisal(EAGER, 10)
    hook.begin(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for x, y in batches((6,), 10):
        hook.before_forward()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(x.view(4, 4, 6))
        nn.functional.mse_loss(outputs.float().view(16, 3), y).backward()  # type: ignore[no-untyped-call]
        hook.before_step()
        optimizer.step()
        hook.after_step()
    assert 0 < sparsity(model) < 1


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 2, "lr": 0.3},
        {"optimizer": "adam", "lr": 0.01, "dtype": "bfloat16"},
        pytest.param(
            {"device": "cuda"}, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
        ),
    ],
)
def test_as_part_of_a_recipe_it_survives_a_crash_bit_for_bit(
    settings: dict[str, object], some: Samples, tmp_path: Path
) -> None:
    recipe = Recipe(**{"epochs": 4, "batch_size": 20, "appraisal": EAGER.model_copy(update={"every": 3}), **settings})

    def kill(report: EpochReport) -> None:
        if report.epoch < 4:
            raise Killed

    def run(path: Path | None, on_epoch: Callable[[EpochReport], None]) -> nn.Module:
        return train(network(), some, recipe, np.random.default_rng(0), val=some, on_epoch=on_epoch, checkpoint=path)

    whole = run(None, lambda _: None)
    for _ in range(2):
        with pytest.raises(Killed):
            run(tmp_path / "training", kill)
    again = run(tmp_path / "training", lambda _: None)
    assert same(content(again), content(whole))
    pd.testing.assert_frame_equal(appraisals(again), appraisals(whole))
    assert 0.1 < sparsity(whole) < 0.9


def test_a_restored_history_is_the_same_to_the_last_digit() -> None:
    model, hook = perceptron(), ConnectionAppraisal(EAGER, 8)
    fit(model, hook, (6,), 8)
    hook.after_epoch(0.1)
    again = ConnectionAppraisal(EAGER, 8)
    again.begin(perceptron())
    again.restore(hook.tensors())
    pd.testing.assert_frame_equal(again.history, hook.history, check_exact=True)
    assert set(again.history["error"]) == {0.1}


def test_the_best_epoch_is_handed_back_with_the_connections_that_it_had(some: Samples) -> None:
    hook = ConnectionAppraisal(EAGER, 40)
    recipe = Recipe(batch_size=20, epochs=5, patience=4, lr=1.0)
    train(network(), some, recipe, np.random.default_rng(0), val=some.take(np.arange(40)), hooks=[hook])
    for entry in hook.connections:
        assert torch.equal(entry.gone, entry.weight == 0)
    assert sum(entry.alive for entry in hook.connections) > hook.history.groupby("layer")["alive"].last().sum()


def test_the_history_says_what_happened(some: Samples, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=20, appraisal=EAGER)
    reports: list[EpochReport] = []
    model = train(network(), some, recipe, np.random.default_rng(0), val=some, on_epoch=reports.append)
    history = appraisals(model)
    assert list(history["layer"][:3]) == ["0", "4", "7"]
    assert list(history["connections"][:3]) == [36, 1152, 80]
    assert sorted(set(history["step"])) == list(range(2, 25, 2))
    for _, rows in history.groupby("layer"):
        before = np.append(rows["connections"].iloc[0], rows["alive"].to_numpy()[:-1])
        assert (before - rows["alive"] >= rows["removed"]).all()
        assert (np.diff(rows["dead_units"]) >= 0).all()
    assert history["sparsity"].to_numpy() == pytest.approx(1 - history["alive"] / history["connections"], abs=1e-4)
    for low, high in pairwise(("q05", "q25", "q50", "q75", "q95")):
        assert (history[low] <= history[high]).all()
    assert list(history["epoch"]) == [math.ceil(step / 8) for step in history["step"]]
    errors = [reports[int(epoch) - 1].error for epoch in history["epoch"]]
    assert history["error"].to_numpy() == pytest.approx(errors, abs=1e-4)
    left = history.groupby("layer")["alive"].last().sum()
    assert sparsity(model) == pytest.approx(1 - left / (36 + 1152 + 80))
    evo.save(model, tmp_path / "sparse.evo")
    pd.testing.assert_frame_equal(appraisals(evo.load(tmp_path / "sparse.evo", model=network())), history)
    assert appraisals(network()).empty
    assert list(appraisals(network()).columns) == list(history.columns)


def test_a_long_history_is_noted_in_part() -> None:
    model, hook = perceptron(), ConnectionAppraisal(Appraisal(every=1, start=0, stop=1), 250)
    fit(model, hook, (6,), 250)
    hook.note_on(model)
    assert len(hook.history) == 3 * 250
    noted = appraisals(model)
    assert len(noted) == 3 * 125
    assert noted["step"].max() == 250


def test_weights_that_are_computed_anew_are_no_connections() -> None:
    model = perceptron()
    with torch.no_grad():
        model[2].weight[:, :4] = 0  # type: ignore[operator]
    for layer in (model[0], model[4]):
        nn.utils.parametrizations.weight_norm(layer)
    assert sparsity(model) == 0.5


def test_a_layer_of_one_bit_which_cannot_be_zero_stays_whole() -> None:
    bits = Origin(blueprint=evo.Blueprint(()).with_bits({"0": 2, "2": 1}))
    hook = ConnectionAppraisal(Appraisal(), 99)
    hook.begin(remember(perceptron(), bits))
    assert [entry.name for entry in hook.connections] == ["0", "4"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Recipe(appraisal={"treshold": 1}), "unknown setting 'treshold'; did you mean 'threshold'"),
        (lambda: Recipe(appraisal={"decay": 1}), r"decay: got 1; input should be less than 1"),
        (
            lambda: Recipe(appraisal=True),
            r"Recipe\.appraisal: got True; input should be a valid dictionary or instance",
        ),
        (lambda: Appraisal(start=0.7), r"^Appraisal\.stop: got 0\.6; later than start, which is 0\.7$"),
        (
            lambda: ConnectionAppraisal(Appraisal(every=10), 84),
            r"^appraisal: 5 appraisals in 84 steps are too few for the patience of 20; train longer, or lower every or pat",
        ),
        (lambda: connections_of(perceptron(), ["5"]), r"^layers: unknown layer '5'; known are: 0, 2, 4$"),
        (lambda: connections_of(nn.ReLU()), r"^layers: unknown layer '\*'"),
    ],
)
def test_mistakes_are_one_sentence(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        make()
