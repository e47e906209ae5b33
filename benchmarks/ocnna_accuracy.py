"""Do the filters that OCNNA keeps serve better than others, and what does its percentile k do (Fig. 3 of the paper)?

Set-up. LeNet on MNIST and ResNet-20 on CIFAR-10 (JPEG), the base network of `ecs_lenet_mnist` and one trained like that
of `fnp_cifar10`, on 12,000 images and for fewer epochs.
`ocnna` scores all filters on 5,000 class-balanced training images. For every percentile of `Plan.sensitivity` the structure
is measured as it is cut, without training, with batch normalisation recalibrated. For the percentiles of `Plan.compared`,
structures with as many filters in every layer, hence with exactly the same remaining parameters, keep those that L1, the
k-reciprocal neighbours and chance choose; all are fine-tuned by one recipe with several seeds (chance: another choice for each
seed), and so is the base network: what tuning alone adds is no merit of pruning. Test images decide nothing.

Outputs: tables, a picture of the sensitivity, and `results/ocnna_accuracy_<network>.json`. Every finished training is kept in
`.cache/`: an interrupted benchmark goes on where it stopped.

Run: `python -m benchmarks.ocnna_accuracy` (ResNet-20 takes half an hour of one processor; `--quick` a few minutes, to show
that it runs); `--network lenet|resnet20` for one of them. The images are read from the folder `EVO_DATA`.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

import evo
from benchmarks import ecs_lenet_mnist, fnp_cifar10
from benchmarks.cifar10 import load_cifar10
from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from benchmarks.fnp_cifar10 import key_of
from evo.importance import FilterSelection
from evo.recipes.ocnna import OcnnaCompression, ocnna
from evo.report.ocnna import plot_sensitivity
from evo.report.plots import save_figure
from evo.training import Recipe

CACHE = ROOT / ".cache" / "ocnna_accuracy"
PAPER = {
    "network": "ResNet-50 on ImageNet",
    "original": 0.754,
    "k = 40": 0.7443,
    "k = 50": 0.4631,
    "rpr at k = 40": 0.3744,
}
"""What the paper prints of its sensitivity study (section 5, Fig. 3)."""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided beforehand.

    Attributes:
        recipe: of every fine-tuning.
        sensitivity: percentiles that are measured as they are cut; the paper has 10 to 75.
        compared: percentiles at which methods are compared after fine-tuning.
        methods: of the comparison.
        seeds: of every fine-tuning.
        images: that the importance is computed on.
    """

    recipe: dict[str, Any]
    sensitivity: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 75)
    compared: tuple[float, ...] = (40, 60, 75)
    methods: tuple[str, ...] = ("ocnna", "l1", "knn", "random")
    seeds: tuple[int, ...] = (0, 1, 2)
    images: int = 5000


LENET = {**ecs_lenet_mnist.FULL.recipe, "epochs": 4}
# A share of the images and epochs of `fnp_cifar10`, which needs hours.
RESNET20 = replace(
    fnp_cifar10.RESNET20, base={**fnp_cifar10.RESNET20.base, "epochs": 8, "dtype": "float32"}, images=12_000
)
PLANS = {
    "lenet": Plan(LENET),
    "resnet20": Plan({**fnp_cifar10.RESNET20.recipe, "epochs": 1, "dtype": "float32"}, compared=(40, 60), seeds=(0, 1)),
}


def quick(plan: Plan) -> Plan:
    """Return a plan that takes minutes and proves nothing."""
    return replace(plan, recipe={**plan.recipe, "epochs": 0.1}, compared=(60,), seeds=(0,), images=300)


def task_of(network: str, console: Console, *, small: bool) -> evo.Task:
    """Return a trained base network with its data."""
    if network == "lenet":
        own = ecs_lenet_mnist.QUICK if small else ecs_lenet_mnist.FULL
        workshop = ecs_lenet_mnist.Workshop(own, ecs_lenet_mnist.load_mnist(data_folder(), own), console)
        workshop.train_base()
        return workshop.task
    plan = fnp_cifar10.quick(RESNET20) if small else RESNET20
    data = load_cifar10(data_folder(), plan.images)
    fnp_cifar10.CACHE.mkdir(parents=True, exist_ok=True)
    base = fnp_cifar10.trained_base(plan, data, "cpu", console)
    return evo.Task(base, data["train"], data["val"], test=data["test"])


