"""Does a search driven by a zero-shot score find the networks that are really good? On 16,384 networks that were all trained.

Set-up. Channel-Bench-Macro gives the accuracy (mean of three trainings on CIFAR-10) of every combination of seven widths of a
ResNet, each one to four quarters of the full one. Under a budget of parameters, searches look for the best: FGA, and random
search, driven by a score that costs no training. After 50, 200 and 1,000 candidates, the accuracy of the best-scored one is
compared with that of the best network within the budget: the difference is the regret, in points of accuracy. `nothing` takes
random networks without any score; `one training` is what a whole training of every candidate would give, whose noise is that
of the table.

Scores: `capacity` (closed form), `macs`, `params`, `log_weights`, and `sof`, the robust score of the frame, with random weights
and real images, for 200 candidates. Means over seeds, with standard errors.

Outputs: a table and `benchmarks/results/width_search.json`. Scores of networks are kept in `.cache/`.

Run: `python -m benchmarks.width_search` (about ten minutes on two processors; `--quick` leaves out `sof`).
The table and the images are read from the folder `EVO_DATA`.
"""

import argparse
import functools
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import evo
from benchmarks.cifar10 import batches, read_images
from benchmarks.common import ROOT, data_folder, write_results
from evo.algorithms import FGA, RandomSearch
from evo.algorithms.base import Algorithm
from evo.encodings.base import GenomeSpace
from evo.encodings.budgeted import Budgeted
from evo.encodings.individual import Individual
from evo.fitness.base import Objective
from evo.fitness.proxies import score
from evo.network.costs import RESOLUTION
from evo.network.zoo import channel_bench

CACHE = ROOT / ".cache" / "width_search.json"
QUARTERS = np.array([64, 64, 64, 128, 128, 128, 128])
BUDGETS = (0.2, 0.3, 0.5)
CHECKPOINTS = (50, 200, 1000)
POPULATION = 50
BATCH = 4

RESOLUTIONS = {"capacity": RESOLUTION, "log_weights": 0.0}
"""Of `CostModel.capacity`; without any, all layers count alike."""

Scores = Callable[[list[str]], dict[str, float]]
"""Returns the score of every architecture, seven digits each."""


