"""A search in virtual time: real algorithms, asked and told by a driver whose workers only pretend to work.

Events are the ends of evaluations, in a heap. The driver does one thing at a time: it takes all results that have arrived,
writes them down, tells the algorithm, asks for what there is room for and sends it out. Workers take evaluations in the order
sent. A structure is evaluated once; individuals of the same one are told with the first, as `evo.search` does it.
"""

import hashlib
import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scipy import special

from evo.algorithms import Algorithm, SteadyState
from evo.encodings.individual import Individual

WINDOW = 1.25
"""Evaluations under way per worker, as the evaluators have it."""


@dataclass(frozen=True)
class Costs:
    """What moving evaluations about takes, in seconds.

    Attributes:
        result: the driver's time per individual: to propose it, send it out, take it back and write it down.
        write: its time per bunch of results that arrived together, which share a transaction.
        transport: a worker's time per evaluation between two of them.
    """

    result: float = 0.0
    write: float = 0.0
    transport: float = 0.0


@dataclass
class Timeline:
    """What came of a search.

    Attributes:
        workers: how many there were.
        seconds: from its first question to its last answer.
        work: evaluations in seconds, all workers together.
        found: objectives of every structure evaluated, in the order in which the driver learned of them.
        individuals: how many were proposed.
    """

    workers: int
    seconds: float = 0.0
    work: float = 0.0
    found: list[tuple[float, ...]] = field(default_factory=list)
    individuals: int = 0

    @property
    def busy(self) -> float:
        """Share of the workers' time, start and end of the search included, in which they evaluated."""
        return self.work / (self.workers * self.seconds)


def duration(key: str, mean: float, variation: float, seed: int, family: str = "lognormal") -> float:
    """Return how many seconds the evaluation of a structure takes: the same for the same structure and seed.

    Args:
        key: the structure.
        mean: of all evaluations, in seconds.
        variation: their coefficient of variation.
        seed: another one draws other durations.
        family: "lognormal", or "gamma", whose tail is lighter.
    """
    digest = hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "little") + 0.5) / 2**64
    if family == "gamma":
        return mean * variation**2 * float(special.gammaincinv(variation**-2, uniform))
    sigma = math.sqrt(math.log1p(variation**2))
    return mean * math.exp(sigma * float(special.ndtri(uniform)) - sigma**2 / 2)


def best_possible(count: int, workers: int, seconds_of: Callable[[str], float]) -> float:
    """Return how busy workers are if each takes the next of `count` evaluations at once, and nothing else takes time.

    Nobody who does not know beforehand how long an evaluation takes can do better, but for luck: what is left is the end,
    when there is nothing more to do than to wait for the last.
    """
    free = [0.0] * workers
    work = [seconds_of(str(number)) for number in range(count)]
    for seconds in work:
        heapq.heapreplace(free, free[0] + seconds)
    return sum(work) / (workers * max(free))


class Simulation:
    """One search with so many workers."""

    def __init__(
        self,
        algorithm: Algorithm,
        key_of: Callable[[Individual], str],
        values_of: Callable[[Individual], tuple[float, ...]],
        seconds_of: Callable[[str], float],
        workers: int,
        costs: Costs,
    ) -> None:
        self._algorithm = algorithm
        self._key_of, self._values_of, self._seconds_of = key_of, values_of, seconds_of
        self._costs = costs
        self._now = 0.0  # the driver's clock
        self._free = [0.0] * workers  # when each worker will have done what it was given
        self._ends: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._waiting: dict[str, list[Individual]] = {}
        self._known: dict[str, tuple[float, ...]] = {}
        self.timeline = Timeline(workers)

    def run(self) -> Timeline:
        """Go on until the algorithm ends the search."""
        algorithm = self._algorithm
        if isinstance(algorithm, SteadyState) and algorithm.asynchronous:
            window = math.ceil(WINDOW * self.timeline.workers)
            while True:
                while len(self._ends) < window and (asked := algorithm.ask()) is not None:
                    algorithm.tell(self._send(asked))
                if not self._ends:
                    break
                algorithm.tell(self._receive())
        else:
            while (asked := algorithm.ask()) is not None:
                self._send(asked)
                while self._ends:
                    self._receive()
                algorithm.tell(asked)
        self.timeline.seconds = self._now
        return self.timeline

    def _send(self, asked: Sequence[Individual]) -> list[Individual]:
        """Have workers evaluate what is new; return the individuals whose structure was evaluated before."""
        known = []
        for individual in asked:
            individual.row = self.timeline.individuals
            self.timeline.individuals += 1
            self._now += self._costs.result
            key = self._key_of(individual)
            if key in self._known:
                individual.fitness.values = self._known[key]
                known.append(individual)
            elif key in self._waiting:
                self._waiting[key].append(individual)
            else:
                self._waiting[key] = [individual]
                seconds = self._seconds_of(key)
                end = max(self._now, heapq.heappop(self._free)) + self._costs.transport + seconds
                heapq.heappush(self._free, end)
                heapq.heappush(self._ends, (end, next(self._numbers), key))
                self.timeline.work += seconds
        return known

    def _receive(self) -> list[Individual]:
        """Wait for the next result; return the individuals of all that have arrived by then."""
        self._now = max(self._now, self._ends[0][0]) + self._costs.write
        told = []
        arrived = self._now
        while self._ends and self._ends[0][0] <= arrived:
            _, _, key = heapq.heappop(self._ends)
            individuals = self._waiting.pop(key)
            self._known[key] = self._values_of(individuals[0])
            self.timeline.found.append(self._known[key])
            for individual in individuals:
                individual.fitness.values = self._known[key]
            told += individuals
        return told
