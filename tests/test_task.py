import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.errors import DataError, NetworkError, SettingsError
from evo.training import Samples


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


@pytest.fixture
def samples(digits: Samples) -> Samples:
    return digits.take(np.arange(200))


def test_a_fraction_splits_validation_images_off(model: nn.Module, samples: Samples) -> None:
    task = evo.Task(model, samples, 0.25, seed=3)
    assert (len(task.train), len(task.val), task.test) == (150, 50, None)
    together = torch.cat([task.train.x, task.val.x]).flatten(1)
    assert sorted(together.tolist()) == sorted(samples.x.flatten(1).tolist())
    shares = torch.bincount(task.val.y, minlength=10)
    assert int(shares.max() - shares.min()) <= 1
    again = evo.Task(model, samples, 0.25, seed=3)
    assert torch.equal(again.val.x, task.val.x)
    assert not torch.equal(evo.Task(model, samples, 0.25, seed=4).val.x, task.val.x)


def test_data_come_in_every_form(model: nn.Module, samples: Samples) -> None:
    forms: list[Any] = [samples, (samples.x, samples.y), (samples.x.numpy(), samples.y.numpy())]
    forms.append(torch.utils.data.TensorDataset(samples.x, samples.y))
    forms.append([(x, int(y)) for x, y in zip(samples.x, samples.y, strict=True)])
    tasks = [evo.Task(model, form, val=form, test=form) for form in forms]
    assert len({task.digest() for task in tasks}) == 1
    assert all(task.test is not None and len(task.test) == 200 for task in tasks)


def test_the_model_is_left_as_it_is(model: nn.Module, samples: Samples) -> None:
    model.train()
    before = copy.deepcopy(model.state_dict())
    evo.Task(model, samples)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_digest_tells_networks_and_data_apart(model: nn.Module, samples: Samples) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("0.bias").add_(1.0)
    val = samples.take(np.arange(50))
    tasks = [
        evo.Task(model, samples, val),
        evo.Task(other, samples, val),
        evo.Task(model, samples.take(np.arange(199)), val),
        evo.Task(model, samples, samples.take(np.arange(51))),
    ]
    assert len({task.digest() for task in tasks}) == 4
    assert evo.Task(model, samples, val, test=val).digest() == tasks[0].digest(), "test images decide nothing"
    assert [task.describe()["network"] == tasks[0].describe()["network"] for task in tasks] == [True, False, True, True]


def test_pickles(task: evo.Task) -> None:
    received = pickle.loads(pickle.dumps(task))
    assert received.digest() == task.digest()


@pytest.mark.parametrize("val", [0.0, 1.0, 1.5, -0.1, 1])
def test_a_fraction_lies_between_none_and_all(model: nn.Module, samples: Samples, val: float) -> None:
    with pytest.raises(SettingsError, match="val: a fraction of the training images lies between 0 and 1"):
        evo.Task(model, samples, val)


def test_what_is_no_network_is_refused(samples: Samples) -> None:
    with pytest.raises(SettingsError, match=r"model: expected a torch.nn.Module, got str"):
        evo.Task("resnet", samples)  # type: ignore[arg-type]


def test_sets_of_different_shapes_are_refused(model: nn.Module, samples: Samples) -> None:
    wide = Samples(samples.x.repeat(1, 1, 1, 2), samples.y)
    with pytest.raises(DataError, match=r"val: images have shape \(1, 8, 16\), those of train \(1, 8, 8\)"):
        evo.Task(model, samples, wide)
    with pytest.raises(DataError, match="test: images have shape"):
        evo.Task(model, samples, samples, test=wide)
    with pytest.raises(NetworkError, match=r"does not run on an input of shape \(1, 1, 8, 16\)"):
        evo.Task(model, wide, wide)


def test_labels_beyond_the_outputs_are_refused(model: nn.Module, samples: Samples) -> None:
    more = Samples(samples.x, samples.y + 1)
    with pytest.raises(DataError, match="model: it has 10 outputs, but labels go up to 10"):
        evo.Task(model, samples, more)


class Two(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.model(x)
        return scores, scores


def test_more_than_scores_are_refused(model: nn.Module, samples: Samples) -> None:
    with pytest.raises(DataError, match="expected one tensor of class scores"):
        evo.Task(Two(model), samples)


def test_no_sample_at_all_is_refused(model: nn.Module, samples: Samples) -> None:
    with pytest.raises(DataError, match="train: expected"):
        evo.Task(model, samples.take(np.arange(0)), samples)
