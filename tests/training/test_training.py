import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.errors import SettingsError
from evo.training import Recipe, Samples, error_rate, recalibrate, train
from evo.training.training import _loss, _rate, augment


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 36, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.2),
            nn.Linear(8, 10),
        )


@pytest.fixture
def some(digits: Samples) -> Samples:
    return digits.take(np.arange(160))


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained(samples: Samples, seed: int = 0, **recipe: object) -> dict[str, Tensor]:
    return content(train(network(), samples, Recipe(batch_size=32, **recipe), np.random.default_rng(seed)))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("recipe", [{"optimizer": "sgd"}, {"optimizer": "adam", "lr": 0.01, "schedule": "onecycle"}])
def test_training_learns(digits: Samples, recipe: dict[str, object]) -> None:
    training, held_out = digits.take(np.arange(800)), digits.take(np.arange(800, 1100))
    model = network()
    before = error_rate(model, held_out)
    train(model, training, Recipe(epochs=4, batch_size=32, **recipe), np.random.default_rng(0))
    assert before > 0.8
    assert error_rate(model, held_out) < 0.15
    assert not model.training


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


@pytest.mark.parametrize(("epochs", "calls", "steps"), [(2, [1, 2], 10), (1.4, [1, 2], 7), (0.6, [1], 3)])
def test_epochs_may_be_fractions(some: Samples, epochs: float, calls: list[int], steps: int) -> None:
    model = network()
    told: list[tuple[int, float]] = []
    train(
        model,
        some,
        Recipe(epochs=epochs, batch_size=32),
        np.random.default_rng(0),
        lambda epoch, loss: told.append((epoch, loss)),
    )
    assert [epoch for epoch, _ in told] == calls
    assert all(0 < loss < 5 for _, loss in told)
    assert int(model.get_buffer("1.num_batches_tracked")) == steps


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


def test_bfloat16_trains_mixed(some: Samples) -> None:
    weights = trained(some, dtype="bfloat16")
    assert weights["0.weight"].dtype == torch.float32
    assert not same(weights, trained(some))


def test_a_diverging_loss_raises(some: Samples) -> None:
    with pytest.raises(FloatingPointError, match=r"the training loss became (nan|inf) in epoch \d; lower the learning"):
        trained(some, epochs=5, lr=1e30)


def test_weight_layout_is_put_back(some: Samples) -> None:
    model = train(network(), some, Recipe(batch_size=32), np.random.default_rng(0))
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_schedules() -> None:
    assert [_rate("constant", p) for p in (0.0, 0.5, 0.99)] == [1, 1, 1]
    assert [_rate("cosine", p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0])
    assert [_rate("onecycle", p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.05, 0.525, 1, 0.5, 0])


@pytest.mark.parametrize(("shift", "flip"), [(2, False), (0, True), (1, True), (0, False)])
def test_augmentation_moves_every_image_by_its_own_draw(shift: int, flip: bool) -> None:
    images = torch.randn(50, 2, 5, 7)
    moved = augment(images, Recipe(shift=shift, flip=flip), np.random.default_rng(0))
    # The same image by image, with the same draws.
    rng = np.random.default_rng(0)
    down = rng.integers(0, 2 * shift + 1, 50) if shift else np.zeros(50, dtype=int)
    right = rng.integers(0, 2 * shift + 1, 50) if shift else np.zeros(50, dtype=int)
    mirrored = rng.random(50) < 0.5 if flip else np.zeros(50, dtype=bool)
    for index, image in enumerate(images):
        expected = torch.zeros_like(image)
        for row in range(5):
            for column in range(7):
                y, x = row + int(down[index]) - shift, column + int(right[index]) - shift
                if 0 <= y < 5 and 0 <= x < 7:
                    expected[:, row, column] = image[:, y, x]
        if mirrored[index]:
            expected = expected.flip(2)
        assert torch.equal(moved[index], expected)
    if shift:
        assert set(down.tolist()) == set(right.tolist()) == set(range(2 * shift + 1))


