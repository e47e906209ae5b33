"""FNP on CIFAR-10 (JPEG): what do its parts contribute (Tables 8, 10, 11 and 12 of the paper), at equal size and equal tuning?

Set-up. The base network is trained once; one tenth of the training images, class-balanced, is held out as validation images.
V* is the network of the importance matrix at the paper's λ and a ratio γ; every other network of the comparison has at most
as many parameters. Variants differ in how they find the widths:

- `random` draws them; `importance matrix` is V* itself, without search;
- `ga` is FGA from random widths and `ga+im` from V*, both by validation error after a short tuning (Table 8);
- `fnp` is FGA from V* by the robust score of the frame, `fnp, B = …` with more batches (Table 10), `fnp, printed` by the score
  as the paper prints it, `fnp, closed form` by `capacity`, which needs no network.

`ga` and `ga+im` get fewer candidates (`Plan.tuned_search`) than the zero-shot searches, since each costs many times as much.
All keep the filters that the k-reciprocal neighbours choose; `fnp` is also tuned with those of k-means, L1 and chance (Table
12). Every network is fine-tuned by one recipe, `Plan.recipe`, those of Tables 11 and 12 with several seeds, and so is the base
network: what tuning alone adds is no merit of pruning. Test images are looked at once per network, at the end.

`--pictures` draws the scores of four searches with small batches (Fig. 6 and 7 of the paper) instead.

Outputs: tables on the screen, the paper's figures beside ours, and `benchmarks/results/fnp_cifar10_<network>.json`. Networks
and searches are kept in `.cache/`, so that an interrupted benchmark goes on where it stopped.

Run: `python -m benchmarks.fnp_cifar10` (about an hour on two processors; `--quick` a few minutes, to show that it runs);
`--network vgg16_cifar|resnet56|googlenet --device cuda` where there is a GPU. The images are read from the folder `EVO_DATA`.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import evo
from benchmarks.cifar10 import load_cifar10
from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from evo.algorithms.base import Algorithm
from evo.encodings.budgeted import bind_within
from evo.fitness.base import Fitness
from evo.importance import importance_matrix
from evo.network.zoo import ZOO
from evo.report.plots import plot_score_distribution, plot_scores, save_figure
from evo.training import EpochReport, Recipe, Samples, train

CACHE = ROOT / ".cache" / "fnp_cifar10"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Everything that is decided beforehand.

    Attributes:
        network: its name in the zoo.
        free: groups that FNP searches in such a network.
        gamma, lam: of the importance matrix.
        base: recipe of the base network.
        recipe: of every fine-tuning.
        search: FGA of the zero-shot searches.
        tuned_search: FGA of the searches that tune every candidate.
        tuned_fitness: how these judge.
        score_batch: images per batch of the zero-shot scores.
        seeds: of every fine-tuning.
        images: training images, None for all.
    """

    network: str
    free: tuple[str, ...]
    gamma: float
    lam: float
    base: Settings
    recipe: Settings
    search: Settings
    tuned_search: Settings
    tuned_fitness: Settings
    score_batch: int = 32
    seeds: tuple[int, ...] = (0, 1)
    images: int | None = None


AUGMENTED = {"batch_size": 128, "weight_decay": 5e-4, "shift": 4, "flip": True, "dtype": "bfloat16"}
RESNET20 = Plan(
    network="resnet20",
    free=("layer*.conv1",),
    gamma=0.7,
    lam=10,
    base={**AUGMENTED, "epochs": 20, "lr": 0.2, "schedule": "onecycle"},
    recipe={**AUGMENTED, "epochs": 2, "lr": 0.1, "schedule": "cosine"},
    search={"generations": 20, "population": 50, "parents": 10},
    tuned_search={"generations": 4, "population": 20, "parents": 5},
    tuned_fitness={"images": 1000, "batch_size": 50, "lr": 0.02, "epochs": 1, "val_images": 1000, "lam": 0.0},
)
PLANS = {
    "resnet20": RESNET20,
    "resnet56": replace(RESNET20, network="resnet56"),
    "vgg16_cifar": replace(RESNET20, network="vgg16_cifar", free=("*",), gamma=0.86, lam=0.5),
    "googlenet": replace(RESNET20, network="googlenet", free=("*",), gamma=0.95, lam=20),
}
PAPER = {
    "table 8, ResNet-50 on ImageNet": {"ga": 73.40, "ga+im": 74.44, "fnp": 74.48},
    "table 10, ResNet-50 on ImageNet": {"fnp": 74.50, "fnp, B = 4": 74.41, "fnp, B = 6": 74.20, "fnp, B = 8": 74.21},
    "table 11, ResNet-56 at γ = 0.7": {"random": 90.72, "importance matrix": 92.32, "fnp": 93.10},
    "table 12, ResNet-56": {"fnp": 93.92, "fnp, kmeans": 92.80, "fnp, l1": 93.00, "fnp, random filters": 92.50},
}


