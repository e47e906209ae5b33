"""What a fitness depends on besides its settings."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evo
from evo.fitness import Fitness
from evo.sources import UnknownSource, digest_of_evo, digest_of_source
from evo.training import Recipe

HELPER = """
import numpy as np
from evo.training import Recipe
import deeper

ALPHA = 0.3
TABLE = np.arange(3)
RECIPE = Recipe(epochs=2)
OBJECT = object()

def helper(value):
    return value * ALPHA
"""

FITNESS = """
import math
import evo
import helpers

@evo.fitness(maximize="score")
def judge(candidate):
    def inner(value):
        return helpers.helper(value)
    return {"score": math.sqrt(inner(candidate.costs["params"]))}

def unrelated():
    return 1
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write modules and return the hash of the fitness among them, imported afresh."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(**changed: str) -> str:
        sources = {"deeper": "DEPTH = 1\n", "helpers": HELPER, "mine_for_sources": FITNESS}
        for name, text in (sources | changed).items():
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        import linecache

        linecache.clearcache()
        judge: Fitness = importlib.import_module("mine_for_sources").judge
        return digest_of_source(judge)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield digest
    for name in ("deeper", "helpers", "mine_for_sources"):
        sys.modules.pop(name, None)


def test_what_the_function_uses_counts_and_nothing_else(write: Any) -> None:
    before = write()
    assert write() == before
    assert write(mine_for_sources=FITNESS.replace("return 1", "return 2")) == before
    assert write(mine_for_sources=FITNESS.replace("sqrt", "exp")) != before
    assert write(helpers=HELPER.replace("0.3", "0.4")) != before
    assert write(deeper="DEPTH = 2\n") != before


def test_values_count() -> None:
    def made(value: Any) -> Fitness:
        return evo.fitness(maximize="score")(lambda candidate: {"score": float(value is None)})

    values = [1, 2, 1.0, "1", None, (1, 2), [1, 3], {"a": 1}, {"a": 2}, Recipe(epochs=1), Recipe(epochs=2)]
    values += [np.arange(3), np.arange(4), torch.zeros(2), torch.ones(2), len, np.exp, Path("a")]
    digests = [digest_of_source(made(value)) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest_of_source(made(value)) for value in values]
    for value in (object(), torch.nn.Linear(2, 2)):
        with pytest.raises(UnknownSource):
            digest_of_source(made(value))


def test_what_was_typed_into_an_interpreter_is_unknown() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def judge(candidate):\n    return {'score': 1.0}\n", names)
    with pytest.raises(UnknownSource, match="the source of judge"):
        digest_of_source(evo.fitness(maximize="score")(names["judge"]))


def test_evos_own_parts_are_covered_by_its_own_source() -> None:
    assert len(digest_of_evo()) == 32
    assert digest_of_source(evo.SubsetFineTune()) == digest_of_source(evo.SubsetFineTune(images=7))
