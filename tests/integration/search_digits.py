"""A search as a user's script would run it: `python search_digits.py FOLDER [EVALUATOR] [FITNESS] [ALGORITHM]`.

EVALUATOR is local:WORKERS, ray, or ray:ADDRESS. FITNESS is tuned (the default), quick, or stuck, which never returns to
Python. ALGORITHM is short (the default), or another of `ALGORITHMS`.
"""

import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import evo
from evo.evaluation import Evaluator

tuned = evo.SubsetFineTune(images=200, epochs=2, batch_size=20)


@evo.fitness(maximize="score", minimize="luck")
def quick(candidate: evo.Candidate) -> dict[str, float]:
    """Take a millisecond or four; every fifth structure fails."""
    luck = float(candidate.rng().random())
    time.sleep(0.001 + 0.003 * luck)
    if luck > 0.8:
        raise ValueError("bad luck")
    return {"score": 1 / candidate.costs["params"], "luck": luck}


@evo.fitness(maximize="score")
def stuck(candidate: evo.Candidate) -> dict[str, float]:
    """Say so by a file in the folder MARKS, then hold the interpreter's lock for ever."""
    Path(os.environ["MARKS"], str(os.getpid())).touch()
    return {"score": sum(itertools.repeat(0))}


def make_task() -> evo.Task:
    """Make a small untrained network, the same every time, on 600 digits."""
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
    )
    return evo.Task(model, (x[:300], labels[:300]), (x[300:600], labels[300:600]))


def make_evaluator(name: str) -> Evaluator:
    """Return the evaluator that the command line names."""
    kind, _, detail = name.partition(":")
    if kind == "ray":
        return evo.RayEvaluator(address=detail or None)
    return evo.LocalEvaluator(workers=int(detail))


ALGORITHMS = {
    "short": evo.ECS(generations=3, population=8),
    "medium": evo.ECS(generations=25, population=12),
    "medium asynchronous": evo.ECS(generations=25, population=12, asynchronous=True),
    "long": evo.ECS(generations=50, population=12),
    "long asynchronous": evo.ECS(generations=50, population=12, asynchronous=True),
}


def main(folder: str, evaluator: str = "local:2", fitness: str = "tuned", algorithm: str = "short") -> None:
    """Search, or go on with the search that the folder holds."""
    torch.set_num_threads(1)
    evo.search(
        make_task(),
        encoding=evo.FilterBits(),
        fitness={"tuned": tuned, "quick": quick, "stuck": stuck}[fitness],
        algorithm=ALGORITHMS[algorithm],
        evaluator=make_evaluator(evaluator),
        out=folder,
        seed=1,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