REPEATED = ("base network", "random", "importance matrix", "fnp", "fnp, kmeans", "fnp, l1", "fnp, random filters")
"""Variants that are tuned with all seeds, the others with the first: those of Tables 11 and 12."""


def quick(plan: Plan) -> Plan:
    """Return a plan that takes a few minutes and proves nothing."""
    return replace(
        plan,
        base={**plan.base, "epochs": 1},
        recipe={**plan.recipe, "epochs": 0.5},
        search={"generations": 2, "population": 6, "parents": 3},
        tuned_search={"generations": 1, "population": 4, "parents": 2},
        tuned_fitness={**plan.tuned_fitness, "images": 100, "val_images": 100},
        score_batch=8,
        seeds=(0,),
        images=2000,
    )


@dataclass
class Variant:
    """One way to find widths, and what came of it.

    Attributes:
        name: see the module's docstring.
        select: which filters stay.
        counts: kept channels per group.
        params, macs: costs.
        evaluations: candidates that were judged.
        seconds: wall time of the search; None if it was interrupted and continued.
        worker_seconds: what its evaluations took, added up.
        val, test: accuracy in [0, 1] of each seed.
    """

    name: str
    select: str
    blueprint: evo.Blueprint
    params: int
    macs: int
    evaluations: int = 0
    seconds: float | None = 0.0
    worker_seconds: float = 0.0
    val: tuple[float, ...] = ()
    test: tuple[float, ...] = ()

    def figures(self) -> Settings:
        """Return what the results file says about it."""
        shown = ("select", "params", "macs", "evaluations", "seconds", "worker_seconds", "val", "test")
        return {"widths": list(self.blueprint.counts.values()), **{name: getattr(self, name) for name in shown}}


