"""Does a cascade of fidelities reach the quality of a search by the last of them alone in a quarter of its time?

Set-up. NSGA-II over filter bits (ResNet-20: channel numbers) for the error on held-out training images and parameters, both
minimised, or FGA for the error. Every variant has the same encoding, last fidelity and seeds; they differ in what judges
before the last fidelity and in the shares that it promotes (`Plan.ladders`): a closed form of the widths, the network cut
with its batch-norm statistics recomputed, a short tuning, and the last, which is a long one. A cascade has larger
populations, of which it judges few by the last fidelity, or more generations, which are shorter.

`--goal front`: quality is the hypervolume of the front found so far, over the error (up to `Plan.worst`) and the logarithm of
the share of parameters (down to 1/1000), as a share of the whole rectangle. `--goal error`: FGA for the error alone, within a
budget of 5 % of the parameters; quality is 1 − the lowest error found so far. Only what the last fidelity has judged counts.

Time is processor time. On a machine that is busy otherwise the wall time of an evaluation says little, so the processor
time of every fidelity is measured apart: the same structures by each fidelity in turn, in one process on one thread, and a
line fitted over their multiply-accumulates. An evaluation of a search counts what that line says of its structure.

Outputs: a table on the screen, `benchmarks/results/cascade_<network>_<goal>.json` (with other seeds than the plan's, these are
in the name) and a picture beside it. Networks and searches are kept in `.cache/`, so that an interrupted benchmark goes on
where it stopped.

Run: `python -m benchmarks.cascade` (LeNet on MNIST; `--quick` takes a minute or two, to show that it runs), or with
`--network resnet20` (CIFAR-10, JPEG; the base network of `ocnna_accuracy`). Data are read from the folder `EVO_DATA`
(default: `../shared/data` beside this repository).
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import evo
from benchmarks import ecs_lenet_mnist
from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from benchmarks.ocnna_accuracy import task_of
from evo.algorithms import Algorithm
from evo.encodings.base import Encoding
from evo.evaluation import Job, Screening, evaluate
from evo.fitness.base import Fitness
from evo.report.plots import save_figure

CACHE = ROOT / ".cache" / "cascade"
SMALLEST = 1e-3
"""Share of parameters at which the hypervolume ends."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Ladder:
    """What judges before the last fidelity: name and settings of each.

    Attributes:
        promote: the shares that they promote, as a cascade. None: searches one after the other, of which every later one
            begins with the front of the one before.
        wider: how many times as large a population is.
        generations: in place of the plan's.
    """

    before: tuple[Settings, ...] = ()
    promote: tuple[float, ...] | None = ()
    wider: int = 1
    generations: int | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that is decided beforehand.

    Attributes:
        encoding: how genomes become networks.
        last: of the last fidelity.
        ladders: the variants by name; the first has one fidelity, and is what the others are compared with.
        population, generations: of the search by the last fidelity alone.
        worst: error at which the hypervolume ends.
        seeds: of every variant.
        timed: structures whose processor time is measured by every fidelity.
        goal: front or error.
        budget: share of the parameters that no candidate exceeds, if the error alone is the goal.
    """

    encoding: Encoding
    last: Settings
    ladders: dict[str, Ladder]
    population: int
    generations: int
    worst: float
    seeds: tuple[int, ...] = (0, 1, 2)
    timed: int = 24
    goal: str = "front"
    budget: float = 0.05


TUNING = {"batch_size": 50, "lr": 0.05, "compare_by": ("error", "params")}
COUNTS = {"name": "zero_shot", "proxy": "capacity"}


def ladders(untuned: Settings, tuned: Settings) -> dict[str, Ladder]:
    """Return the variants, given the settings of a fidelity that only recalibrates and of one that tunes shortly."""
    cut = {"name": "subset_finetune", "epochs": 0, **untuned}
    short = {"name": "subset_finetune", **tuned}
    return {
        "long tuning alone": Ladder(),
        "capacity 1/4, short 1/4": Ladder((COUNTS, short), (0.25, 0.25), 4),
        "capacity 1/4, short 1/8": Ladder((COUNTS, short), (0.25, 0.125), 4, generations=16),
        "capacity 1/2, untuned 1/2, short 1/4": Ladder((COUNTS, cut, short), (0.5, 0.5, 0.25), 4),
        "a search by short, then its front": Ladder((short,), None),
    }


LENET = Plan(
    encoding=evo.FilterBits(initial="sparse", keep=(0.05, 0.5), max_fragment=0.05),
    last={**TUNING, "images": 6000, "val_images": 2000},
    ladders=ladders({**TUNING, "images": 100, "val_images": 250}, {**TUNING, "images": 300, "val_images": 500}),
    population=16,
    generations=8,
    worst=0.4,
)
RESNET20 = Plan(
    encoding=evo.ChannelVector(free=("layer*.conv1",), gamma=0.7, lam=10, initial="random", select="knn"),
    last={**TUNING, "lr": 0.02, "images": 2000, "val_images": 1000},
    # Chosen, of 21, in searches of a Gaussian process for the error, fitted to the 128 networks that searches of seed 0 had
    # tuned by then: what a generation promotes to the last fidelity should not be fewer than four, and the closed form, which
    # ranks widths well and costs nothing, can choose them from many.
    ladders={
        "long tuning alone": Ladder(),
        "capacity 1/48, short 1/2": Ladder(
            (COUNTS, {"name": "subset_finetune", **TUNING, "lr": 0.02, "images": 100, "val_images": 250}),
            (1 / 48, 0.5),
            32,
            generations=4,
        ),
    },
    population=12,
    generations=6,
    worst=0.8,
)
PLANS = {"lenet": LENET, "resnet20": RESNET20}


def quick(plan: Plan) -> Plan:
    """Return a plan that takes a minute or two and proves nothing."""
    last = {**plan.last, "images": 100, "val_images": 100}
    ladders = {name: replace(ladder, generations=None) for name, ladder in plan.ladders.items()}
    return replace(plan, last=last, ladders=ladders, population=8, generations=2, seeds=(0,), timed=4)


def make_task(network: str, *, is_quick: bool, console: Console) -> evo.Task:
    """Return the trained base network with its data."""
    if network != "lenet":
        return task_of(network, console, small=is_quick)
    base: Settings = {"epochs": 2, "dtype": "float32", "shift": 0}
    plan = replace(ecs_lenet_mnist.QUICK if is_quick else ecs_lenet_mnist.FULL, base=base)
    ecs_lenet_mnist.CACHE.mkdir(parents=True, exist_ok=True)
    workshop = ecs_lenet_mnist.Workshop(plan, ecs_lenet_mnist.load_mnist(data_folder(), plan), console)
    workshop.train_base()
    return workshop.task


def fitnesses(ladder: Ladder, last: Settings) -> list[Fitness]:
    """Return the fitness of every search of a variant, one after the other."""
    final = evo.SubsetFineTune(**last)
    kinds: dict[str, Callable[..., Fitness]] = {"zero_shot": evo.ZeroShot, "subset_finetune": evo.SubsetFineTune}
    before = [kinds[one["name"]](**{name: one[name] for name in one if name != "name"}) for one in ladder.before]
    if ladder.promote is None:
        return [*before, final]
    return [evo.Cascade([*before, final], promote=ladder.promote) if before else final]


def searches(plan: Plan, task: evo.Task, name: str, seed: int, console: Console) -> list[evo.Run]:
    """Run or continue the searches of a variant."""
    ladder = plan.ladders[name]
    runs: list[evo.Run] = []
    every = fitnesses(ladder, plan.last)
    for place, fitness in enumerate(every):
        # Of several searches the last measures its first population, the front of the one before, and one more.
        shortened = place == len(every) - 1 and place > 0
        generations = 2 if shortened else ladder.generations or plan.generations
        sizes = {"generations": generations, "population": plan.population * ladder.wider}
        front = plan.goal == "front"
        algorithm: Algorithm = evo.NSGA2(**sizes) if front else evo.FGA(**sizes, parents=5)
        take: Literal["front", "best"] = "front" if front else "best"
        seeds = [evo.seeds.FromRun(folder=run.folder, most=plan.population, take=take) for run in runs[-1:]]
        budget = None if front else evo.Budget(params=plan.budget)
        parts: list[Any] = [task.digest(), plan.encoding.to_dict(), fitness.describe()]
        parts += [type(algorithm).__name__, algorithm.to_dict(), *(one.to_dict() for one in seeds)]
        parts += [] if budget is None else [budget.to_dict()]
        digest = hashlib.sha256(json.dumps([*parts, seed], sort_keys=True).encode()).hexdigest()[:12]
        run = evo.search(
            task,
            encoding=plan.encoding,
            fitness=fitness,
            algorithm=algorithm,
            budget=budget,
            evaluator=evo.LocalEvaluator(workers=0),
            seeds=seeds,
            out=CACHE / digest,
            seed=seed,
            reuse=False,
        )
        console.print(f"{name}, seed {seed}: {len(run.history)} individuals in {run.folder.name}", highlight=False)
        runs.append(run)
    return runs


class Clock:
    """The processor time of every fidelity as a line over the multiply-accumulates of a structure.

    Attributes:
        lines: by ladder, slope and seconds at 0 of each of its fidelities.
    """

    def __init__(self, plan: Plan, task: evo.Task, run: evo.Run) -> None:
        """Measure some structures of a run by all fidelities of all ladders."""
        torch.set_num_threads(1)
        good = run.history.query("status == 'ok' and not cached")
        rows = good.iloc[np.linspace(0, len(good) - 1, plan.timed).astype(int)]
        structures = [run.blueprint(int(str(row))) for row in rows.index]
        macs = rows["macs"].to_numpy(dtype=float)
        self.lines: dict[str, list[tuple[float, float]]] = {}
        known: dict[str, tuple[float, float]] = {}
        for name, ladder in plan.ladders.items():
            every = fitnesses(ladder, plan.last)
            self.lines[name] = []
            for place in range(len(ladder.before) + 1):
                fitness = every[min(place, len(every) - 1)]
                job = Job(task, fitness, run.settings["seed"], 1, None)
                one = fitness.fidelities[place] if isinstance(fitness, evo.Cascade) else fitness
                key = json.dumps(one.describe(), sort_keys=True)
                if key not in known:
                    screens = isinstance(fitness, evo.Cascade) and place < len(ladder.before)
                    work = [Screening(each, place) if screens else each for each in structures]
                    evaluate(job, work[0])  # warms up
                    seconds = []
                    for each in work:
                        began = time.process_time()
                        assert evaluate(job, each).status == "ok"
                        seconds.append(time.process_time() - began)
                    slope, start = np.polyfit(macs, seconds, 1)
                    known[key] = (float(slope), float(start))
                self.lines[name].append(known[key])

    def seconds(self, name: str, fidelity: int, macs: "pd.Series[float]") -> "pd.Series[float]":
        """Return what evaluations by a fidelity, from 1, took; at least a microsecond each."""
        slope, start = self.lines[name][fidelity - 1]
        return (slope * macs + start).clip(lower=1e-6)


@dataclass(frozen=True)
class Course:
    """How a search went.

    Attributes:
        name, seed: of the variant.
        seconds: processor time after every evaluation by the last fidelity, (N,).
        quality: hypervolume by then, or 1 − the lowest error, in [0, 1], (N,).
        fidelities: `Run.fidelities` with a column `cpu_seconds`, their sum.
    """

    name: str
    seed: int
    seconds: NDArray[np.float64]
    quality: NDArray[np.float64]
    fidelities: pd.DataFrame

    def time_to(self, quality: float) -> float | None:
        """Return when it was that good; None if never."""
        reached = np.flatnonzero(self.quality >= quality)
        return float(self.seconds[reached[0]]) if len(reached) else None

    @cached_property
    def figures(self) -> Settings:
        """What the results file says of it."""
        return {
            "seed": self.seed,
            "evaluations": self.fidelities["evaluations"].tolist(),
            "cpu_seconds": float(self.seconds[-1]),
            "quality": float(self.quality[-1]),
            "course": [self.seconds.round(3).tolist(), self.quality.round(5).tolist()],
            "fidelities": json.loads(self.fidelities.to_json(orient="records")),
        }


def course(plan: Plan, clock: Clock, name: str, seed: int, runs: Sequence[evo.Run]) -> Course:
    """Return how the quality of the last run, which those before it led to, grew with the time of all."""
    columns = ["fidelity", "key", "finished", "error", "params", "macs"]
    parts, tables = [], []
    for place, run in enumerate(runs, 1):
        history, fidelities = run.history, run.fidelities
        macs = history.drop_duplicates("key").set_index("key")["macs"]
        judged = history[history["tries"] > 0].assign(fidelity=place - 1 + len(fidelities))
        screenings = run.screenings.reindex(columns=columns)
        screenings["macs"] = screenings["key"].map(macs)
        parts.append(pd.concat([screenings, judged[columns]]).sort_values("finished", kind="stable"))
        tables.append(fidelities.set_axis(fidelities.index + place - 1))
    last = len(plan.ladders[name].before) + 1
    run = runs[-1]
    events = pd.concat(parts)
    taken = pd.Series(0.0, index=range(len(events)))
    events = events.reset_index(drop=True)
    for fidelity, part in events.groupby("fidelity"):
        taken[part.index] = clock.seconds(name, int(str(fidelity)), part["macs"].astype(float)).to_numpy()
    full = events["fidelity"] == last
    error = events.loc[full, "error"].to_numpy(dtype=float)
    quality: NDArray[np.float64]
    if plan.goal == "front":
        whole = float(run.costs.costs(run.costs.sizes)["params"])
        share = events.loc[full, "params"].to_numpy(dtype=float) / whole
        quality = growth(np.stack([error / plan.worst, 1 - np.log(share) / np.log(SMALLEST)], axis=1))
    else:
        quality = np.maximum.accumulate(1 - error).astype(np.float64)
    table = pd.concat(tables).rename_axis("fidelity").assign(cpu_seconds=taken.groupby(events["fidelity"]).sum())
    seconds = np.asarray(taken.cumsum()[full], dtype=np.float64)
    return Course(name, seed, seconds, quality, table.reset_index())


def growth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area of the unit square that the first n of the points, both numbers minimised, dominate, for every n."""
    volumes, front = [], np.empty((0, 2))
    for point in points.clip(0, 1):
        front = np.concatenate([front, point[None]])
        front = front[np.lexsort((front[:, 1], front[:, 0]))]
        lowest = np.minimum.accumulate(front[:, 1])
        front = front[np.append(True, lowest[1:] < lowest[:-1])]
        heights = np.append(1.0, front[:-1, 1]) - front[:, 1]
        volumes.append(float(((1 - front[:, 0]) * heights).sum()))
    return np.array(volumes)