@dataclass(frozen=True)
class Trial:
    """One fine-tuning.

    Attributes:
        method: which filters; "base network" for all.
        k: percentile that gives their numbers; 0 for all.
        seed: of the fine-tuning, and of chance.
        blueprint: the structure.
        recipe: how it is fine-tuned.
    """

    method: str
    k: float
    seed: int
    blueprint: evo.Blueprint
    recipe: Recipe


def trials(task: evo.Task, plan: Plan, found: OcnnaCompression) -> Iterator[Trial]:
    """Yield everything that is to be fine-tuned."""
    recipe = Recipe(**plan.recipe)
    rows = found.sensitivity.set_index("k")["id"]
    for seed in plan.seeds:
        yield Trial("base network", 0, seed, task.network.full, recipe)
        for k in plan.compared:
            own = found.run.blueprint(int(rows[k]))
            for method in plan.methods:
                chosen = FilterSelection(task.network, method, seed) if method != "ocnna" else None
                kept = own if chosen is None else evo.Blueprint.from_masks(chosen.masks(task.network.counts(own)))
                yield Trial(method, k, seed, kept, recipe)


def tuned(task: evo.Task, trial: Trial) -> dict[str, Any]:
    """Fine-tune in a worker, or read what an earlier run of the benchmark has measured."""
    recipe = trial.recipe.to_dict()
    path = CACHE / f"{key_of(task.digest(), trial.blueprint.key, trial.seed, recipe)}.json"
    if not path.exists():
        model = task.network.build(trial.blueprint)
        cut = evo.error_rate(model, task.val)
        evo.finetune(model, task, seed=trial.seed, **recipe)
        assert task.test is not None
        figures = {
            "cut": 1 - cut,
            "val": 1 - evo.error_rate(model, task.val),
            "test": 1 - evo.error_rate(model, task.test),
        }
        path.write_text(json.dumps(figures))
    costs = task.network.cost_of(trial.blueprint)
    rpr = costs["params"] / task.network.cost_of(task.network.full)["params"]
    return {"method": trial.method, "k": trial.k, "seed": trial.seed, "rpr": rpr, **json.loads(path.read_text())}


def table(rows: pd.DataFrame) -> Table:
    """Return the comparison, a row per percentile and method."""
    shown = Table(
        "k", "filters", "remaining", "as cut, %", "validation, %", "test, %", title="Fine-tuned: mean ± deviation"
    )
    for (k, method), group in rows.groupby(["k", "method"], sort=False):
        figures = [_spread(group[name].tolist()) for name in ("cut", "val", "test")]
        shown.add_row(f"{k:g}", str(method), f"{group['rpr'].iloc[0]:.1%}", *figures)
    return shown


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{deviation}"


def study(network: str, plan: Plan, console: Console, folder: Path, *, small: bool) -> Mapping[str, Any]:
    """Do all of it for one network, and return the figures."""
    task = task_of(network, console, small=small)
    name = key_of(task.digest(), plan.sensitivity, plan.images)
    # The recipe fine-tunes what it chooses; here that happens for all structures alike, below.
    found = ocnna(
        task, k=plan.sensitivity, images=plan.images, finetuning=Recipe(epochs=0), out=CACHE / f"run-{network}-{name}"
    )
    picture = save_figure(
        plot_sensitivity(found.sensitivity, found.original_error), folder / f"ocnna_sensitivity_{network}.png"
    )
    items = list(trials(task, plan, found))
    rows = pd.DataFrame(evo.LocalEvaluator().map(tuned, task, items)).sort_values("k", kind="stable")
    console.print(found.sensitivity.round(4).to_string(index=False))
    console.print(table(rows))
    console.print(f"written to {picture}")
    return {
        "plan": asdict(plan),
        "original_val_accuracy": 1 - found.original_error,
        "sensitivity": found.sensitivity.to_dict("records"),
        "fine_tuned": rows.to_dict("records"),
        "paper": PAPER,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=PLANS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    console = Console(width=120)
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE if options.quick else RESULTS
    for network in [options.network] if options.network else PLANS:
        plan = quick(PLANS[network]) if options.quick else PLANS[network]
        results = study(network, plan, console, folder, small=options.quick)
        console.print(f"written to {write_results(f'ocnna_accuracy_{network}', results, folder=folder)}")


if __name__ == "__main__":
    main()
