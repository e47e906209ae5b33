"""What do the five systems make of one network, with the same data, the same counter and the same fine-tuning?

Question: how accurate is a LeNet on MNIST after each system has compressed it to a given share of its parameters, and what does
it then cost in parameters, multiply-accumulates, bytes and in the time that compressing took?

Set-up. The base network, its training, validation and test images are those of `ecs_lenet_mnist`. Every system gets the shares
`Plan.shares` as its budget of parameters and the recipe `Plan.recipe` for its one fine-tuning, with the seeds `Plan.seeds`:

- ECS and FNP search within the budget, with `Plan.evaluations` evaluations at most;
- OCNNA keeps the filters above the lowest whole percentile at which the budget is met;
- AdaLayerNet's closed form meets the budget by its γ; besides, it gives every layer 4 to 8 bits;
- synaptic pruning has no budget: it removes the connections whose efficiency is below `Plan.thresholds`. Its zeros count as
  parameters, as they do on dense hardware; `connections` tells how many weights are not 0.

"original, tuned alike" is the base network after the same fine-tuning: what that adds is no merit of pruning. Test images are
looked at once per network, and decide nothing. Seconds are processor time of the whole compression, search and fine-tuning
included, of all processes together.

Outputs: a table, `results/five_systems.json` and `results/five_systems.png`. Runs are kept in `.cache/five_systems`, so that an
interrupted benchmark goes on where it stopped; seconds are noted when a compression ends, and one that was interrupted lacks
those of before.

Run: `python -m benchmarks.five_systems` (about an hour on two processors; `--quick` a few minutes, to show that it runs).
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table
from torch import nn

import evo
from benchmarks import ecs_lenet_mnist as lenet_mnist
from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from evo.importance import ocnna_scores, structures
from evo.network.origin import origin_of
from evo.policy import AdaLayer
from evo.recipes.adalayer import adalayer
from evo.recipes.compression import Compression
from evo.recipes.ecs import ecs
from evo.recipes.fnp import fnp
from evo.recipes.ocnna import ocnna
from evo.recipes.synaptic import synaptic
from evo.report.plots import save_figure
from evo.training import Appraisal, Recipe, sparsity

CACHE = ROOT / ".cache" / "five_systems"
COSTS = ("params", "macs", "bytes")
AXES = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "bytes": "bytes",
    "seconds": "seconds of processor time",
}
ORIGINAL = "original, tuned alike"


@dataclass(frozen=True)
class Plan:
    """Everything that is decided beforehand.

    Attributes:
        shares: of the original's parameters, the budgets.
        thresholds: of synaptic pruning.
        recipe: of every fine-tuning.
        fitness: how ECS judges a candidate.
        population, evaluations: of the searches of ECS and FNP.
        images: that OCNNA and FNP look at.
        seeds: of everything random, after the base network.
        workers: processors.
        network: how the base network is trained, and on which images.
    """

    shares: tuple[float, ...]
    thresholds: tuple[float, ...]
    recipe: Recipe
    fitness: evo.SubsetFineTune
    population: int
    evaluations: int
    images: int
    seeds: tuple[int, ...]
    workers: int
    network: lenet_mnist.Plan


FULL = Plan(
    shares=(0.2, 0.05),
    thresholds=(0.3, 0.6),
    recipe=Recipe(epochs=3, lr=0.1, schedule="onecycle", shift=1),
    fitness=evo.SubsetFineTune(images=2000, batch_size=50, lr=0.05, lam=0.0, recalibrate=False, val_images=2000),
    population=20,
    evaluations=200,
    images=5000,
    seeds=(0, 1, 2),
    workers=2,
    network=lenet_mnist.FULL,
)
QUICK = replace(
    FULL,
    shares=(0.1,),
    thresholds=(0.3,),
    recipe=Recipe(epochs=1, lr=0.1, schedule="onecycle", shift=1),
    fitness=evo.SubsetFineTune(images=500, batch_size=50, lr=0.05, lam=0.0, recalibrate=False, val_images=500),
    population=6,
    evaluations=20,
    images=200,
    seeds=(0,),
    network=lenet_mnist.QUICK,
)


@dataclass(frozen=True)
class Compressed:
    """What became of the network once.

    Attributes:
        system: that did it.
        value: what it was asked for: a share of the parameters, or a threshold.
        seed: of its search and fine-tuning.
        params, macs, bytes: costs, exact.
        connections: weights that are not 0.
        val, test: accuracy in [0, 1].
        seconds: of processor time that compressing took.
    """

    system: str
    value: float
    seed: int
    params: int
    macs: int
    bytes: int
    connections: int
    val: float
    test: float
    seconds: float


Method = Callable[["Bench", float, int, Path], Compression]


class Bench:
    """Compresses one network by all systems.

    Attributes:
        plan: what is decided.
        task: network and data.
        evaluator: where searches work.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan = plan
        workshop = lenet_mnist.Workshop(plan.network, lenet_mnist.load_mnist(data_folder(), plan.network), console)
        workshop.train_base()
        self.task = workshop.task
        self.evaluator = evo.LocalEvaluator(workers=plan.workers)

    def run(self, system: str, method: Method, value: float, seed: int) -> Compressed:
        """Compress once, or read what an earlier process has noted."""
        folder = CACHE / f"{self.task.digest()[:12]}-{system}-{value}-{seed}"
        note = folder / "compressed.json"
        if note.exists():
            return Compressed(**json.loads(note.read_text()))
        start = processor_seconds()
        made = method(self, value, seed, folder)
        seconds = processor_seconds() - start
        found = self.judged(system, value, seed, made.model, seconds)
        note.write_text(json.dumps(asdict(found)))
        return found

    def judged(self, system: str, value: float, seed: int, model: nn.Module, seconds: float) -> Compressed:
        """Measure a network that is done."""
        network = self.task.network
        assert self.task.test is not None
        costs = network.cost_of(origin_of(model).blueprint or network.full)
        return Compressed(
            system,
            value,
            seed,
            **{name: int(costs[name]) for name in COSTS},
            connections=round((1 - sparsity(model)) * costs["weights"]),
            val=1 - evo.error_rate(model, self.task.val),
            test=1 - evo.error_rate(model, self.task.test),
            seconds=seconds,
        )

    def tuned_original(self, seed: int) -> Compressed:
        """Fine-tune the whole network."""
        start = processor_seconds()
        network = self.task.network
        model = evo.finetune(network.build(network.full), self.task, seed=seed, **self.plan.recipe.to_dict())
        return self.judged(ORIGINAL, 1.0, seed, model, processor_seconds() - start)