def key_of(*parts: object) -> str:
    """Return a short name for what these parts decide."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def trained_base(plan: Plan, data: Mapping[str, Samples], device: str, console: Console) -> nn.Module:
    """Return the base network, trained now or before."""
    torch.manual_seed(0)
    model = ZOO[plan.network]()
    recipe = Recipe(**plan.base, device=device)
    name = key_of(plan.network, recipe.to_dict(), data["train"].digest)
    path = CACHE / f"base-{name}.evo"
    if not path.exists():

        def show(report: EpochReport) -> None:
            console.print(f"base network: epoch {report.epoch} of {report.epochs}, loss {report.loss:.4f}")

        torch.set_num_threads(1)
        checkpoint = CACHE / f"base-{name}.checkpoint"
        train(model, data["train"], recipe, np.random.default_rng(0), on_epoch=show, checkpoint=checkpoint)
        evo.save(model, path)
    return evo.load(path)


class Ablation:
    """Finds the widths of every variant, tunes all, and measures them."""

    def __init__(self, plan: Plan, task: evo.Task, device: str, console: Console) -> None:
        self.plan, self.task, self.device, self.console = plan, task, device, console
        network = task.network
        self.start = importance_matrix(network, plan.gamma, plan.lam, plan.free)
        self.budget = evo.Budget(params=int(network.costs.costs(self.start, ["params"])["params"]))

    def encoding(self, **changes: Any) -> evo.ChannelVector:
        """Return the encoding around V*, or as `changes` say."""
        plan = self.plan
        return evo.ChannelVector(
            **{"free": plan.free, "gamma": plan.gamma, "lam": plan.lam, "select": "knn", **changes}
        )

    def fixed(self, name: str, blueprint: evo.Blueprint, select: str = "knn") -> Variant:
        """Return a variant of known widths."""
        costs = self.task.network.cost_of(blueprint)
        return Variant(name, select, blueprint, costs["params"], costs["macs"])

    def drawn(self, name: str, seed: int) -> Variant:
        """Return random widths within the budget, nine tenths of it at least: what a person would use."""
        limits = self.budget.bind(self.task.network.costs)
        space = bind_within(self.encoding(initial="random"), self.task, (1.0,), self.budget)
        rng = evo.candidate.generator(seed, name)
        while True:
            variant = self.fixed(name, space.decode(space.initial(1, rng)[0]))
            if variant.params >= 0.9 * limits.maxima[0]:
                return variant

    def searched(self, name: str, fitness: Fitness, algorithm: Algorithm, **encoding: Any) -> Variant:
        """Return the best widths of a search, made now or before."""
        parts = [self.task.digest(), fitness.describe(), algorithm.to_dict(), encoding, self.plan.free, self.plan.gamma]
        folder = CACHE / f"search-{key_of(*parts)}"
        fresh, began = not folder.exists(), time.monotonic()
        evaluator = evo.LocalEvaluator(workers=1) if self.device != "cpu" else evo.LocalEvaluator()
        run = evo.search(
            self.task,
            encoding=self.encoding(**encoding),
            fitness=fitness,
            algorithm=algorithm,
            budget=self.budget,
            evaluator=evaluator,
            out=folder,
            reuse=False,  # its time is reported
        )
        clock = folder / "seconds.json"
        if fresh:
            clock.write_text(json.dumps(time.monotonic() - began))
        variant = self.fixed(name, run.blueprint(int(str(run.best.name))))
        measured = run.history.query("not cached")
        variant.evaluations, variant.worker_seconds = len(measured), float(measured["seconds"].sum())
        variant.seconds = json.loads(clock.read_text()) if clock.exists() else None
        taken = "resumed" if variant.seconds is None else f"{variant.seconds:.0f} s"
        self.console.print(f"{name}: {variant.params:,} parameters, {variant.evaluations} candidates, {taken}")
        return variant

    def pictures(self, folder: Path) -> list[Path]:
        """Draw the scores of a search's candidates (Fig. 6) and their distribution in four searches (Fig. 7)."""
        runs = [
            evo.search(
                self.task,
                encoding=self.encoding(),
                fitness=evo.ScoreOfFrame(batch_size=8, device=self.device),
                algorithm=evo.FGA(**self.plan.search),
                budget=self.budget,
                out=CACHE / f"pictures-{self.plan.network}-{self.plan.gamma}-{seed}",
                seed=seed,
            )
            for seed in range(4)
        ]
        return [
            save_figure(plot_scores(runs[0]), folder / f"fnp_scores_{self.plan.network}.png"),
            save_figure(plot_score_distribution(runs), folder / f"fnp_score_distribution_{self.plan.network}.png"),
        ]

    def selected(self, name: str, variant: Variant, select: str) -> Variant:
        """Return the same widths with other filters."""
        space = self.encoding(select=select).bind(self.task, (1.0,))
        return self.fixed(name, space.decode(space.encode(variant.blueprint)), select)

    def variants(self) -> list[Variant]:
        """Return all variants, untuned."""
        plan = self.plan
        zero_shot = {"batch_size": plan.score_batch, "device": self.device}
        fga, tuned_fga = evo.FGA(**plan.search), evo.FGA(**plan.tuned_search)
        tuned = evo.SubsetFineTune(**plan.tuned_fitness, device=self.device)
        start = self.encoding().bind(self.task, (1.0,))
        found = [
            self.fixed("base network", self.task.network.full),
            self.drawn("random", 0),
            self.fixed("importance matrix", start.decode(start.start)),
            self.searched("fnp", evo.ScoreOfFrame(**zero_shot), fga),
            *(self.searched(f"fnp, B = {b}", evo.ScoreOfFrame(batches=b, **zero_shot), fga) for b in (4, 8)),
            self.searched("fnp, printed", evo.ScoreOfFrame(literal=True, **zero_shot), fga),
            self.searched("fnp, closed form", evo.ZeroShot(proxy="capacity"), fga),
            self.searched("ga+im", tuned, tuned_fga),
            self.searched("ga", tuned, tuned_fga, initial="random"),
        ]
        fnp = found[3]
        names = {"kmeans": "fnp, kmeans", "l1": "fnp, l1", "random": "fnp, random filters"}
        return found + [self.selected(name, fnp, select) for select, name in names.items()]

    def tune(self, variants: Sequence[Variant]) -> None:
        """Fine-tune every variant with every seed, in parallel on processors, and measure all."""
        recipe = {**self.plan.recipe, "device": self.device}
        seeds = {v.name: self.plan.seeds if v.name in REPEATED else self.plan.seeds[:1] for v in variants}
        jobs = {
            (v.name, seed): self._path(v, seed, recipe)
            for seed in self.plan.seeds
            for v in variants
            if seed in seeds[v.name]
        }
        blueprints = {variant.name: variant.blueprint for variant in variants}
        missing = [key for key, path in jobs.items() if not path.exists()]
        workers = len(os.sched_getaffinity(0)) if self.device == "cpu" else 1
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ready) as pool:
            futures = [pool.submit(_tune, self.task, blueprints[key[0]], key[1], recipe, jobs[key]) for key in missing]
            for key, future in zip(missing, futures, strict=True):
                seconds = future.result()
                self.console.print(f"tuned {key[0]}, seed {key[1]}: {seconds:.0f} s")
        assert self.task.test is not None
        for variant in variants:
            models = [evo.load(jobs[variant.name, seed]) for seed in seeds[variant.name]]
            variant.val = tuple(1 - evo.error_rate(model, self.task.val, device=self.device) for model in models)
            variant.test = tuple(1 - evo.error_rate(model, self.task.test, device=self.device) for model in models)

    def _path(self, variant: Variant, seed: int, recipe: Settings) -> Path:
        return CACHE / f"tuned-{key_of(self.task.digest(), variant.blueprint.key, seed, recipe)}.evo"


