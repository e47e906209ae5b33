"""The loop of a search, in one process: ask the algorithm, have evaluated what is new, write it down, tell the algorithm."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evo.algorithms import Algorithm, SteadyState
from evo.callbacks.base import Callback, Progress, tell
from evo.encodings.base import GenomeSpace
from evo.encodings.budgeted import Budgeted
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.evaluation import Screening, Session
from evo.fitness.base import Fitness
from evo.fitness.cascade import Cascade
from evo.history import History
from evo.ledger import Ledger
from evo.records import SCREENED, Result, Row
from evo.reuse import Peers
from evo.screening import Screen, screens
from evo.stopping import ConvergenceWatch, Stop
from evo.task import Task


@dataclass(frozen=True)
class Rules:
    """What may stop a search early; each may be None."""

    evaluations: int | None
    seconds: float | None
    watch: ConvergenceWatch | None


class Loop:
    """The search loop of one process."""

    def __init__(
        self,
        task: Task,
        fitness: Fitness,
        algorithm: Algorithm,
        space: GenomeSpace,
        history: History,
        peers: Peers,
        rules: Rules,
        callbacks: Sequence[Callback],
        open_session: Callable[[], Session],
    ) -> None:
        self._algorithm = algorithm
        self._steady = algorithm if isinstance(algorithm, SteadyState) and algorithm.asynchronous else None
        self._space = space
        self._history = history
        self._ledger = Ledger(
            task.network,
            fitness.objectives,
            space,
            history,
            peers,
            per_generation=None if self._steady is None else self._steady.population,
            announce=self._announce,
        )
        self._cascade = fitness if isinstance(fitness, Cascade) else None
        self._screens = screens(fitness, history, by_all=algorithm.multiobjective)
        self._screening = ""
        self._objective = fitness.objectives[0].name
        self._original = task.network.cost_of(task.network.full)
        self._rules = rules
        self._callbacks = callbacks
        self._open_session = open_session
        self._session: Session | None = None
        self._began = time.monotonic()
        self._advanced = False  # whether this process has got anything done
        self._resumed_at = 0.0
        self._size = 0
        self._submitted = 0  # of an asynchronous search: structures at the evaluator
        self._looked_up = 0  # likewise: individuals since the evaluator was last heard
        self._draws: Counter[str] = Counter()  # of this generation
        self._drawn: Counter[str] = Counter()  # of the whole run
        self._told: list[Row] = []
        self._judged: list[Individual] = []

    def run(self) -> None:
        """Continue from what the history holds until the algorithm or a rule ends it, and write down which."""
        if self._history.meta("stop") is not None:
            self._history.set_meta("stop", None)
        state = self._history.meta("state")
        if state is None:
            self._ledger.load(0, 0)
        else:
            self._ledger.load(state["rows"], state["told"])
            self._algorithm.restore(state["algorithm"])
            self._drawn.update(state["drawn"])
            for screen, saved in zip(self._screens, state["screens"], strict=True):
                screen.restore(saved)
            self._look_back(state["told"])
        try:
            if self._steady is None:
                stop = self._run_generations()
            else:
                self._replay(self._steady)
                stop = self._run_steadily(self._steady)
        finally:
            if self._session is not None:
                self._session.close()
        if stop is not None:
            self._history.set_meta("stop", stop.to_dict())

    def _look_back(self, told: int) -> None:
        """Show the rule that watches the front what earlier processes have measured, up to the saved state."""
        if self._rules.watch is None:
            return
        frame = self._history.frame()
        frame = frame[(frame["status"] == "ok") & ~frame["cached"]]
        generation = frame["generation"]
        if self._steady is not None:
            frame = frame[frame["turn"] < told]
            generation = frame["turn"] // self._steady.population
        measured: dict[int, list[Any]] = {
            int(str(number)): rows.to_dict("records") for number, rows in frame.groupby(generation)
        }
        for number in range(self._algorithm.generation):
            self._rules.watch.end_generation(measured.get(number, []))

    def _enough(self) -> Stop | None:
        """Return why the search should end here, between two generations; with this alone it goes on from anywhere."""
        rules = self._rules
        if self._algorithm.generation >= self._algorithm.rounds:
            return None  # it has ended by itself
        if rules.watch is not None and rules.watch.stop is not None:
            return rules.watch.stop
        if rules.seconds is not None and self._advanced and time.monotonic() - self._began >= rules.seconds:
            return Stop("max_seconds", f"the time is up, max_seconds = {rules.seconds:g}")
        return None

    def _run_generations(self) -> Stop | None:
        """Propose a generation, wait for all of it, tell the algorithm, save; return what stops it before the last one."""
        ledger, limit = self._ledger, self._rules.evaluations
        self._resumed_at = self._algorithm.generation
        while True:
            if (stop := self._enough()) is not None:
                return stop
            if (asked := self._algorithm.ask()) is None:
                return None
            self._size = len(asked)
            self._count_draws()
            rows = ledger.enter(asked, self._algorithm.generation)
            new = [row for row in rows if not row.cached]  # those that an interrupted process has measured included
            takes = len(new) if self._cascade is None else self._cascade.most(len(new))
            if limit is not None and ledger.spent + takes > limit:
                if not ledger.spent:
                    raise SettingsError(f"max_evaluations: got {limit}, but the first generation alone takes {takes}")
                return Stop("max_evaluations", f"another generation would exceed max_evaluations = {limit}")
            self._told, _ = ledger.look_up(row for row in rows if row.cached)
            for screen in self._screens:
                new = self._screen(screen, new)
            known, missing = ledger.look_up(new)
            self._told += known
            self._report()
            if missing:
                self._workers().submit(missing)
            while ledger.open:
                self._told += ledger.take(self._workers().receive())
                self._report()
            if asked:
                ledger.check_hope()
            self._judged = [ledger.individual(row) for row in rows]
            statistics = self._statistics()
            self._algorithm.tell(asked)
            self._finish_generation(self._algorithm.generation - 1, statistics)
            self._advanced = True
            self._report()

    def _screen(self, screen: Screen, rows: list[Row]) -> list[Row]:
        """Return those of a generation's new structures that a fidelity of a cascade promotes; the others are settled."""
        missing, failures = screen.begin(rows)
        self._reject(screen, failures)
        if missing:
            self._workers().submit([Screening(self._ledger.blueprint(row), screen.place) for row in missing])
        left = len(missing)
        while left:
            self._screening = f"{screen.name}, {left:,} of {len(rows):,} to go"
            self._report()
            outcomes = self._workers().receive()
            left -= len(outcomes)
            self._reject(screen, screen.take(outcomes))
        self._screening = ""
        promoted, others = screen.promote(rows)
        self._reject(screen, others)
        return promoted

    def _reject(self, screen: Screen, results: list[Result]) -> None:
        """Settle what does not go on, and stop the search if nothing ever does."""
        self._told += self._ledger.settle(results)
        if screen.hopeless:
            self._ledger.check_hope()

    def _replay(self, algorithm: SteadyState) -> None:
        """Take an interrupted search through what happened after its last saved state, in the order recorded."""
        ledger = self._ledger
        self._size = algorithm.population
        for individual in algorithm.outstanding:
            ledger.enter([individual])
        assert ledger.turns is not None
        for number, _, asked, result in list(self._history.since("turn", ledger.turns)):
            while ledger.entered < (asked or 0):
                self._propose(algorithm)
            self._tell(algorithm, [ledger.recall(number, result)])
        self._resumed_at = algorithm.told / algorithm.population
        rows = [ledger.row(individual) for individual in algorithm.outstanding]
        self._pursue(algorithm, rows)

    def _run_steadily(self, algorithm: SteadyState) -> Stop | None:
        """Propose a child whenever there is room for it, and tell the algorithm of every result as it comes.

        Returns:
            what stops it before the last individual.
        """
        ledger = self._ledger
        self._report()
        while True:
            while self._has_room(algorithm) and (rows := self._propose(algorithm)):
                self._pursue(algorithm, rows)
            if not self._submitted:
                ledger.check_hope()
                if algorithm.generation >= algorithm.rounds:
                    return None
                return self._enough() or Stop(
                    "max_evaluations", f"all of max_evaluations = {self._rules.evaluations} are done"
                )
            outcomes = self._workers().receive()
            self._submitted -= len(outcomes)
            self._looked_up = 0
            self._tell(algorithm, ledger.take(outcomes))
            self._advanced = True
            self._report()

    def _has_room(self, algorithm: SteadyState) -> bool:
        if not self._allowed() or self._enough() is not None:
            return False
        # Individuals of a structure that is under way, or known, take no room: without a limit a population that has come
        # to repeat itself would use up the search before what is under way can tell it anything new.
        waiting = algorithm.proposed - algorithm.told - self._submitted
        if self._submitted and waiting + self._looked_up > algorithm.population // 4:
            return False
        return self._session is None or self._session.room(algorithm.population) > 0

    def _allowed(self) -> int:
        """Return how many evaluations more may be submitted."""
        if self._rules.evaluations is None:
            return sys.maxsize
        return max(0, self._rules.evaluations - self._ledger.evaluated - self._submitted)

    def _propose(self, algorithm: SteadyState) -> list[Row]:
        """Give the next individual, or family, its rows; none when the search is over."""
        asked = algorithm.ask() or []
        self._count_draws()
        return self._ledger.enter(asked)

    def _pursue(self, algorithm: SteadyState, rows: list[Row]) -> None:
        """Look up open rows, tell the algorithm of what is known, and have the others evaluated.

        What exceeds the limit stays outstanding, for a search that goes on with a higher one.
        """
        known, missing = self._ledger.look_up(rows)
        missing = missing[: self._allowed()]
        if missing:
            self._workers().submit(missing)
            self._submitted += len(missing)
        if known:
            self._looked_up += len(known)
            self._tell(algorithm, known)
            self._report()

    def _tell(self, algorithm: SteadyState, rows: list[Row]) -> None:
        """Tell the algorithm of settled rows one by one, and save when that completes a generation."""
        for row in rows:
            individual = self._ledger.individual(row)
            self._told.append(row)
            self._judged.append(individual)
            algorithm.tell([individual])
            if algorithm.told % algorithm.population == 0:
                self._finish_generation(algorithm.generation - 1, self._statistics())

    def _workers(self) -> Session:
        self._session = self._session or self._open_session()
        return self._session

    def _statistics(self) -> dict[str, float]:
        """Return counts and statistics of the generation that has just been judged."""
        rows = self._told
        cached = sum(row.cached for row in rows)
        screened = sum(row.status == SCREENED and not row.cached for row in rows)
        statistics: dict[str, float] = {
            "asked": len(rows),
            "evaluated": len(rows) - cached - screened,
            "failed": sum(row.status != "ok" and not row.cached for row in rows) - screened,
            "cached": cached,
        }
        if self._screens:
            statistics["screened"] = screened
        return {**statistics, **self._draws, **self._algorithm.statistics(self._judged)}

    def _count_draws(self) -> None:
        """Note how many genomes were drawn within a budget for what was just asked for."""
        if isinstance(self._space, Budgeted):
            for name, count in self._space.tally().items():
                self._draws[name] += count
                self._drawn[name] += count

    def _finish_generation(self, generation: int, statistics: dict[str, float]) -> None:
        """Write down a generation's statistics and the state after it."""
        ledger = self._ledger
        state = {
            "algorithm": self._algorithm.state(),
            "rows": ledger.entered,
            "told": ledger.entered if self._steady is None else self._steady.told,
            "drawn": self._drawn,
            "screens": [screen.state() for screen in self._screens],
        }
        self._history.finish_generation(generation, statistics, state)
        if self._rules.watch is not None:
            self._rules.watch.end_generation(row.costs | row.objectives for row in self._told if row.status == "ok")
        self._told, self._judged = [], []
        self._draws.clear()
        numbered, progress = {"generation": generation, **statistics}, self._progress()
        tell(self._callbacks, lambda callback: callback.on_generation(numbered, progress))

    def _announce(self, row: Row) -> None:
        tell(self._callbacks, lambda callback: callback.on_evaluation(row.to_dict()))

    def _report(self) -> None:
        progress = self._progress()
        tell(self._callbacks, lambda callback: callback.on_progress(progress))

    def _progress(self) -> Progress:
        ledger = self._ledger
        seconds = time.monotonic() - self._began
        done = self._algorithm.generation
        total = self._algorithm.rounds
        pending = self._size - len(self._told) if self._told or ledger.open else 0
        share = done - self._resumed_at + (1 - pending / max(1, self._size) if pending else 0)
        return Progress(
            generation=done,
            generations=total,
            asked=self._size,
            pending=pending,
            evaluated=ledger.evaluated,
            failed=ledger.failed,
            cached=ledger.cached,
            reused=ledger.reused,
            best=ledger.best,
            objective=self._objective,
            original=self._original,
            seconds=seconds,
            seconds_left=seconds * (total - self._resumed_at - share) / share if share > 0 else None,
            drawn=self._drawn["drawn"],
            rejected=self._drawn["rejected"],
            screened=ledger.screened,
            screening=self._screening,
        )