def processor_seconds() -> float:
    """Return the processor time of this process and of all that it has started and that have ended."""
    return sum(os.times()[:4])  # user and system, its own and its children's


def by_ecs(bench: Bench, share: float, seed: int, folder: Path) -> Compression:
    """Evolve filter bits within the budget."""
    plan = bench.plan
    return ecs(
        bench.task,
        encoding=evo.FilterBits(keep=(0.05, 0.7), max_fragment=0.05),
        fitness=plan.fitness,
        algorithm=evo.ECS(population=plan.population, generations=1000),
        budget=evo.Budget(params=share),
        evaluator=bench.evaluator,
        finetuning=plan.recipe,
        tries=1,
        out=folder,
        seed=seed,
        max_evaluations=plan.evaluations,
        reuse=False,
    )


def by_fnp(bench: Bench, share: float, seed: int, folder: Path) -> Compression:
    """Search channel numbers within the budget without training, choose filters by neighbours."""
    plan = bench.plan
    return fnp(
        bench.task,
        algorithm=evo.FGA(population=plan.population, generations=1000),
        budget=evo.Budget(params=share),
        evaluator=bench.evaluator,
        finetuning=plan.recipe,
        out=folder,
        seed=seed,
        max_evaluations=plan.evaluations,
        reuse=False,
    )


def by_ocnna(bench: Bench, share: float, seed: int, folder: Path) -> Compression:
    """Score the filters, and keep those above the lowest percentile with which the budget is met."""
    network = bench.task.network
    limits = evo.Budget(params=share).bind(network.costs)
    scores = ocnna_scores(network, bench.task.train, images=bench.plan.images, seed=seed)
    percentiles = range(100)
    fits = limits.fits(network.counts(structures(network, scores, percentiles)))
    return ocnna(
        bench.task,
        k=percentiles[int(np.argmax(fits))],
        images=bench.plan.images,
        evaluator=bench.evaluator,
        finetuning=bench.plan.recipe,
        out=folder,
        seed=seed,
        reuse=False,
    )


