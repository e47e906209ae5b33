"""Is the front that NSGA-II and NSGA-III find as good as that of other libraries, after equally many evaluations?

Question. Multi-objective search for the widths of a network's layers: how much of the space of error and size does the front
dominate after N evaluations, of evo's algorithms and of random search, Optuna's NSGAIISampler and pymoo's NSGA2?

Set-up. All get the same problem: a genome is the number of channels of every layer, an integer between the same bounds, judged
by the same function. Two problems:

* `table`: Channel-Bench-Macro, 16,384 networks that were all trained on CIFAR-10, seven widths of four sizes each. Error
  against parameters, and error against parameters and multiply-accumulates; the hypervolume is a share of that of all
  networks together, of which the true front is known.
* `lenet`: widths of a trained LeNet on MNIST (20, 50 and 500 at most), really cut, fine-tuned for one epoch on 1,000 images and
  judged on 2,000 held-out ones. Error, up to 50 %, against the logarithm of the parameters; a share of that box.

Equal evaluations are equally many different structures: whoever proposes one again gets its values for nothing and may go on
(evo's NSGA-II and NSGA-III draw again instead; the column `proposed` has all). Every population is 20. pymoo has the operators
that its documentation recommends for integers (SBX and PM with eta 3, rounded), once from its own first population and once
from evo's, which has the whole network in it; Optuna's integers are even or, for LeNet, logarithmic. ECS and FGA maximise one
number, 1 − error + 0.3 × share of the parameters removed: what a front loses by that. Means over seeds, with 95 % intervals
(t).

Outputs: a table and `benchmarks/results/front_quality.json`. What was measured of LeNets is kept in `.cache/`: run again, or
with more seeds or evaluations, it goes on from there.

Run: `python -m benchmarks.front_quality` (about an hour on one processor; `--only` and `--method` take a part of it, and leave
the other results). Table and MNIST are read from the folder `EVO_DATA`.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from rich.console import Console
from rich.table import Table
from scipy import stats

import evo
from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from benchmarks.ecs_lenet_mnist import FULL, Workshop, load_mnist
from evo.algorithms import Algorithm
from evo.encodings.base import GenomeSpace
from evo.fitness import Objective
from evo.front import Box, Values
from evo.network.zoo import channel_bench
from evo.training import Samples

CACHE = ROOT / ".cache" / "front_quality"
POPULATION = 20
PATIENCE = 10
"""Proposals per evaluation after which it is taken that a method finds nothing new."""
SAVED = 0.3
"""What removing all parameters is worth to ECS and FGA, in units of error."""

Widths = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """What all methods search.

    Attributes:
        name: of the problem and its objectives.
        task: whose network is made narrower.
        low, high: fewest and most channels per group.
        measure: values of structures, shape (N, M), all minimised; the first is the error, the second parameters.
        share: how much of the space a set of values dominates, in [0, 1].
        checkpoints: numbers of evaluations after which the front is looked at.
        logarithmic: whether Optuna is told that widths are.
    """

    name: str
    task: evo.Task
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    measure: Callable[[Sequence[Widths]], Values]
    share: Callable[[Values], float]
    checkpoints: tuple[int, ...]
    logarithmic: bool = False


class EnoughError(Exception):
    """All evaluations are used up."""


@dataclass
class Measured:
    """What a method has measured so far, in order; every structure counts once."""

    problem: Problem
    known: dict[Widths, Values] = field(default_factory=dict)
    proposed: int = 0

    def __call__(self, proposals: Sequence[Sequence[int]]) -> Values:
        """Return values of shape (N, M).

        Raises:
            EnoughError: after the last evaluation, or when there seems to be nothing new.
        """
        limit = self.problem.checkpoints[-1]
        listed = [tuple(int(width) for width in widths) for widths in proposals]
        missing = list(dict.fromkeys(widths for widths in listed if widths not in self.known))
        missing = missing[: limit - len(self.known)]
        if missing:
            self.known |= dict(zip(missing, self.problem.measure(missing), strict=True))
        self.proposed += len(listed)
        if len(self.known) >= limit or self.proposed > PATIENCE * limit:
            raise EnoughError
        return np.array([self.known[widths] for widths in listed])


Method = Callable[[Problem, Measured, int], None]


def space_of(problem: Problem, weights: tuple[float, ...]) -> GenomeSpace:
    """Return evo's genomes of the problem."""
    return evo.ChannelVector(select="l1", initial="random").bind(problem.task, weights)