def _ready() -> None:
    torch.set_num_threads(1)


def _tune(task: evo.Task, blueprint: evo.Blueprint, seed: int, recipe: Settings, path: Path) -> float:
    """Fine-tune one network in a worker process and save it; return the seconds it took."""
    began = time.monotonic()
    model = task.network.build(blueprint)
    checkpoint = path.with_suffix(".checkpoint")
    evo.save(evo.finetune(model, task, seed=seed, checkpoint=checkpoint, **recipe), path)
    checkpoint.unlink(missing_ok=True)
    return time.monotonic() - began


def table(variants: Sequence[Variant]) -> Table:
    """Return the comparison as a table."""
    shown = Table(title="CIFAR-10 (JPEG), accuracy in per cent: mean ± standard deviation over seeds (none: one seed)")
    for column in ("variant", "params", "MACs", "candidates", "search, s", "validation", "test", "paper"):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for variant in variants:
        printed = [_accuracy(values) for values in (variant.val, variant.test)]
        paper = ", ".join(
            f"{row[variant.name]:.2f} (T{name[6:8].strip(',')})" for name, row in PAPER.items() if variant.name in row
        )
        seconds = "" if variant.seconds is None else f"{variant.seconds:.0f}"
        shown.add_row(
            variant.name, f"{variant.params:,}", f"{variant.macs:,}", str(variant.evaluations), seconds, *printed, paper
        )
    return shown


def _accuracy(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=PLANS, default="resnet20")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pictures", action="store_true", help="draw the scores of four searches instead")
    parser.add_argument("--seeds", type=int, help="of every fine-tuning, in place of the plan's")
    parser.add_argument("--gamma", type=float, help="in place of the plan's")
    options = parser.parse_args()
    plan = PLANS[options.network]
    plan = plan if options.gamma is None else replace(plan, gamma=options.gamma)
    plan = plan if options.seeds is None else replace(plan, seeds=tuple(range(options.seeds)))
    plan = quick(plan) if options.quick else plan
    console = Console(width=160)
    CACHE.mkdir(parents=True, exist_ok=True)
    data = load_cifar10(data_folder())
    if plan.images is not None:
        data = {name: part.take(torch.arange(min(plan.images, len(part))).numpy()) for name, part in data.items()}
    base = trained_base(plan, data, options.device, console)
    task = evo.Task(base, data["train"], data["val"], test=data["test"])
    accuracy = {name: 1 - evo.error_rate(base, part) for name, part in data.items() if name != "train"}
    console.print(f"base network: {accuracy['val']:.2%} on validation images")
    ablation = Ablation(plan, task, options.device, console)
    if options.pictures:
        for path in ablation.pictures(RESULTS):
            console.print(f"written to {path}")
        return
    variants = ablation.variants()
    ablation.tune(variants)
    console.print(table(variants))
    results = {
        "data": "CIFAR-10 (JPEG)",
        "plan": plan.__dict__,
        "base": accuracy,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "variants": {variant.name: variant.figures() for variant in variants},
        "paper": PAPER,
    }
    if not options.quick:
        console.print(f"written to {write_results(f'fnp_cifar10_{options.network}', results)}")


if __name__ == "__main__":
    main()