def by_adalayer(bench: Bench, share: float, seed: int, folder: Path) -> Compression:
    """Filters and bits by the closed form within the budget."""
    return adalayer(
        bench.task,
        encoding=evo.LayerPolicy(closed_form=AdaLayer(p_max=0.99)),
        budget=evo.Budget(params=share),
        evaluator=bench.evaluator,
        finetuning=bench.plan.recipe,
        out=folder,
        seed=seed,
        reuse=False,
    )


def by_synaptic(bench: Bench, threshold: float, seed: int, folder: Path) -> Compression:
    """Remove connections while the network is tuned."""
    return synaptic(
        bench.task,
        appraisal=Appraisal(threshold=threshold),
        evaluator=bench.evaluator,
        finetuning=bench.plan.recipe,
        out=folder,
        seed=seed,
        reuse=False,
    )


BUDGETED: Mapping[str, Method] = {"ECS": by_ecs, "FNP": by_fnp, "OCNNA": by_ocnna, "AdaLayerNet": by_adalayer}


def means(found: Sequence[Compressed]) -> pd.DataFrame:
    """Return a row per system and value, in their order: means over the seeds, and of the test accuracy the deviation too."""
    frame = pd.DataFrame([asdict(one) for one in found])
    groups = frame.groupby(["system", "value"], sort=False)
    table = groups[[*COSTS, "connections", "val", "test", "seconds"]].mean()
    table["deviation"] = groups["test"].std(ddof=1)
    return table.reset_index()


def print_table(table: pd.DataFrame, console: Console) -> None:
    """Print it, costs as shares of the first row's."""
    shown = Table(title="LeNet on MNIST, five systems", title_justify="left")
    for heading in ("system", "asked for", "parameters", "MACs", "bytes", "weights ≠ 0", "test accuracy", "seconds"):
        shown.add_column(heading, justify="left" if heading == "system" else "right")
    original = table.iloc[0]
    for _, row in table.iterrows():
        costs = [f"{row[name]:,.0f} ({row[name] / original[name]:.1%})" for name in (*COSTS, "connections")]
        spread = "" if np.isnan(row["deviation"]) else f" ± {row['deviation']:.2%}"
        shown.add_row(row["system"], f"{row['value']:g}", *costs, f"{row['test']:.2%}{spread}", f"{row['seconds']:.0f}")
    console.print(shown)


def picture(table: pd.DataFrame) -> Figure:
    """Draw accuracy against everything that it costs."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, (column, label) in zip(panels, AXES.items(), strict=True):
        for number, (system, rows) in enumerate(table.groupby("system", sort=False)):
            rows = rows.sort_values(column)
            colour = "0.4" if system == ORIGINAL else f"C{number - 1}"
            axes.errorbar(
                rows[column],
                100 * rows["test"],
                100 * rows["deviation"].fillna(0),
                color=colour,
                marker="s" if system == ORIGINAL else "o",
                markersize=5,
                linewidth=1.2,
                capsize=2,
                label=system,
            )
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("test accuracy, %")
    panels[-1].legend(frameon=False, fontsize="small")
    return figure


def main() -> None:
    """Compress, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes, to show that it runs; writes no results")
    quick = parser.parse_args().quick
    plan, console = (QUICK if quick else FULL), Console(width=150)
    bench = Bench(plan, console)
    jobs = [(system, method, share) for system, method in BUDGETED.items() for share in plan.shares]
    jobs += [("synaptic pruning", by_synaptic, threshold) for threshold in plan.thresholds]
    found = [bench.tuned_original(seed) for seed in plan.seeds]
    for system, method, value in jobs:
        for seed in plan.seeds:
            found.append(bench.run(system, method, value, seed))
            console.print(f"{system}, {value:g}, seed {seed}: {found[-1].test:.2%} in {found[-1].seconds:.0f} s")
    table = means(found)
    print_table(table, console)
    drawn = picture(table)
    if quick:
        save_figure(drawn, CACHE / "quick.png")
        return
    settings = {"recipe": plan.recipe.to_dict(), "fitness": plan.fitness.to_dict(), "evaluations": plan.evaluations}
    write_results("five_systems", {**settings, "networks": [asdict(one) for one in found]})
    save_figure(drawn, RESULTS / "five_systems.png")


if __name__ == "__main__":
    main()
