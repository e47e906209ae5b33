"""Evaluations of no time at all are handed out singly, so that a search can be interrupted between them."""

import pytest

from evo.evaluation import local


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BATCH_SECONDS", 0.0)