class Quarters(GenomeSpace):
    """Seven digits from 1 to 4, the benchmark's own names of its networks; typecode "b"."""

    size = 7

    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Draw digits evenly."""
        return [self._individual(digits) for digits in rng.integers(1, 5, (count, 7))]

    def _individual(self, digits: Sequence[int] | NDArray[np.int64]) -> Individual:
        return Individual("b", [int(digit) for digit in digits], (1.0,))

    def counts(self, individual: Individual) -> NDArray[np.int64]:
        """Return the widths, which are the kept channels of the widest network."""
        return np.asarray(np.array(individual, dtype=np.int64) * QUARTERS)

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        """Draw one digit anew, and every other with probability 0.1."""
        changed = rng.random(7) < 0.1
        changed[rng.integers(7)] = True
        for index in np.flatnonzero(changed):
            others = [digit for digit in range(1, 5) if digit != individual[index]]
            individual[index] = int(rng.choice(others))
        return (individual,)

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        """Swap every digit with probability one half."""
        for index in np.flatnonzero(rng.random(7) < 0.5):
            first[index], second[index] = second[index], first[index]
        return first, second

    def repair(self, individual: Individual) -> Individual:
        """Every combination is legal."""
        return individual

    def decode(self, individual: Individual) -> evo.Blueprint:
        """Keep the first channels of every group."""
        counts = zip(SIZES, self.counts(individual), strict=True)
        return evo.Blueprint.from_masks({name: np.arange(size) < kept for (name, size), kept in counts})

    def encode(self, blueprint: evo.Blueprint) -> Individual:
        """Return the digits of a structure."""
        kept = np.array([blueprint.counts[name] for name, _ in SIZES])
        return self._individual(kept // QUARTERS)

    def pack(self, individual: Individual) -> bytes:
        """Return a digit per byte."""
        return individual.tobytes()

    def unpack(self, packed: bytes) -> Individual:
        """Return what `pack` packed."""
        return self._individual(list(packed))


NETWORK = evo.Network.analyse(channel_bench(), torch.zeros(1, 3, 32, 32))
SIZES = [(group.name, group.size) for group in NETWORK.groups]


def name_of(individual: Individual) -> str:
    """Return what the benchmark calls a network."""
    return "".join(map(str, individual))


def closed_form(name: str) -> Scores:
    """Return a score that needs only the widths."""

    def of(names: list[str]) -> dict[str, float]:
        counts = np.array([[int(digit) for digit in text] for text in names]) * QUARTERS
        costs = NETWORK.costs
        if name in RESOLUTIONS:
            values = costs.capacity(counts, RESOLUTIONS[name])
        else:
            values = costs.costs(counts, [name])[name].astype(float)
        return dict(zip(names, map(float, values), strict=True))

    return of


@functools.cache
def _images() -> Any:
    torch.set_num_threads(1)
    return batches(read_images(data_folder() / "cifar10_jpeg_train.npz", 2 * BATCH), BATCH, 2, 0)


def _gradient_score(name: str) -> float:
    torch.manual_seed(0)
    model = channel_bench([int(digit) * int(width) for digit, width in zip(name, QUARTERS, strict=True)])
    return score(model.to(memory_format=torch.channels_last), _images(), "sof")  # type: ignore[call-overload]


class Measured:
    """The score of the frame of any network, computed once, by two processes."""

    def __init__(self) -> None:
        self._known: dict[str, float] = json.loads(CACHE.read_text()) if CACHE.exists() else {}
        self._pool = ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=multiprocessing.get_context("spawn"))

    def __call__(self, names: list[str]) -> dict[str, float]:
        """Return the scores; those that are new are on disk afterwards."""
        missing = [name for name in names if name not in self._known]
        self._known |= dict(zip(missing, self._pool.map(_gradient_score, missing), strict=True))
        if missing:
            CACHE.parent.mkdir(parents=True, exist_ok=True)
            CACHE.write_text(json.dumps(self._known))
        return {name: self._known[name] for name in names}


def regrets(algorithm: Algorithm, scores: Scores, table: pd.DataFrame, budget: float, seed: int) -> list[float]:
    """Return the regret after the numbers of candidates of `CHECKPOINTS` that the search gets to, in points of accuracy."""
    limits = evo.Budget(params=budget).bind(NETWORK.costs)
    accuracy = table["acc_mean"]
    best = accuracy[table["params"] <= limits.maxima[0]].max()
    algorithm = algorithm.model_copy()
    algorithm.start(Budgeted(Quarters(), limits), [Objective("score", True)], seed)
    seen: list[tuple[float, str]] = []
    while (asked := algorithm.ask()) is not None:
        names = [name_of(individual) for individual in asked]
        values = scores(list(dict.fromkeys(names)))
        for individual, name in zip(asked, names, strict=True):
            individual.fitness.values = (values[name],)
            seen.append((values[name], name))
        algorithm.tell(asked)
    return [float(best - accuracy[max(seen[:count])[1]]) for count in CHECKPOINTS if count <= len(seen)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the score that needs networks")
    parser.add_argument("--seeds", type=int, default=10, help="of the closed forms")
    parser.add_argument("--sof-seeds", type=int, default=2)
    options = parser.parse_args()
    table = pd.read_csv(data_folder() / "channel_bench_macro_resnet.csv.gz", dtype={"arch": str}).set_index("arch")
    rng = np.random.default_rng(0)
    chance = dict(zip(table.index, rng.random(len(table)), strict=True))
    training = table["acc1"].to_dict()
    scores: dict[str, Scores] = {name: closed_form(name) for name in ("capacity", "log_weights", "macs", "params")}
    scores["nothing"] = lambda names: {name: chance[name] for name in names}
    scores["one training"] = lambda names: {name: training[name] for name in names}
    if not options.quick:
        scores["sof"] = Measured()
    evolution = FGA(generations=CHECKPOINTS[-1] // POPULATION - 1, population=POPULATION)
    searches: dict[str, Algorithm] = {
        "FGA": evolution,
        "random search": RandomSearch(evaluations=CHECKPOINTS[-1], batch=POPULATION),
    }
    console = Console(width=140)
    results = []
    shown = Table(
        "budget", "search", "score", *(f"after {count:,}" for count in CHECKPOINTS), title="Regret, points of accuracy"
    )
    for budget in BUDGETS:
        for search, algorithm in searches.items():
            for name, of in scores.items():
                seeds = options.sof_seeds if name == "sof" else options.seeds
                if name == "sof" and search == "random search":
                    continue  # 1,000 more networks per seed to score, for a row that says the least
                used = (
                    algorithm
                    if name != "sof"
                    else FGA(generations=CHECKPOINTS[1] // POPULATION - 1, population=POPULATION)
                )
                runs = [regrets(used, of, table, budget, seed) for seed in range(seeds)]
                columns = list(zip(*runs, strict=True))
                means = [statistics.fmean(column) for column in columns]
                errors = [statistics.stdev(column) / len(column) ** 0.5 for column in columns]
                shown.add_row(
                    f"{budget:.0%}", search, name, *(f"{m:.2f} ± {e:.2f}" for m, e in zip(means, errors, strict=True))
                )
                results.append(
                    {"budget": budget, "search": search, "score": name, "seeds": seeds, "after": CHECKPOINTS}
                    | {"regret": means, "standard_error": errors}
                )
                console.print(results[-1])
    console.print(shown)
    if not options.quick:
        console.print(f"written to {write_results('width_search', {'rows': results})}")


if __name__ == "__main__":
    main()
