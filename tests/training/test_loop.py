"""Training, fine-tuning and stopping early."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.errors import SettingsError
from evo.training import EpochReport, Recipe, Samples, error_rate, train
from evo.training.augment import augment
from evo.training.loop import _loss
from tests.training.small import content, network, same, trained

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adam", "lr": 0.01, "schedule": "onecycle"},
        {"schedule": "step", "step_epochs": 2, "warmup": 0.5, "label_smoothing": 0.1, "nesterov": False},
        {"dtype": "bfloat16"},
    ],
)
def test_training_learns(digits: Samples, recipe: dict[str, object], device: str) -> None:
    training, held_out = digits.take(np.arange(800)), digits.take(np.arange(800, 1100))
    model = network()
    before = error_rate(model, held_out, device=device)
    train(model, training, Recipe(epochs=4, batch_size=32, device=device, **recipe), np.random.default_rng(0))
    assert before > 0.8
    assert error_rate(model, held_out, device=device) < 0.15
    assert not model.training
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def literally(model: nn.Module, samples: Samples, recipe: Recipe, seed: int) -> list[float]:
    """Train by a plain loop with SGD and a cosine to zero; return the mean loss of every epoch."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(int(rng.integers(2**63)))
    model.train()
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=recipe.nesterov, weight_decay=5e-4
    )
    per_epoch = len(samples) // recipe.batch_size
    steps = round(recipe.epochs * per_epoch)
    losses: list[list[float]] = []
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.permutation(len(samples))
            losses.append([])
        start = step % per_epoch * recipe.batch_size
        batch = torch.from_numpy(order[start : start + recipe.batch_size])
        x = augment(samples.x[batch], recipe, rng).to(memory_format=torch.channels_last)
        optimizer.param_groups[0]["lr"] = recipe.lr * (0.5 * (1 + math.cos(math.pi * (step / steps))))
        loss = nn.functional.cross_entropy(model(x), samples.y[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[-1].append(float(loss.detach()))
    return [sum(epoch) / len(epoch) for epoch in losses]


@pytest.mark.parametrize("val", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"shift": 1, "flip": True}, {"epochs": 2.4, "nesterov": False, "lr": 0.2}, {"epochs": 0.6}]
)
def test_training_is_the_plain_loop_bit_for_bit(some: Samples, settings: dict[str, object], val: bool) -> None:
    recipe = Recipe(**{"batch_size": 32, "epochs": 2, **settings})
    expected = network()
    with torch.random.fork_rng(devices=[]):
        losses = literally(expected, some, recipe, seed=3)
    reports: list[EpochReport] = []
    model = train(network(), some, recipe, np.random.default_rng(3), on_epoch=reports.append, val=some if val else None)
    assert same(content(model), content(expected))
    assert [report.loss for report in reports] == pytest.approx(losses, rel=1e-5)
    assert [report.epoch for report in reports] == list(range(1, len(losses) + 1))
    assert all(report.epochs == len(losses) for report in reports)
    assert [report.last for report in reports] == [False] * (len(losses) - 1) + [True]
    if val:
        assert reports[-1].error == error_rate(model, some)
    else:
        assert (reports[-1].error, reports[-1].best_error, reports[-1].best_epoch) == (None, None, None)


def test_training_depends_on_its_generator_alone(some: Samples) -> None:
    recipe = {"epochs": 2, "shift": 1, "flip": True}
    first = trained(some, **recipe)
    torch.manual_seed(99)  # dropout draws from torch's global generator
    state = torch.get_rng_state()
    assert same(trained(some, **recipe), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(trained(some, seed=1, **recipe), first)


def test_training_writes_to_no_image(some: Samples) -> None:
    x, y = some.x.clone(), some.y.clone()
    trained(some, shift=1, flip=True)
    assert torch.equal(some.x, x)
    assert torch.equal(some.y, y)


def test_no_epochs_change_nothing(some: Samples) -> None:
    assert same(trained(some, epochs=0), content(network()))


def test_frozen_parameters_stay(some: Samples) -> None:
    model = network()
    model.get_parameter("0.weight").requires_grad_(False)
    before = content(model)
    train(model, some, Recipe(batch_size=32), np.random.default_rng(0))
    after = content(model)
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["7.weight"], before["7.weight"])


