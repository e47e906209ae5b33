"""Searches in processes of their own that start in moments: copies of one that has imported everything already."""

import multiprocessing
from pathlib import Path

from tests.integration import search_digits

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["evo", "sklearn.datasets"])


class Driver:
    """A quick search in a process of its own."""

    def __init__(self, folder: Path, algorithm: str, evaluator: str = "local:0") -> None:
        self._process = FORKED.Process(target=search_digits.main, args=(str(folder), evaluator, "quick", algorithm))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def runs(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def finish(self) -> None:
        self._process.join(120)
        assert self._process.exitcode == 0
