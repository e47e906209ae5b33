"""Does it help a search to begin with structures that the importance of filters or an earlier run suggests?

1. On 16,384 networks that were all trained (Channel-Bench-Macro, CIFAR-10; see `width_search`): FGA looks for the most accurate
   within a budget of parameters, by the accuracy of one training per network. It begins with nothing, or with up to ten of 50
   individuals from an earlier search of 200 evaluations: of another budget, smaller or larger, and there of other objectives
   (parameters and multiply-accumulates besides accuracy, by NSGA-II). Figure: the regret, how far the best that was found is
   below the best within the budget, in points of accuracy (mean of three trainings).
2. On LeNet, trained on MNIST: NSGA-II looks for cuts with little error and few parameters; error is that of the network as it
   is cut, with batch normalisation recalibrated. It begins with nothing, or with five of 20 individuals from the importance
   matrix, from OCNNA, by magnitude, or from an earlier search (as many evaluations, over channel numbers, error and
   multiply-accumulates). Figure: the hypervolume of error (up to 90 %) and of the logarithm of the parameters (down to a
   thousandth), as a share of the whole.

Every row is compared with the search of the same seed that begins with nothing; the interval is that of 95 % for the mean
difference over the seeds (Student's t). Evaluations of an earlier run are not counted: it was there anyhow. Those of
`nothing` at more evaluations tell what they would have brought.

Outputs: two tables, `benchmarks/results/seeding_table.json` and `seeding_lenet.json`. Searches are kept in `.cache/seeding`,
and what is there is not done again: an interrupted benchmark goes on where it stopped.

Run: `python -m benchmarks.seeding` (about ten minutes on one processor; `--only table` or `--only lenet` for one part).
The table and the images are read from the folder `EVO_DATA`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

import evo
from benchmarks.cifar10 import read_images
from benchmarks.common import ROOT, data_folder, write_results
from benchmarks.ecs_lenet_mnist import FULL, Workshop, load_mnist
from benchmarks.width_search import QUARTERS, SIZES, Quarters
from evo.algorithms import FGA, NSGA2
from evo.budget import Limits
from evo.encodings.base import Encoding
from evo.encodings.individual import Individual
from evo.front import hypervolume
from evo.network.zoo import channel_bench
from evo.seeding import Seed
from evo.seeds import FromImportanceMatrix, FromMagnitude, FromOCNNA, FromRun

CACHE = ROOT / ".cache" / "seeding"
HERE = evo.LocalEvaluator(workers=0)
NOTHING = "nothing"
SHARES = (0.3, 0.5, 0.7, 0.8, 0.9)
"""Of the filters or weights that fall in the five structures of a source."""

TABLE_SEEDS, TABLE_CHECKPOINTS, TABLE_POPULATION = 10, (50, 100, 200), 50
TABLE_BUDGETS = (0.3, 0.5)
EARLIER = 200

LENET_SEEDS, LENET_CHECKPOINTS, LENET_POPULATION = 3, (20, 40, 60, 100), 20
WORST = (0.9, 0.0)
"""Error, and log₁₀ of the share of the parameters, at which the hypervolume is 0; it is 1 at no error and 10⁻³ of them."""

Values = NDArray[np.float64]


class WidthsOfTable(Encoding):
    """The networks of the table: seven widths in quarters."""

    def bind(self, task: evo.Task, weights: tuple[float, ...], limits: Limits | None = None) -> "Nearest":
        """Return them."""
        return Nearest(weights)


class Nearest(Quarters):
    """Widths in quarters that also take structures of other widths."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        self._weights = weights

    def _individual(self, digits: Sequence[int] | NDArray[np.int64]) -> Individual:
        return Individual("b", [int(digit) for digit in digits], self._weights)

    def nearest(self, blueprint: evo.Blueprint) -> Individual:
        """Return the widths rounded down to quarters, or one quarter."""
        kept = np.array([blueprint.counts[name] for name, _ in SIZES])
        return self._individual(np.maximum(kept // QUARTERS, 1))


@dataclass(frozen=True)
class Case:
    """Figures of searches that differ by their seeds alone.

    Attributes:
        figures: shape (searches, checkpoints).
        reference: likewise, of the searches that begin with nothing.
    """

    figures: Values
    reference: Values

    def row(self) -> dict[str, list[float]]:
        """Return means, and mean differences with half the width of their intervals; NaN where there is no difference."""
        differences = self.figures - self.reference
        width = stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)
        return {
            "mean": self.figures.mean(0).tolist(),
            "difference": differences.mean(0).tolist(),
            "interval": width.tolist(),
        }


def digits(counts: NDArray[np.int64]) -> str:
    """Return what the benchmark calls the network with these widths."""
    return "".join(map(str, counts // QUARTERS))


class TableSearch:
    """Searches on the table of trained networks."""

    def __init__(self) -> None:
        table = pd.read_csv(data_folder() / "channel_bench_macro_resnet.csv.gz", dtype={"arch": str}).set_index("arch")
        accuracy = table["acc1"].to_dict()
        self.means, self.params = table["acc_mean"], table["params"]
        images = read_images(data_folder() / "cifar10_jpeg_train.npz", 20)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # weights are part of a task: those of an interrupted benchmark have to be the same
            self.task = evo.Task(channel_bench(), images, images)
        self.costs = self.task.network.costs

        def name(candidate: evo.Candidate) -> str:
            return digits(candidate.task.network.counts(candidate.blueprint))

        @evo.fitness(maximize="accuracy")
        def looked_up(candidate: evo.Candidate) -> dict[str, float]:
            return {"accuracy": float(accuracy[name(candidate)])}

        @evo.fitness(maximize="accuracy", minimize=("params", "macs"))
        def with_costs(candidate: evo.Candidate) -> dict[str, float]:
            return {"accuracy": float(accuracy[name(candidate)])}

        self.fitness, self.other_fitness = looked_up, with_costs

    def search(self, name: str, seed: int, budget: float, evaluations: int, seeds: Sequence[Seed] = ()) -> evo.Run:
        """Search, or return what was found."""
        algorithm = FGA(generations=99, population=TABLE_POPULATION)
        return self._search(name, seed, budget, self.fitness, algorithm, evaluations, seeds)

    def other(self, seed: int, budget: float) -> evo.Run:
        """Search with other objectives."""
        algorithm = NSGA2(generations=99, population=TABLE_POPULATION)
        return self._search("other objectives", seed, budget, self.other_fitness, algorithm, EARLIER, ())

    def _search(
        self, name: str, seed: int, budget: float, fitness: Any, algorithm: Any, evaluations: int, seeds: Sequence[Seed]
    ) -> evo.Run:
        return evo.search(
            self.task,
            encoding=WidthsOfTable(),
            fitness=fitness,
            algorithm=algorithm,
            budget=evo.Budget(params=budget),
            evaluator=HERE,
            seeds=seeds,
            out=CACHE / "table" / f"{name}, {budget}, {seed}",
            seed=seed,
            max_evaluations=evaluations,
            reuse=False,
        )

    def regrets(self, run: evo.Run, budget: float) -> list[float]:
        """Return the regret at every checkpoint, in points of accuracy."""
        most = evo.Budget(params=budget).bind(self.costs).maxima[0]
        best = self.means[self.params <= most].max()
        rows = run.history
        rows = rows[~rows["cached"]]
        found = []
        for count in TABLE_CHECKPOINTS:
            row = int(rows.index[int(rows["accuracy"].iloc[:count].to_numpy().argmax())])
            found.append(float(best - self.means[digits(run.counts(row))]))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of all cases."""
        results = []
        for budget in TABLE_BUDGETS:
            (other_budget,) = set(TABLE_BUDGETS) - {budget}
            figures: dict[str, list[list[float]]] = {}
            for seed in range(TABLE_SEEDS):
                # Another seed: what is known already must not be the very candidates that are drawn again.
                earlier = self.search("earlier", 1000 + seed, other_budget, EARLIER).folder
                others = self.other(1000 + seed, budget).folder
                cases: dict[str, Sequence[Seed]] = {
                    NOTHING: (),
                    f"front of a run within {other_budget:.0%}": [FromRun(folder=earlier)],
                    "front of it, shrunk": [FromRun(folder=earlier, shrink=True)],
                    "best of it, shrunk": [FromRun(folder=earlier, take="best", shrink=True)],
                    "front of a run with other objectives": [FromRun(folder=others)],
                    "best of it": [FromRun(folder=others, take="best")],
                }
                for name, seeds in cases.items():
                    run = self.search(name, seed, budget, TABLE_CHECKPOINTS[-1], seeds)
                    figures.setdefault(name, []).append(self.regrets(run, budget))
            reference = np.array(figures[NOTHING])
            results += [
                {"budget": budget, "seeds": name, **Case(np.array(own), reference).row()}
                for name, own in figures.items()
            ]
        return results


class LeNetSearch:
    """Searches for cuts of a trained LeNet."""

    def __init__(self, console: Console) -> None:
        plan = replace(FULL, base={"epochs": 1, "shift": 0}, train_images=20_000, val_images=2000)
        workshop = Workshop(plan, load_mnist(data_folder(), plan), console)
        self.accuracy = workshop.train_base().val
        self.task = workshop.task
        self.params = self.task.network.cost_of(self.task.network.full)["params"]

    def search(self, name: str, seed: int, seeds: Sequence[Seed] = (), *, other: bool = False) -> evo.Run:
        """Search, or return what was found; an `other` search varies channel numbers, and has other objectives."""
        return evo.search(
            self.task,
            encoding=evo.ChannelVector(initial="random") if other else evo.FilterBits(),
            fitness=evo.SubsetFineTune(
                epochs=0, images=250, val_images=500, compare_by=("error", "macs" if other else "params")
            ),
            algorithm=NSGA2(generations=99, population=LENET_POPULATION),
            evaluator=HERE,
            seeds=seeds,
            out=CACHE / "lenet" / f"{name}, {seed}",
            seed=seed,
            max_evaluations=LENET_CHECKPOINTS[-1],
            reuse=False,
        )

    def volumes(self, run: evo.Run) -> list[float]:
        """Return the share of the hypervolume at every checkpoint."""
        rows = run.history
        rows = rows[~rows["cached"]]
        points = np.column_stack([rows["error"], np.maximum(np.log10(rows["params"] / self.params), -3)])
        return [hypervolume(points[:count], np.array(WORST)) / (WORST[0] * 3) for count in LENET_CHECKPOINTS]

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of all cases."""
        figures: dict[str, list[list[float]]] = {}
        for seed in range(LENET_SEEDS):
            earlier = self.search("earlier", 1000 + seed, other=True).folder
            cases: dict[str, Sequence[Seed]] = {
                NOTHING: (),
                "importance matrix": [FromImportanceMatrix(gammas=SHARES)],
                "OCNNA": [FromOCNNA(k=tuple(100 * share for share in SHARES), images=250)],
                "magnitude": [FromMagnitude(ratios=SHARES)],
                "earlier run": [FromRun(folder=str(earlier), most=len(SHARES))],
            }
            for name, seeds in cases.items():
                figures.setdefault(name, []).append(self.volumes(self.search(name, seed, seeds)))
        reference = np.array(figures[NOTHING])
        return [
            {"network": "LeNet", "seeds": name, **Case(np.array(own), reference).row()} for name, own in figures.items()
        ]


def shown(title: str, rows: Sequence[dict[str, Any]], first: str, checkpoints: Sequence[int], scale: float) -> Table:
    """Return a table of cases."""
    table = Table(first, "seeds", *(f"after {count}" for count in checkpoints), title=title)
    for row in rows:
        cells = []
        for mean, difference, interval in zip(row["mean"], row["difference"], row["interval"], strict=True):
            compared = "" if row["seeds"] == NOTHING else f" ({scale * difference:+.2f} ± {scale * interval:.2f})"
            cells.append(f"{scale * mean:.2f}{compared}")
        value = row[first]
        table.add_row(f"{value:.0%}" if isinstance(value, float) else value, row["seeds"], *cells)
    return table


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("table", "lenet"), help="one of the two parts; default both")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160)
    if options.only != "lenet":
        rows = TableSearch().rows()
        write_results("seeding_table", {"searches": TABLE_SEEDS, "after": TABLE_CHECKPOINTS, "regret": rows})
        console.print(shown("Regret, points of accuracy", rows, "budget", TABLE_CHECKPOINTS, 1))
    if options.only != "table":
        lenet = LeNetSearch(console)
        base = {"val_accuracy": lenet.accuracy, "params": lenet.params}
        rows = lenet.rows()
        found = {"base": base, "searches": LENET_SEEDS, "after": LENET_CHECKPOINTS, "hypervolume": rows}
        write_results("seeding_lenet", found)
        console.print(shown("Share of the hypervolume, per cent", rows, "network", LENET_CHECKPOINTS, 100))


if __name__ == "__main__":
    main()