def test_training_works_where_gradients_are_off(some: Samples) -> None:
    with torch.no_grad():
        weights = trained(some)
        assert not torch.is_grad_enabled()
    assert same(weights, trained(some))


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(some: Samples, device: str) -> None:
    seen: list[torch.dtype] = []
    model = network()
    model.get_submodule("0").register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    recipe = Recipe(batch_size=32, dtype="bfloat16", device=device)
    train(model, some, recipe, np.random.default_rng(0))
    assert set(seen) == {torch.bfloat16}
    assert all(not tensor.is_floating_point() or tensor.dtype == torch.float32 for tensor in content(model).values())
    assert not same(content(model), trained(some, device=device))


def test_a_diverging_loss_raises(some: Samples) -> None:
    with pytest.raises(FloatingPointError, match=r"the training loss became (nan|inf) in epoch \d; lower the learning"):
        trained(some, epochs=5, lr=1e30)


def test_weight_layout_is_put_back(some: Samples) -> None:
    model = train(network(), some, Recipe(batch_size=32), np.random.default_rng(0))
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_the_settings_reach_the_loss_and_the_optimiser(some: Samples) -> None:
    first = trained(some)
    others = [trained(some, **changed) for changed in ({"nesterov": False}, {"label_smoothing": 0.1}, {"warmup": 0.5})]
    assert not any(same(first, other) for other in others)


def test_reports_say_what_the_learning_rate_and_the_times_are(some: Samples) -> None:
    reports: list[EpochReport] = []
    recipe = Recipe(batch_size=32, epochs=3, schedule="step", step_epochs=1, lr=0.1)
    train(network(), some, recipe, np.random.default_rng(0), on_epoch=reports.append)
    assert [report.lr for report in reports] == pytest.approx([0.1, 0.01, 0.001])
    assert 0 < reports[0].seconds < reports[1].seconds < reports[2].seconds
    assert [report.seconds_left for report in reports] == pytest.approx(
        [reports[0].seconds * 2, reports[1].seconds / 2, 0]
    )


class TestStoppingEarly:
    """The labels of the validation images are wrong on purpose, so that the error rises as the network learns."""

    RECIPE = Recipe(batch_size=32, epochs=12, patience=2, lr=0.1)

    def spoiled(self, some: Samples) -> Samples:
        """Return images labelled as the network before training would, and hence ever worse as it learns."""
        with torch.no_grad():
            return Samples(some.x, network().eval()(some.x).argmax(1))

    def test_it_ends_and_keeps_the_best_epoch(self, some: Samples) -> None:
        reports: list[EpochReport] = []
        val = self.spoiled(some)
        model = train(network(), some, self.RECIPE, np.random.default_rng(0), on_epoch=reports.append, val=val)
        errors = [report.error for report in reports]
        best = int(np.argmin(np.array(errors, dtype=float)))
        assert len(reports) == best + 3 < 12
        assert [report.last for report in reports] == [False] * (best + 2) + [True]
        assert error_rate(model, val) == errors[best] == reports[-1].best_error
        assert reports[-1].best_epoch == best + 1
        # The weights of that epoch are those of a training that is cut off there.
        cut: list[dict[str, Tensor]] = []
        other, free = network(), self.RECIPE.model_copy(update={"patience": None})
        train(other, some, free, np.random.default_rng(0), on_epoch=lambda _: cut.append(content(other)), val=val)
        assert same(cut[best], content(model))
        assert len(cut) == 12

    def test_without_reports_it_is_the_same(self, some: Samples) -> None:
        val = self.spoiled(some)
        first = train(network(), some, self.RECIPE, np.random.default_rng(0), val=val)
        assert same(
            content(first),
            content(train(network(), some, self.RECIPE, np.random.default_rng(0), on_epoch=lambda _: None, val=val)),
        )

    def test_at_the_end_too_the_best_epoch_counts(self, some: Samples) -> None:
        val = self.spoiled(some)
        patient = self.RECIPE.model_copy(update={"patience": 50, "epochs": 4.0})
        reports: list[EpochReport] = []
        model = train(network(), some, patient, np.random.default_rng(0), on_epoch=reports.append, val=val)
        assert len(reports) == 4
        assert error_rate(model, val) == min(report.error for report in reports if report.error is not None)
        assert reports[-1].error != reports[-1].best_error

    def test_it_needs_validation_images(self, some: Samples) -> None:
        with pytest.raises(SettingsError, match=r"^patience: got 2, but there are no validation images here"):
            train(network(), some, self.RECIPE, np.random.default_rng(0))