def by_evo(algorithm: Algorithm, *, scalar: bool = False) -> Method:
    """Return a search by evo's ask and tell; `scalar` gives it one number to maximise."""

    def search(problem: Problem, measured: Measured, seed: int) -> None:
        count = 1 if scalar else problem.measure([tuple(problem.high.tolist())]).shape[1]
        objectives = [Objective("score", True)] if scalar else [Objective(str(index), False) for index in range(count)]
        space = space_of(problem, tuple(objective.weight for objective in objectives))
        started = algorithm.model_copy()
        started.start(space, objectives, seed, space.seeds)
        whole = problem.measure([tuple(problem.high.tolist())])[0, 1]
        rows = 0
        while (asked := started.ask()) is not None:
            values = measured([space.counts(one).tolist() for one in asked]) if asked else np.empty((0, 2))
            for one, found in zip(asked, values, strict=True):
                one.row, rows = rows, rows + 1
                score = 1 - found[0] + SAVED * (1 - found[1] / whole)
                one.fitness.values = (score,) if scalar else tuple(map(float, found))
            started.tell(asked)

    return search


def by_chance(problem: Problem, measured: Measured, seed: int) -> None:
    """Draw every width evenly."""
    rng = np.random.default_rng(seed)
    while True:
        measured(rng.integers(problem.low, problem.high + 1, (POPULATION, problem.low.size)).tolist())


