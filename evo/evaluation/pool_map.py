"""Many calls of one function, by worker processes of this machine."""

from collections import deque
from contextlib import closing
from multiprocessing.connection import wait
from typing import Any

from evo.errors import EvaluatorError
from evo.evaluation.base import Tries
from evo.evaluation.calls import Answer, Calls
from evo.evaluation.shared import packed
from evo.evaluation.worker import Worker, farewell

LOOK = 0.5  # seconds between looks at workers that say nothing


def map_by_processes(calls: Calls, workers: int, retries: int) -> list[Any]:
    """Return what the function returns for every item, in their order.

    Args:
        calls: the function, and what it takes.
        workers: processes, at most one per item.
        retries: further tries of a call whose process dies.

    Raises:
        EvoError: the function raised it.
        EvaluatorError: it raised something else, cannot be sent, or a process died each time.
    """
    with closing(_Team(calls, min(workers, len(calls.items)), retries)) as team:
        while team.open:
            team.listen()
        return [team.values[number] for number in range(len(calls.items))]


class _Team:
    """Workers with an item each.

    Attributes:
        values: what is known by now, by number of the item.
        open: how many items have no value yet.
    """

    def __init__(self, calls: Calls, size: int, retries: int) -> None:
        self._file, self._spans = packed(calls)
        self._calls = calls
        self._tries = Tries(retries)
        self._waiting = deque(range(len(calls.items)))
        self._workers: list[Worker] = []
        self._size = size
        self.values: dict[int, Any] = {}
        self.open = len(calls.items)

    def listen(self) -> None:
        """Keep all busy, and take what the next have to say."""
        while len(self._workers) < min(self._size, self.open):
            self._workers.append(Worker(self._file, self._spans, self._calls.threads))
        for worker in self._workers:
            if not worker.queue and self._waiting:
                worker.assign([self._waiting.popleft()])
        ready = wait([worker.connection for worker in self._workers], LOOK)
        for worker in list(self._workers):
            if worker.connection in ready:
                self._attend(worker)
            elif not worker.alive() and not worker.speaks():  # a process that the function left behind holds its pipe
                self._bury(worker)

    def _attend(self, worker: Worker) -> None:
        """Take a worker's next message."""
        try:
            message = worker.listen()
        except EOFError:
            self._bury(worker)
            return
        if message is None:
            return  # it is ready
        answer: Answer = message[1]
        self.values[answer.number] = answer.result()
        self.open -= 1

    def _bury(self, worker: Worker) -> None:
        """Let a dead worker go, and have its item tried again."""
        self._workers.remove(worker)
        worker.kill()
        status, words = worker.bury()
        for number in worker.queue:
            if not self._tries.again(str(number), "crash"):
                reason = f"its worker process died ({farewell(status, words)})"
                raise EvaluatorError(f"{self._calls.name}: {self._tries.reason('crash', reason)}")
            self._waiting.appendleft(number)

    def close(self) -> None:
        """Stop what is running."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.bury()
        self._file.close()