def test_finetune_trains_on_the_tasks_images(digits_task: evo.Task) -> None:
    model = digits_task.network.build(digits_task.network.full)
    other = copy.deepcopy(model)
    reports: list[EpochReport] = []
    tuned = evo.finetune(model, digits_task, seed=4, epochs=2, batch_size=50, on_epoch=reports.append)
    train(other, digits_task.train, Recipe(epochs=2, batch_size=50), np.random.default_rng(4))
    assert tuned is model
    assert same(content(model), content(other))
    assert [report.epoch for report in reports] == [1, 2]
    assert reports[-1].error == evo.error_rate(model, digits_task.val)
    with pytest.raises(SettingsError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        evo.finetune(model, digits_task, epoch=2)


def test_finetune_stops_by_the_tasks_validation_images(digits_task: evo.Task) -> None:
    reports: list[EpochReport] = []
    model = digits_task.network.build(digits_task.network.full)
    evo.finetune(model, digits_task, epochs=30, batch_size=50, lr=1e-6, patience=1, on_epoch=reports.append)
    assert len(reports) < 5  # steps that small change no answer
    assert evo.error_rate(model, digits_task.val) == reports[-1].best_error


def test_label_smoothing_spreads_a_share_of_the_label() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(5, 3, generator=generator), torch.tensor([0, 2, 1, 1, 0])
    total = 0.0
    for row in range(5):
        for index in range(3):
            wanted = 0.9 * (index == int(labels[row])) + 0.1 / 3
            total -= wanted * float(torch.softmax(scores[row], 0)[index].log())
    assert float(_loss(scores, labels, None, Recipe(label_smoothing=0.1))) == pytest.approx(total / 5, rel=1e-5)


class TestDistillation:
    def test_loss_is_the_literal_mixture(self) -> None:
        generator = torch.Generator().manual_seed(0)
        scores, original = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
        labels = torch.tensor([0, 2, 1, 1, 0])
        recipe = Recipe(distill=0.7, temperature=2.0)
        total = 0.0
        for row in range(5):
            ours, theirs = (torch.softmax(each[row] / 2.0, 0) for each in (scores, original))
            divergence = sum(float(q * (q / p).log()) for p, q in zip(ours, theirs, strict=True))
            hard = -float(torch.softmax(scores[row], 0)[labels[row]].log())
            total += 0.3 * hard + 0.7 * 4.0 * divergence
        assert float(_loss(scores, labels, original, recipe)) == pytest.approx(total / 5, rel=1e-5)

    def test_teacher_draws_the_student_to_its_outputs_and_stays_as_it_is(self, digits: Samples) -> None:
        torch.manual_seed(0)
        teacher, student = (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        )
        before = content(teacher)
        recipe = Recipe(epochs=20, batch_size=20, distill=1.0)
        with torch.no_grad():
            apart = float((teacher(digits.x) - student(digits.x)).std())
            train(student, digits, recipe, np.random.default_rng(0), teacher=teacher)
            assert float((teacher(digits.x) - student(digits.x)).std()) < apart / 4
        assert same(content(teacher), before)

    def test_a_student_that_works_in_place_does_not_spoil_what_the_teacher_sees(self, some: Samples) -> None:
        class Negated(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.neg_().neg() if self.training else x

        recipe = Recipe(epochs=1, batch_size=32, distill=1.0)
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        students = []
        for first in (nn.Identity(), Negated()):
            student = nn.Sequential(first, nn.Flatten(), nn.Linear(64, 10))
            nn.init.zeros_(student.get_parameter("2.weight"))
            nn.init.zeros_(student.get_parameter("2.bias"))
            students.append(content(train(student, some, recipe, np.random.default_rng(0), teacher=teacher)))
        assert same(*students)

    def test_without_a_teacher_it_is_refused(self, digits: Samples) -> None:
        with pytest.raises(SettingsError, match=r"distill: got 0\.5, but there is no original network here"):
            train(nn.Linear(1, 1), digits, Recipe(distill=0.5), np.random.default_rng(0))
