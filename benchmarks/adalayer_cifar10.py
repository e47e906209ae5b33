"""AdaLayerNet on CIFAR-10 (JPEG): uniform compression, closed form and evolved policy at equal bytes, and equal tuning.

Set-up. The paper's eight-layer network (zoo `adalayernet`) is trained once; one tenth of the training images, class-balanced,
is held out as validation images. The closed form may have 16.5 % of its bytes, which is the paper's −83.5 %, and all others
as many as the closed form has then; bytes count bits and scales. Compared are

- `baseline`, fine-tuned with the recipe of all others: what tuning alone adds is no merit of a policy;
- `uniform`: every layer loses the same share of its filters and has the same bits, as many as the closed form has on
  average, rounded; with other bits, too (`uniform, 4 bits` and `uniform, 8 bits`, not with `--small`), lest the comparison
  hang on that choice;
- `closed form`: AdaLayerNet eq. 1 to 6, from the measured contributions of the layers;
- `evolved`: NSGA-II over error, bytes and multiply-accumulates from the closed form on; of the individuals with neither more
  bytes nor more operations than the closed form, the most accurate ones after a short tuning are fine-tuned.

Every structure is found once and fine-tuned with several seeds. Test images are looked at once per network, at the end.
The paper: 86.0 % before; uniform −3.5 points, layer-wise −1.39 points at −83.5 % of the size.

Outputs: a table on the screen (accuracy with 95 % intervals, difference to the baseline, bytes, MACs, bits), the pictures of
the closed form and of the evolved policy, `benchmarks/results/adalayer_*.png`, and `benchmarks/results/adalayer_cifar10.json`.
Networks and searches are kept in `.cache/`, so that an interrupted benchmark goes on where it stopped.

Run: `python -m benchmarks.adalayer_cifar10 --device cuda`, or without a GPU `--small`, which learns from 12,000 images in
two hours of one processor (`--quick` two minutes, to show that it runs). The images are read from the folder `EVO_DATA`.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from torch import nn

import evo
from benchmarks.cifar10 import load_cifar10
from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from benchmarks.fnp_cifar10 import key_of
from evo.encodings.layer_policy import LayerPolicy
from evo.network.zoo import adalayernet
from evo.policy import AdaLayer
from evo.recipes.adalayer import PolicyCompression, adalayer, penalty, uniform_compression
from evo.report.plots import save_figure
from evo.report.policy import plot_fingerprint, plot_layers, plot_ribbon, policy_table
from evo.training import EpochReport, Recipe, Samples, train

CACHE = ROOT / ".cache" / "adalayer_cifar10"
PAPER = {"baseline": 86.0, "uniform": 82.5, "closed form": 84.61}

Settings = dict[str, Any]
AUGMENTED = {"batch_size": 128, "weight_decay": 5e-4, "shift": 4, "flip": True}


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        share: of the baseline's bytes that is left.
        uniform_bits: of further uniform policies.
        base, recipe: training of the base network, and every fine-tuning.
        fitness, search: of the evolution.
        tries: evolved individuals that are fine-tuned with the first seed, to find the one to compare.
        seeds: of every fine-tuning.
        images: training images, None for all.
    """

    share: float = 0.165
    uniform_bits: tuple[int, ...] = (4, 8)
    base: Settings = field(
        default_factory=lambda: {**AUGMENTED, "epochs": 20, "lr": 0.1, "schedule": "onecycle", "dtype": "bfloat16"}
    )
    recipe: Settings = field(
        default_factory=lambda: {**AUGMENTED, "epochs": 8, "lr": 0.05, "schedule": "cosine", "dtype": "bfloat16"}
    )
    fitness: Settings = field(
        default_factory=lambda: {"images": 2000, "batch_size": 64, "lr": 0.02, "epochs": 1, "val_images": 2000}
    )
    search: Settings = field(default_factory=lambda: {"generations": 12, "population": 24})
    tries: int = 3
    seeds: tuple[int, ...] = (0, 1, 2)
    images: int | None = None


def small(plan: Plan) -> Plan:
    """Return a plan for a processor: fewer images, epochs, individuals and seeds, and no 16-bit arithmetic."""
    return replace(
        plan,
        base={**plan.base, "epochs": 12, "dtype": "float32"},
        uniform_bits=(),
        recipe={**plan.recipe, "epochs": 2, "dtype": "float32"},
        fitness={**plan.fitness, "images": 1500},
        search={"generations": 8, "population": 12},
        tries=2,
        images=12_000,
    )


def quick(plan: Plan) -> Plan:
    """Return a plan that takes two minutes and proves nothing."""
    return replace(
        plan,
        base={**plan.base, "epochs": 2},
        recipe={**plan.recipe, "epochs": 1},
        fitness={**plan.fitness, "images": 128, "val_images": 128, "epochs": 0.5},
        search={"generations": 2, "population": 4},
        tries=1,
        seeds=(0, 1),
        images=300,
    )


