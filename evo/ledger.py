"""What a search knows: a row per individual, what its structure came to, and how the search stands."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evo.blueprint import Blueprint
from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual
from evo.errors import EvaluatorError, RunFolderError
from evo.evaluation import Outcome
from evo.fitness.base import Objective
from evo.history import History
from evo.network import Network
from evo.records import SCREENED, Result, Row
from evo.reuse import Peers
from evo.run import pack_structure

HOPELESS = 20
"""Evaluations that have to fail, all of the first, for a search to stop before its first generation ends."""


class Ledger:
    """Numbers individuals, looks up what was measured before, and writes every result to the history.

    An individual that is entered stays open until it is settled: looked up, or told by an outcome. Individuals of the same
    structure are measured once: the others are `cached` and settle with the first.

    Attributes:
        entered: individuals that have a row by now: the next one's id.
        turns: results that the algorithm of an asynchronous search has been told of; None in a generational search.
        evaluated, failed, cached, reused, screened: how many of the settled were measured, of these failed, were looked up,
            were measured by another run, and were not promoted by a cascade.
        spent: how many evaluations by the fitness, of a cascade by its last fidelity, that took.
        best: id, costs and objectives of the settled row with the best first objective; None before the first.
    """

    def __init__(
        self,
        network: Network,
        objectives: Sequence[Objective],
        space: GenomeSpace,
        history: History,
        peers: Peers,
        *,
        per_generation: int | None,
        announce: Callable[[Row], None],
    ) -> None:
        """Begin with nothing.

        Args:
            network, objectives, space, history, peers: of the search.
            per_generation: individuals that count as a generation of an asynchronous search; None in a generational one.
            announce: hears of every row that is written, once it is on disk.
        """
        self._network = network
        self._groups = [(group.name, group.size) for group in network.groups]
        self._layers = [layer.name for layer in network.costs.layers]
        self._objectives = objectives
        self._space = space
        self._history = history
        self._peers = peers
        self._per_generation = per_generation
        self._announce = announce
        self._order = "id" if per_generation is None else "turn"
        self.entered = 0
        self.turns = None if per_generation is None else 0
        self.evaluated = self.failed = self.cached = self.reused = self.screened = self.spent = 0
        self.best: Mapping[str, float] | None = None
        self._open: dict[int, _Entry] = {}
        self._waiting: dict[str, list[int]] = {}  # open rows by structure, the one that is measured first
        self._written: set[int] = set()  # rows of an unfinished generation that an earlier process has written
        self._settled: dict[int, Individual] = {}

    def load(self, entered: int, settled: int) -> None:
        """Begin where the saved state ends: after so many individuals entered, and so many of them settled."""
        self.entered = entered
        if self.turns is not None:
            self.turns = settled
        else:
            self._written = {number for number, *_ in self._history.since("id", entered)}
        counts = self._history.counts(self._order, settled)
        self.evaluated, self.failed, self.cached, self.reused, self.screened, self.spent = (
            counts[name] for name in ("evaluated", "failed", "cached", "reused", "screened", "spent")
        )
        first = self._objectives[0]
        self.best = self._history.best(first.name, first.maximize, self._order, settled)

    @property
    def open(self) -> int:
        """Number of structures that individuals wait for."""
        return len(self._waiting)

    def enter(self, individuals: Sequence[Individual], generation: int = 0) -> list[Row]:
        """Give every individual a row: a new one, or the one it had when the search was interrupted.

        Args:
            individuals: as the algorithm proposed them.
            generation: theirs; an asynchronous search tells it by their number.
        """
        if not individuals:
            return []
        for individual in individuals:
            if individual.row is None:
                individual.row = self.entered
                self.entered += 1
        blueprints = [self._space.decode(individual) for individual in individuals]
        costs = self._network.costs.costs(self._network.counts(blueprints), bits=self._network.bits(blueprints))
        measured = self._history.results((one.key for one in blueprints), before=individuals[0].row or 0)
        rows = []
        for index, (individual, blueprint) in enumerate(zip(individuals, blueprints, strict=True)):
            assert individual.row is not None
            row = Row(
                id=individual.row,
                generation=individual.row // self._per_generation if self._per_generation else generation,
                operator=individual.operator,
                parents=individual.parents,
                genome=self._space.pack(individual),
                structure=pack_structure(blueprint, self._groups, self._layers),
                key=blueprint.key,
                costs={name: int(values[index]) for name, values in costs.items()},
                cached=blueprint.key in measured or blueprint.key in self._waiting,
            )
            rows.append(row)
            self._open[row.id] = _Entry(row, blueprint, individual)
            self._waiting.setdefault(row.key, []).append(row.id)
        return rows

    def look_up(self, rows: Iterable[Row]) -> tuple[list[Row], list[Blueprint]]:
        """Settle those of the open `rows` whose structure was measured before, here or by a peer.

        Returns:
            what is settled, and the structures that have to be evaluated.
        """
        first = {row.key: row.id for row in rows if self._waiting[row.key][0] == row.id}
        known = self._history.results(first, before=self.entered)
        known |= self._peers.find([key for key in first if key not in known])
        settled = self.settle([known[key] for key in first if key in known])
        return settled, [self._open[number].blueprint for key, number in first.items() if key not in known]

    def take(self, outcomes: Iterable[Outcome]) -> list[Row]:
        """Write what the evaluator returned, and return the rows that it settles."""
        return self.settle([result_of(outcome) for outcome in outcomes])

    def settle(self, results: Iterable[Result]) -> list[Row]:
        """Complete and write all rows of these structures, in one transaction, and return them."""
        rows = []
        for result in results:
            for number in self._waiting.pop(result.key):
                entry = self._open.pop(number)
                self._complete(entry, result)
                rows.append(entry.row)
        new = [row for row in rows if row.id not in self._written]
        if new:
            self._peers.sign(self._history)
            self._history.add(new)
            for row in new:
                self._announce(row)
        if self.spent >= HOPELESS:
            self.check_hope()
        return rows

    def recall(self, number: int, result: Result) -> Row:
        """Settle an open row as an earlier process has written it.

        Raises:
            RunFolderError: the row that was proposed now is another one.
        """
        entry = self._open.pop(number, None)
        if entry is None or entry.row.key != result.key:
            raise RunFolderError(f"{self._history.path}: row {number} is not what this search proposes; it is damaged")
        others = self._waiting[result.key]
        others.remove(number)
        if not others:
            del self._waiting[result.key]
        self._complete(entry, result)
        return entry.row

    def blueprint(self, row: Row) -> Blueprint:
        """Return the structure of an open row."""
        return self._open[row.id].blueprint

    def row(self, individual: Individual) -> Row:
        """Return the open row of an individual."""
        assert individual.row is not None
        return self._open[individual.row].row

    def individual(self, row: Row) -> Individual:
        """Return the individual of a row that was just settled, its objectives set if the evaluation succeeded."""
        return self._settled.pop(row.id)

    def check_hope(self) -> None:
        """Stop a search of which nothing has succeeded so far.

        Raises:
            EvaluatorError: all of at least one evaluation failed.
        """
        if self.evaluated and self.evaluated == self.failed:
            raise EvaluatorError(
                f"every one of the first {self.evaluated} evaluations failed; the first: {self._history.reason()}; "
                "mend that and search in another folder"
            )

    def _complete(self, entry: "_Entry", result: Result) -> None:
        """Fill in a row and its individual, and count it."""
        row = entry.row
        row.settle(result)
        if self.turns is not None:
            row.turn, row.asked = self.turns, self.entered
            self.turns += 1
        self.cached += row.cached
        self.reused += bool(row.reused)
        if not row.cached and row.status == SCREENED:
            self.screened += 1
        elif not row.cached:
            self.evaluated += 1
            self.failed += row.status != "ok"
            self.spent += row.tries > 0
        if row.status == "ok":
            values = row.costs | row.objectives
            entry.individual.fitness.values = tuple(float(values[objective.name]) for objective in self._objectives)
            first = self._objectives[0]
            if self.best is None or (values[first.name] - self.best[first.name]) * first.weight > 0:
                self.best = {"id": float(row.id), **values}
        self._settled[row.id] = entry.individual


@dataclass(frozen=True)
class _Entry:
    """An individual that is not settled."""

    row: Row
    blueprint: Blueprint
    individual: Individual


def result_of(outcome: Outcome) -> Result:
    """Return what the history keeps of an outcome."""
    return Result(
        key=outcome.key,
        status=outcome.status,
        reason=outcome.reason,
        objectives=outcome.objectives,
        tries=outcome.tries,
        seconds=outcome.seconds,
        node=outcome.node,
        worker=outcome.worker,
        worker_memory=outcome.worker_memory,
        log=outcome.log,
    )