def by_optuna(problem: Problem, measured: Measured, seed: int) -> None:
    """Ask and tell Optuna's NSGA-II."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    count = problem.measure([tuple(problem.high.tolist())]).shape[1]
    study = optuna.create_study(directions=["minimize"] * count, sampler=sampler)
    bounds = list(zip(problem.low.tolist(), problem.high.tolist(), strict=True))
    while True:
        trial = study.ask()
        widths = [
            trial.suggest_int(str(index), low, high, log=problem.logarithmic)
            for index, (low, high) in enumerate(bounds)
        ]
        study.tell(trial, measured([widths])[0].tolist())


class ForPymoo(PymooProblem):  # type: ignore[misc]
    """The problem as pymoo takes it."""

    def __init__(self, problem: Problem, measured: Measured) -> None:
        count = problem.measure([tuple(problem.high.tolist())]).shape[1]
        super().__init__(n_var=problem.low.size, n_obj=count, xl=problem.low, xu=problem.high, vtype=int)
        self._measured = measured

    def _evaluate(self, x: NDArray[np.int64], out: dict[str, Any], *_: Any, **__: Any) -> None:
        out["F"] = self._measured(x.tolist())


def by_pymoo(*, from_evo: bool) -> Method:
    """Return pymoo's NSGA-II for integers, from a first population of its own or the one that evo draws."""

    def search(problem: Problem, measured: Measured, seed: int) -> None:
        sampling: Any = IntegerRandomSampling()
        if from_evo:
            space = space_of(problem, (-1.0,))
            drawn = [*space.seeds, *space.initial(POPULATION, np.random.default_rng(seed))]
            sampling = np.array([space.counts(one) for one in drawn[:POPULATION]])
        algorithm = PymooNSGA2(
            pop_size=POPULATION,
            sampling=sampling,
            crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        generations = PATIENCE * problem.checkpoints[-1] // POPULATION
        minimize(ForPymoo(problem, measured), algorithm, ("n_gen", generations), seed=seed)

    return search


MANY = 10_000
METHODS: dict[str, Method] = {
    "evo NSGA2": by_evo(evo.NSGA2(population=POPULATION, generations=MANY)),
    "evo NSGA3": by_evo(evo.NSGA3(population=POPULATION, generations=MANY)),
    "evo RandomSearch": by_evo(evo.RandomSearch(evaluations=MANY * POPULATION, batch=POPULATION)),
    "pymoo NSGA2": by_pymoo(from_evo=False),
    "pymoo NSGA2, evo's start": by_pymoo(from_evo=True),
    "Optuna NSGAIISampler": by_optuna,
    "random, even": by_chance,
    # Once they agree, they propose little or nothing new: they may give up before their evaluations are used up.
    "evo FGA, one number": by_evo(evo.FGA(population=POPULATION, generations=100), scalar=True),
    "evo ECS, one number": by_evo(evo.ECS(population=POPULATION, generations=100), scalar=True),
}


def table_problems() -> list[Problem]:
    """Return the two problems on Channel-Bench-Macro; a group of four channels stands for the quarters of a width."""
    table = pd.read_csv(data_folder() / "channel_bench_macro_resnet.csv.gz", dtype={"arch": str})
    values = np.stack([1 - table["acc_mean"] / 100, table["params"], table["macs"]], 1)
    known = {tuple(map(int, name)): row for name, row in zip(table["arch"], values, strict=True)}
    images = Samples(torch.zeros(4, 3, 32, 32), torch.arange(4))
    task = evo.Task(channel_bench([4] * 7), images, images)
    ideal = np.array([values[:, 0].min(), 0.0, 0.0])

    def problem(name: str, count: int) -> Problem:
        box = Box(ideal[:count], values[:, :count].max(0))
        best = box.hypervolume(values[:, :count])
        return Problem(
            name=name,
            task=task,
            low=np.ones(7, dtype=np.int64),
            high=np.full(7, 4),
            measure=lambda structures: np.array([known[widths][:count] for widths in structures]),
            share=lambda found: box.hypervolume(found) / best,
            checkpoints=(50, 100, 200, 400, 800),
        )

    return [problem("table: error, params", 2), problem("table: error, params, macs", 3)]


def lenet_problem(evaluations: int, console: Console) -> Problem:
    """Return the problem of real cuts of a trained LeNet; every network is measured once and kept on disk."""
    workshop = Workshop(FULL, load_mnist(data_folder(), FULL), console)
    workshop.train_base()
    task = workshop.task
    fitness = evo.SubsetFineTune(images=1000, batch_size=50, lr=0.05, epochs=1, val_images=2000)
    space = evo.ChannelVector(select="l1", initial="random").bind(task, (1.0,))
    path = CACHE / f"lenet-{task.digest()[:12]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    known = {tuple(widths): float(error) for widths, error in map(json.loads, lines)}
    sizes = task.network.costs.sizes

    def measure(structures: Sequence[Widths]) -> Values:
        params = task.network.costs.costs(np.array(structures), ["params"])["params"]
        for widths in structures:
            if widths not in known:
                blueprint = space.decode(space.individual(np.array(widths)))
                known[widths] = fitness(evo.Candidate(task, blueprint, 0))["error"]
                with path.open("a") as file:
                    file.write(json.dumps([widths, known[widths]]) + "\n")
        return np.stack([np.array([known[widths] for widths in structures]), params.astype(float)], 1)

    params = task.network.costs.costs(np.stack([np.ones_like(sizes), sizes]), ["params"])["params"]
    box = Box(np.array([0.0, np.log(params[0])]), np.array([0.5, np.log(params[1])]))
    return Problem(
        name="lenet: error, params",
        task=task,
        low=np.ones_like(sizes),
        high=sizes,
        measure=measure,
        share=lambda found: box.hypervolume(np.stack([found[:, 0], np.log(found[:, 1])], 1)),
        checkpoints=tuple(count for count in (20, 40, 60, 80, 100, 150, 200, 400) if count <= evaluations),
        logarithmic=True,
    )


def compare(
    problem: Problem, methods: Sequence[str], seeds: int, before: Mapping[str, Any], console: Console
) -> Iterator[dict[str, Any]]:
    """Let these methods search, print a table in the end, and yield the figures so far after each.

    Rows of other methods stay as they were, if they are of as many seeds and evaluations.
    """
    plan = {"population": POPULATION, "evaluations": list(problem.checkpoints), "seeds": seeds}
    comparable = {name: before.get(name) for name in plan} == plan
    rows = {row["method"]: row for row in before["rows"]} if comparable else {}
    for name in methods:
        method = METHODS[name]
        curves, proposed = [], []
        for seed in range(seeds):
            measured = Measured(problem)
            with suppress(EnoughError):
                method(problem, measured, seed)
            values = np.array(list(measured.known.values()))
            curves.append([problem.share(values[:count]) for count in problem.checkpoints])
            proposed.append(measured.proposed)
        means = np.mean(curves, 0)
        half = stats.t.ppf(0.975, seeds - 1) * np.std(curves, 0, ddof=1) / seeds**0.5
        cells = [f"{mean:.2%} ± {width:.2%}" for mean, width in zip(means, half, strict=True)]
        console.print(f"{problem.name}: {name}: {', '.join(cells)}")
        rows[name] = {
            "method": name,
            "hypervolume": means.tolist(),
            "interval": half.tolist(),
            "proposed": float(np.mean(proposed)),
            "seeds": curves,
        }
        date = datetime.now(UTC).date().isoformat()
        yield {"date": date, **plan, "rows": [rows[name] for name in METHODS if name in rows]}
    shown = Table("method", *(f"after {count}" for count in problem.checkpoints), "proposed", title=problem.name)
    for name, row in rows.items():
        cells = [f"{mean:.2%} ± {width:.2%}" for mean, width in zip(row["hypervolume"], row["interval"], strict=True)]
        shown.add_row(name, *cells, f"{row['proposed']:.0f}")
    console.print(shown)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("error, params", "error, params, macs", "lenet"), help="one problem")
    parser.add_argument("--method", action="append", choices=METHODS, help="one of them; repeatable; default all")
    parser.add_argument("--seeds", type=int, default=20, help="on the table")
    parser.add_argument("--lenet-seeds", type=int, default=3)
    parser.add_argument("--lenet-evaluations", type=int, default=80, help="per seed and method")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160)
    path = RESULTS / "front_quality.json"
    problems = json.loads(path.read_text())["problems"] if path.exists() else {}
    chosen = [(problem, options.seeds) for problem in table_problems()]
    chosen = [pair for pair in chosen if options.only in (None, pair[0].name.removeprefix("table: "))]
    if options.only in (None, "lenet"):
        chosen.append((lenet_problem(options.lenet_evaluations, console), options.lenet_seeds))
    for problem, seeds in chosen:
        before = problems.get(problem.name, {})
        for figures in compare(problem, options.method or list(METHODS), seeds, before, console):
            problems[problem.name] = figures
            write_results("front_quality", {"problems": problems})
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