def test_recalibration_equals_statistics_by_hand(some: Samples) -> None:
    model = network().train()
    before = content(model)
    recalibrate(model, some, Recipe(batch_size=40))
    with torch.no_grad():
        convolved = nn.functional.conv2d(some.x, before["0.weight"], before["0.bias"])
        batches = torch.split(convolved, 40)
        means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
        variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1, unbiased=True) for batch in batches])
        # What follows sees activations normalised by each batch's own statistics.
        hidden = []
        for batch in batches:
            normal = (batch - batch.mean((0, 2, 3), keepdim=True)) / (
                batch.transpose(0, 1).flatten(1).var(1, unbiased=False)[None, :, None, None] + 1e-5
            ).sqrt()
            hidden.append(nn.functional.linear(normal.relu().flatten(1), before["4.weight"], before["4.bias"]))
        second = torch.stack([batch.mean(0) for batch in hidden])
        spread = torch.stack([batch.var(0) for batch in hidden])
    after = content(model)
    torch.testing.assert_close(after["1.running_mean"], means.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after["1.running_var"], variances.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after["5.running_mean"], second.mean(0), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(after["5.running_var"], spread.mean(0), rtol=1e-3, atol=1e-5)
    learnt = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(after[name], before[name]) for name in learnt)
    assert all(module.training for module in model.modules()), "modes are as before"
    assert [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == [0.1]


def test_recalibration_without_batch_norm_does_nothing(some: Samples) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = content(model)
    assert recalibrate(model, some, Recipe()) is model
    assert same(content(model), before)


def test_a_single_image_is_left_out_of_the_statistics(some: Samples) -> None:
    odd = some.take(np.arange(81))
    one, other = network(), network()
    recalibrate(one, odd, Recipe(batch_size=40))
    recalibrate(other, odd.take(np.arange(80)), Recipe(batch_size=40))
    assert same(content(one), content(other))


def test_error_rate_counts_wrong_images_and_restores_modes(some: Samples) -> None:
    model = network().train()
    model.get_submodule("1").eval()
    error = error_rate(model, some, batch_size=37)
    assert [module.training for module in model.children()] == [True, False] + [True] * 6
    assert torch.is_grad_enabled()
    judge = copy.deepcopy(model).eval()
    with torch.no_grad():
        wrong = sum(int(judge(some.x[i : i + 1]).argmax()) != int(some.y[i]) for i in range(len(some)))
    assert error == wrong / len(some)
    assert 0 < error < 1


def test_error_rate_of_a_network_that_is_not_finite_raises(some: Samples) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("7.bias")[3] = torch.nan
    with pytest.raises(FloatingPointError, match="output is not finite"):
        error_rate(model, some)


def test_finetune_trains_on_the_tasks_images(digits_task: evo.Task) -> None:
    model = digits_task.network.build(digits_task.network.full)
    other = copy.deepcopy(model)
    losses: list[float] = []
    tuned = evo.finetune(
        model, digits_task, seed=4, epochs=2, batch_size=50, on_epoch=lambda _, loss: losses.append(loss)
    )
    train(other, digits_task.train, Recipe(epochs=2, batch_size=50), np.random.default_rng(4))
    assert tuned is model
    assert same(content(model), content(other))
    assert len(losses) == 2
    with pytest.raises(SettingsError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        evo.finetune(model, digits_task, epoch=2)


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
        before = copy.deepcopy(teacher.state_dict())
        with torch.no_grad():
            apart = float((teacher(digits.x) - student(digits.x)).std())
            train(
                student,
                digits,
                Recipe(epochs=20, batch_size=20, distill=1.0),
                np.random.default_rng(0),
                teacher=teacher,
            )
            assert float((teacher(digits.x) - student(digits.x)).std()) < apart / 4
        assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())

    def test_without_a_teacher_it_is_refused(self, digits: Samples) -> None:
        with pytest.raises(SettingsError, match=r"distill: got 0\.5, but there is no original network here"):
            train(nn.Linear(1, 1), digits, Recipe(distill=0.5), np.random.default_rng(0))
