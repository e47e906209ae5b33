"""A search of milliseconds, in which something fails, to follow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evo
from evo.callbacks import Callback


@evo.fitness(maximize="score", minimize=("50 % noise", "macs"))
def judge(candidate: evo.Candidate) -> Mapping[str, float]:
    counts = candidate.blueprint.counts
    if counts["0"] == 4:
        raise ValueError("four is refused")
    return {"score": 0.01 + counts["4"] + counts["9"] / 100, "50 % noise": float(candidate.rng("noise").normal())}


def search(task: evo.Task, folder: Path, *callbacks: Callback, **changed: Any) -> evo.Run:
    arguments: dict[str, Any] = {
        "encoding": evo.FilterBits(),
        "fitness": judge,
        "algorithm": evo.ECS(generations=3, population=6),
        "evaluator": evo.LocalEvaluator(workers=0, retries=0),
        "seed": 3,
        "reuse": False,
    }
    return evo.search(task, out=folder, callbacks=callbacks, **{**arguments, **changed})
