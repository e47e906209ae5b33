"""Small trained networks on real digits, made once for all tests."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from xdist.scheduler import LoadFileScheduling

import evo
from evo.evaluation import local
from evo.network.zoo import LeNet, lenet
from evo.testing import small_task
from evo.training import Recipe, Samples, train
from tests.searches import fail, search, weigh

Model = TypeVar("Model", bound=nn.Module)

LONGEST = ("test_ray", "test_crash", "test_cli_interrupted", "test_local", "test_pool", "test_search_asynchronous")
"""Files that take a minute or so. Rays that tests start do not find each other: each is local, or has a token and a place."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is left alone with it in the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Share the tests out by file, in the order above: xdist's own begins with the files that have most tests."""
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two test processes on two processors must not fight for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and so would all programs that the tests start and interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations of no time at all are handed out singly, so that a search can be interrupted between them."""
    monkeypatch.setattr(local, "BATCH_SECONDS", 0.0)


@pytest.fixture(scope="session")
def digits() -> Samples:
    """All 1,797 digits of scikit-learn, (1, 8, 8), in random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    return Samples(x, torch.tensor(labels[order]))


@pytest.fixture(scope="session")
def large_digits(digits: Samples) -> Samples:
    """400 of them at LeNet's 28×28."""
    return Samples(nn.functional.interpolate(digits.x[:400], size=(28, 28), mode="bilinear"), digits.y[:400])


def _seeded(make: Callable[[], Model]) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.fixture(scope="session")
def digits_task(digits: Samples) -> evo.Task:
    """A convolutional network trained on digits, with 36 searchable channels; read only."""
    model = _seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12 * 4, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )
    )
    training, val = digits.take(np.arange(600)), digits.take(np.arange(600, 900))
    train(model, training, Recipe(epochs=3, batch_size=50), np.random.default_rng(0))
    return evo.Task(model, training, val, test=digits.take(np.arange(900, 1200)))


@pytest.fixture(scope="session")
def trained_lenet(large_digits: Samples) -> LeNet:
    """A LeNet that has seen some digits: weights, scales and batch statistics are all non-trivial; read only."""
    model = _seeded(lenet)
    train(model, large_digits, Recipe(epochs=1, batch_size=50), np.random.default_rng(0))
    return model


@pytest.fixture(scope="session")
def lenet_network(trained_lenet: LeNet, large_digits: Samples) -> evo.Network:
    """It, analysed."""
    return evo.Network.analyse(trained_lenet, large_digits.x[:2])


@pytest.fixture
def task() -> evo.Task:
    """The smallest task there is: made anew for every test."""
    return small_task()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture(scope="session")
def searches_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the searches below."""
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="session")
def ecs_run(searches_folder: Path) -> evo.Run:
    """A search over filter bits with failures and look-ups; read only."""
    run = search(searches_folder / "ecs")
    history = run.history
    assert (history["status"] == "failed").any()
    assert history["cached"].any()
    return run


@pytest.fixture(scope="session")
def nsga_run(searches_folder: Path) -> evo.Run:
    """A search with two objectives; read only."""
    return search(searches_folder / "nsga", fitness=weigh, algorithm=evo.NSGA2(generations=4, population=12))


@pytest.fixture(scope="session")
def policy_run(searches_folder: Path) -> evo.Run:
    """A search over layer policies, whose individuals have bits; read only."""
    return search(searches_folder / "policies", encoding=evo.LayerPolicy(), algorithm=evo.RandomSearch(evaluations=12))


@pytest.fixture(scope="session")
def vector_run(searches_folder: Path) -> evo.Run:
    """A search over channel vectors, of a single generation; read only."""
    algorithm = evo.RandomSearch(evaluations=12, batch=12)
    return search(searches_folder / "vectors", encoding=evo.ChannelVector(), algorithm=algorithm)


@pytest.fixture(scope="session")
def failed_run(searches_folder: Path) -> evo.Run:
    """A search of which nothing has succeeded; read only."""
    return fail(searches_folder / "failed")