def compare(courses: Sequence[Course], reference: Sequence[Course]) -> Settings:
    """Return what came of the seeds of a variant, beside the same seeds of the search by one fidelity."""
    shares = []
    for one, other in zip(courses, reference, strict=True):
        reached = one.time_to(other.quality[-1])
        shares.append(None if reached is None else reached / other.seconds[-1])
    return {"share_of_time": shares, "runs": [one.figures for one in courses]}


def table(plan: Plan, found: Mapping[str, Settings]) -> Table:
    """Return the comparison as a table."""
    shown = Table(title=f"quality ({plan.goal}), and the time until that of the single fidelity's end")
    for column in ("variant", "quality", "CPU seconds", "share of its time, by seed"):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for name, values in found.items():
        runs = values["runs"]
        shares = ", ".join("never" if share is None else f"{share:.2f}" for share in values["share_of_time"])
        volumes = ", ".join(f"{run['quality']:.4f}" for run in runs)
        shown.add_row(name, volumes, ", ".join(f"{run['cpu_seconds']:.1f}" for run in runs), shares)
    return shown


def fidelity_table(found: Mapping[str, Settings]) -> Table:
    """Return what every fidelity cost and how it ranked, over all seeds."""
    shown = Table(title="fidelities, means over seeds")
    for column in ("variant", "fidelity", "evaluations", "CPU ms each", "share of CPU time", "Spearman", "Kendall"):
        shown.add_column(column, justify="left" if column in ("variant", "fidelity") else "right")
    for name, values in found.items():
        frame = pd.concat([pd.DataFrame(run["fidelities"]) for run in values["runs"]])
        whole = frame["cpu_seconds"].sum()
        for place, part in frame.groupby("fidelity"):
            cost = part["cpu_seconds"].sum()
            agreement = [part[column].astype(float).mean() for column in ("spearman", "kendall")]
            shown.add_row(
                name,
                f"{place} {part['name'].iloc[0]}",
                f"{part['evaluations'].mean():.0f}",
                f"{1000 * cost / part['evaluations'].sum():.1f}",
                f"{cost / whole:.0%}",
                *("" if np.isnan(value) else f"{value:.2f}" for value in agreement),
            )
    return shown


