"""A module of a user's own, right and wrong: copied beside a run.toml by the tests of it."""

import torch
from torch import Tensor, nn

import evo
from evo.callbacks import Callback

Pair = tuple[Tensor, Tensor]

net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
number = 5


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * width, 2))


def data(count: int = 20) -> tuple[Pair, Pair]:
    x, y = torch.linspace(-1, 1, count * 16).reshape(count, 1, 4, 4), torch.arange(count) % 2
    return (x, y), (x, y)


values = data()


def three_channels() -> tuple[Pair, Pair]:
    x, y = torch.zeros(8, 3, 4, 4), torch.arange(8) % 2
    return (x, y), (x, y)


def one() -> Pair:
    return data()[0]


def nothing() -> None:
    return None


def broken() -> float:
    return 1 / 0


def plain(candidate: evo.Candidate) -> dict[str, float]:
    return {"score": 1.0}


@evo.fitness(maximize="score")
def judged(candidate: evo.Candidate) -> dict[str, float]:
    return {"score": 1.0 + 1 / candidate.costs["params"]}


@evo.fitness(minimize="loss")
def loss(candidate: evo.Candidate) -> dict[str, float]:
    return {"loss": 1.0}


@evo.fitness(maximize="seconds")
def taken(candidate: evo.Candidate) -> dict[str, float]:
    return {"seconds": 1.0}


@evo.fitness(minimize="error")
def rated(candidate: evo.Candidate) -> dict[str, float]:
    return {"error": 0.5}


class Wide(evo.FilterBits):
    pass


class Told(Callback):
    def __init__(self, word: str = "told") -> None:
        self.word = word

    def on_end(self, run: evo.Run) -> None:
        (run.folder / "told").write_text(self.word)


told = Told("object")


@evo.importance.criterion
def last(material: evo.importance.Material) -> dict[str, range]:
    return {group.name: range(group.size) for group in material.network.groups}