@dataclass
class Variant:
    """One policy and what came of it.

    Attributes:
        blueprint: None for the baseline.
        val, test: accuracy, one per seed.
    """

    name: str
    blueprint: evo.Blueprint
    costs: dict[str, int]
    bits: float
    val: tuple[float, ...] = ()
    test: tuple[float, ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return what is worth writing down."""
        layers = {"counts": self.blueprint.counts, "bits": self.blueprint.bits}
        return {**layers, "costs": self.costs, "mean_bits": self.bits, "val": self.val, "test": self.test}


def trained_base(plan: Plan, data: Mapping[str, Samples], device: str, console: Console) -> nn.Module:
    """Return the base network, trained now or before."""
    torch.manual_seed(0)
    model = adalayernet()
    recipe = Recipe(**plan.base, device=device)
    name = key_of("adalayernet", recipe.to_dict(), data["train"].digest)
    path = CACHE / f"base-{name}.evo"
    if not path.exists():

        def show(report: EpochReport) -> None:
            console.print(f"base network: epoch {report.epoch} of {report.epochs}, loss {report.loss:.4f}")

        checkpoint = CACHE / f"base-{name}.checkpoint"
        train(model, data["train"], recipe, np.random.default_rng(0), on_epoch=show, checkpoint=checkpoint)
        evo.save(model, path)
        checkpoint.unlink(missing_ok=True)
    return evo.load(path)


class Comparison:
    """Finds the policies, tunes them with every seed, and measures them."""

    def __init__(self, plan: Plan, task: evo.Task, device: str, console: Console) -> None:
        self.plan, self.task, self.device, self.console = plan, task, device, console
        self.folder = CACHE / key_of(task.digest(), plan.__dict__, AdaLayer().to_dict(), device)
        self.budget = evo.Budget(bytes=plan.share)
        self.recipe = Recipe(**plan.recipe, device=device)
        self.fitness = evo.SubsetFineTune(**plan.fitness, device=device)
        self.evaluator = evo.LocalEvaluator(workers=1) if device != "cpu" else evo.LocalEvaluator()

    def common(self, name: str, seed: int) -> dict[str, Any]:
        """Return the arguments that all recipes share; a folder for each policy and seed."""
        return {
            "fitness": self.fitness,
            "evaluator": self.evaluator,
            "finetuning": self.recipe,
            "out": self.folder / f"{name}-{seed}".replace(" ", "_").replace(",", ""),
            "seed": seed,
        }

    def variants(self) -> list[Variant]:
        """Return all variants, tuned with all seeds and measured."""
        network, seeds = self.task.network, self.plan.seeds
        found = [self.measured("baseline", network.full, [self._baseline(seed) for seed in seeds])]
        form = adalayer(self.task, budget=self.budget, **self.common("closed form", seeds[0]))
        structure = form.run.blueprint(form.id)
        models = [form.model, *(self._given(structure, seed, form) for seed in seeds[1:])]
        closed = self.measured("closed form", structure, models)
        self.budget = evo.Budget(bytes=closed.costs["bytes"])
        mean = round(closed.bits)
        for name, bits in {
            "uniform": mean,
            **{f"uniform, {bits} bits": bits for bits in self.plan.uniform_bits},
        }.items():
            tuned = [
                uniform_compression(self.task, bits=bits, budget=self.budget, **self.common(name, seed))
                for seed in seeds
            ]
            found.append(self.measured(name, tuned[0].run.blueprint(tuned[0].id), [each.model for each in tuned]))
        self.draw("closed form", form.policy_layers)
        return [*found, closed, self._evolved(form)]

    def _evolved(self, form: PolicyCompression) -> Variant:
        """Return the evolved policy: found with the first seed, then tuned with all."""
        plan = self.plan
        began = time.monotonic()
        best = adalayer(
            self.task,
            encoding=LayerPolicy(contributions=form.run.settings["encoding"]["contributions"]),
            budget=self.budget,
            algorithm=evo.NSGA2(**plan.search),
            tries=plan.tries,
            **self.common("evolved", plan.seeds[0]),
        )
        self.console.print(
            f"evolved: {len(best.run.history)} individuals, {time.monotonic() - began:.0f} s with tuning"
        )
        structure = best.run.blueprint(best.id)
        models = [best.model, *(self._given(structure, seed, best) for seed in plan.seeds[1:])]
        self.draw("evolved", best.policy_layers)
        return self.measured("evolved", structure, models)

    def _given(self, structure: evo.Blueprint, seed: int, found: PolicyCompression | None = None) -> nn.Module:
        """Return the network of a structure, tuned with a seed, with the penalty of the policy that it was found by."""
        path = self.folder / f"{structure.key}-{seed}.evo"
        if not path.exists():
            hooks = [] if found is None else [penalty(found.policy, AdaLayer().eta)]
            model = self.task.network.build(structure)
            evo.save(evo.finetune(model, self.task, seed=seed, hooks=hooks, **self.recipe.to_dict()), path)
        return evo.load(path)

    def _baseline(self, seed: int) -> nn.Module:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self._given(self.task.network.full, seed)

    def measured(self, name: str, structure: evo.Blueprint, models: Sequence[nn.Module]) -> Variant:
        """Return a variant with its accuracies."""
        network, task = self.task.network, self.task
        assert task.test is not None
        variant = Variant(name, structure, network.cost_of(structure), _mean_bits(network, structure))
        variant.val = tuple(1 - evo.error_rate(model, task.val, device=self.device) for model in models)
        variant.test = tuple(1 - evo.error_rate(model, task.test, device=self.device) for model in models)
        self.console.print(f"{name}: {variant.costs['bytes']:,} bytes, test {_accuracy(variant.test)} %")
        return variant

    def draw(self, name: str, layers: Any) -> None:
        """Draw the pictures of a policy, and print its table."""
        stem = f"adalayer_{name.replace(' ', '_')}" + ("" if self.plan.share == Plan.share else f"_{self.plan.share:g}")
        folder = self.folder if self.plan.images == quick(self.plan).images else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        for kind, plot in (("ribbon", plot_ribbon), ("fingerprint", plot_fingerprint), ("layers", plot_layers)):
            self.console.print(f"written to {save_figure(plot(layers), folder / f'{stem}_{kind}.png')}")
        self.console.print(policy_table(layers).round(2).to_string())


def _mean_bits(network: evo.Network, structure: evo.Blueprint) -> float:
    """Return the mean bits of the kept weights."""
    weights = network.costs.weights(network.counts(structure))
    return float((weights * network.costs.bits_of(structure.bits)).sum() / weights.sum())


def _accuracy(values: Sequence[float]) -> str:
    """Return mean and 95 % interval in per cent."""
    mean = 100 * statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = 100 * float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2f} ± {half:.2f}"


def table(variants: Sequence[Variant]) -> Table:
    """Return the comparison as a table."""
    shown = Table(title="CIFAR-10 (JPEG), accuracy in per cent: mean ± half the 95 % interval over seeds")
    for column in ("policy", "bytes", "left", "MACs", "bits", "validation", "test", "− baseline", "paper"):
        shown.add_column(column, justify="left" if column == "policy" else "right")
    base = variants[0]
    for variant in variants:
        costs = variant.costs
        difference = 100 * (statistics.fmean(variant.test) - statistics.fmean(base.test))
        paper = f"{PAPER[variant.name] - PAPER['baseline']:+.2f}" if variant.name in PAPER else ""
        left = f"{costs['bytes'] / base.costs['bytes']:.1%}"
        row = [f"{costs['bytes']:,}", left, f"{costs['macs']:,}", f"{variant.bits:.1f}"]
        row += [_accuracy(variant.val), _accuracy(variant.test), f"{difference:+.2f}", paper]
        shown.add_row(variant.name, *row)
    return shown


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="what a processor can do in two hours")
    parser.add_argument("--quick", action="store_true", help="two minutes that prove nothing; writes no results")
    parser.add_argument(
        "--share", type=float, help="of the bytes that is left, in place of the paper's; named in the file"
    )
    parser.add_argument("--seeds", type=int, help="of every fine-tuning, in place of the plan's")
    options = parser.parse_args()
    plan = quick(Plan()) if options.quick else small(Plan()) if options.small else Plan()
    plan = plan if options.seeds is None else replace(plan, seeds=tuple(range(options.seeds)))
    plan = plan if options.share is None else replace(plan, share=options.share)
    console = Console(width=150)
    CACHE.mkdir(parents=True, exist_ok=True)
    data = load_cifar10(data_folder(), plan.images)
    base = trained_base(plan, data, options.device, console)
    task = evo.Task(base, data["train"], data["val"], test=data["test"])
    variants = Comparison(plan, task, options.device, console).variants()
    console.print(table(variants))
    results = {
        "data": "CIFAR-10 (JPEG)",
        "plan": plan.__dict__,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "variants": {variant.name: variant.figures() for variant in variants},
        "paper": PAPER,
    }
    if not options.quick:
        suffix = ("_small" if options.small else "") + ("" if options.share is None else f"_share_{options.share:g}")
        console.print(f"written to {write_results(f'adalayer_cifar10{suffix}', results)}")


if __name__ == "__main__":
    main()