def picture(courses: Mapping[str, Sequence[Course]]) -> Figure:
    """Draw the quality over the time, a line per seed."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, several) in enumerate(courses.items()):
        for one in several:
            label = name if one is several[0] else None
            axes.step(one.seconds, one.quality, where="post", color=f"C{number}", linewidth=1.2, label=label)
    lowest = min(one.quality[min(5, len(one.quality) - 1)] for several in courses.values() for one in several)
    axes.set(xscale="log", xlabel="processor time, s", ylabel="quality", ylim=(lowest, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=PLANS, default="lenet")
    parser.add_argument("--goal", choices=("front", "error"), default="front")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", help="of every variant, in place of the plan's")
    parser.add_argument(
        "--ladder", action="append", help="a variant beside the single fidelity; repeatable; default all"
    )
    options = parser.parse_args()
    plan = PLANS[options.network]
    plan = replace(plan, seeds=tuple(options.seeds or plan.seeds))
    if options.ladder:
        if unknown := {*options.ladder} - {*plan.ladders}:
            parser.error(f"--ladder: no {', '.join(sorted(unknown))}; there are {', '.join(plan.ladders)}")
        first = next(iter(plan.ladders))
        plan = replace(plan, ladders={name: plan.ladders[name] for name in (first, *options.ladder)})
    plan = replace(plan, goal=options.goal)
    plan = quick(plan) if options.quick else plan
    console = Console(width=160)
    task = make_task(options.network, is_quick=options.quick, console=console)
    runs = {(name, seed): searches(plan, task, name, seed, console) for seed in plan.seeds for name in plan.ladders}
    first = next(iter(plan.ladders))
    clock = Clock(plan, task, runs[first, plan.seeds[0]][-1])
    courses = {
        name: [course(plan, clock, name, seed, runs[name, seed]) for seed in plan.seeds] for name in plan.ladders
    }
    found = {name: compare(several, courses[first]) for name, several in courses.items()}
    console.print(table(plan, found))
    console.print(fidelity_table(found))
    if options.quick:
        return
    name = f"cascade_{options.network}_{plan.goal}"
    if plan.seeds != PLANS[options.network].seeds:
        name += f"_seeds_{'_'.join(map(str, plan.seeds))}"
    decided = {**asdict(plan), "encoding": plan.encoding.to_dict()}
    decided["ladders"] = {name: asdict(ladder) for name, ladder in plan.ladders.items()}
    results = {"network": options.network, "plan": decided, "lines": clock.lines, "variants": found}
    console.print(f"written to {write_results(name, results)}")
    console.print(f"written to {save_figure(picture(courses), RESULTS / f'{name}.png')}")


if __name__ == "__main__":
    main()
