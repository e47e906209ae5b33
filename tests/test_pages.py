"""The documentation: every block of code on its pages runs, and its links and names lead somewhere."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import evo
from tests.pages import LANGUAGES, ROOT, Block, Page, pages, run

PAGES = list(pages())
WITH_CODE = [page for page in PAGES if page.blocks]
NOT_RUN = [block for page in PAGES for block in page.blocks if "not run" in block.notes]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; modules that are imported from it leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    with torch.random.fork_rng(devices=[]):
        yield tmp_path
    for name, module in list(sys.modules.items()):
        if name not in before and str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * page.slow) for page in WITH_CODE]
)
def test_its_code_runs(page: Page, place: Path, digits_task: evo.Task) -> None:
    names: dict[str, Any] = {"__name__": "page", "digits_task": digits_task}
    run(page, names)


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in NOT_RUN])
def test_what_is_not_run(block: Block) -> None:
    """Listed as skipped, each with its reason; that the arguments of evo are right is part of `test_its_code_runs`."""
    reason = block.notes["not run"].strip()
    assert len(reason) > 10, f"{block}: say why it is not run"
    pytest.skip(f"{block}: {reason}")


def test_every_block_has_a_language_that_says_what_to_do() -> None:
    assert not [str(block) for page in PAGES for block in page.blocks if block.language not in LANGUAGES]
