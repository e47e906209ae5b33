"""Does pruning connections by appraisal keep the accuracy of the dense network, and beat pruning the smallest weights?

Three problems, each with every seed trained four ways that share initial weights and order of the data:

- dense: nothing is removed.
- appraisal: connections go when their efficiency stays low (`evo.training.ConnectionAppraisal`).
- magnitude, global and per layer: the smallest weights go along a gradual schedule over the same steps, until as many of all
  connections are gone as appraisal has removed with this seed, or as many of every layer.

The problems: an MLP (784-300-100-10) and LeNet (20-50-500-10) on MNIST, of whose training images the last 10,000 measure the
error after every epoch and decide nothing; and a regression: the butane concentration at the bottom of a debutaniser
column, from its seven measurements of now and of the nine samples before, and from what the concentration was 4 to 13
samples ago, as if the analyser took that long. (From the seven alone it cannot be predicted: on later rows the error is
larger than the deviation.) The rows are split by time: 60 % to train, 20 % to validate, the last 20 % to test. At each level
of noise, Gaussian noise of that many standard deviations of each quantity is added to all inputs and to the training targets;
errors are against the clean ones. The regression runs in a loop of its own, as a user would write it.

The defaults of the appraisal, which are used, were chosen on MNIST: by training on its first 10,000 images and looking at the
validation images. The paper reports 53 % of the connections pruned with an accuracy at or above the dense network's, faster
learning and less overfitting.

Outputs: a table on the screen and `benchmarks/results/synaptic.json`: test error, sparsity, dead units, the gap between test
and training error, and the share of the training after which the validation error first was as low as the dense network's at
its end; means over the seeds with 95 % intervals (Student's t), and differences to dense paired by seed, likewise. A picture
of the first seed's appraisal of LeNet is beside it.

Run: `python -m benchmarks.synaptic` (`--only mlp lenet regression`, `--quick` to show that it runs in a minute or two). MNIST
and the column are read from the folder `EVO_DATA` (default `../shared/data` beside this repository).
"""

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor, nn

from benchmarks.common import RESULTS, ROOT, data_folder, write_results
from evo.network.zoo import lenet, mlp
from evo.report.appraisal import plot_appraisals
from evo.training import (
    Appraisal,
    ConnectionAppraisal,
    EpochReport,
    Hook,
    MagnitudePruning,
    Recipe,
    Samples,
    error_rate,
    slice_dead_units,
    sparsity,
    train,
)
from evo.training.connections import connections_of

WAYS = ("dense", "appraisal", "magnitude, global", "magnitude, per layer")
LAGS = 10
DELAY = 4
"""Samples after which the analyser's value of the concentration is known."""
CACHE = ROOT / ".cache" / "synaptic"


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    seeds: tuple[int, ...]
    images: int
    mlp: Recipe
    lenet: Recipe
    regression: Recipe
    noise: tuple[float, ...]
    appraisal: Appraisal


FULL = Plan(
    seeds=(0, 1, 2, 3, 4),
    images=50_000,
    mlp=Recipe(epochs=8, batch_size=128),
    lenet=Recipe(epochs=3, batch_size=128),
    regression=Recipe(epochs=150, batch_size=64, optimizer="adam", lr=1e-3, weight_decay=0),
    noise=(0.0, 0.1, 0.2, 0.4),
    appraisal=Appraisal(),
)
QUICK = Plan(
    seeds=(0, 1),
    images=1500,
    mlp=Recipe(epochs=3, batch_size=32),
    lenet=Recipe(epochs=3, batch_size=64),
    regression=Recipe(epochs=20, batch_size=64, optimizer="adam", lr=1e-3, weight_decay=0),
    noise=(0.0, 0.2),
    appraisal=Appraisal(every=5, patience=5),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one network: errors in [0, 1] of classifiers, root mean squared ones of regressions."""

    test: float
    train: float
    sparsity: float
    dead_units: int
    params: int
    curve: list[float]
    seconds: float

    def figures(self) -> dict[str, Any]:
        """Return what the results file says about it: all but the curve."""
        return {name: value for name, value in asdict(self).items() if name != "curve"}


class Problem:
    """One network on one data set."""

    def fit(self, seed: int, hooks: Sequence[Hook]) -> tuple[nn.Module, list[float]]:
        """Return a network trained from the initial weights of `seed`, and the validation error after every epoch."""
        raise NotImplementedError

    def errors(self, model: nn.Module) -> tuple[float, float]:
        """Return the errors on test and training data."""
        raise NotImplementedError

    steps: int
    example: Tensor


class Digits(Problem):
    """MNIST."""

    def __init__(self, make: Callable[[], nn.Module], recipe: Recipe, data: Mapping[str, Samples]) -> None:
        self.make, self.recipe, self.data = make, recipe, data
        self.steps = round(recipe.epochs * (len(data["train"]) // recipe.batch_size))
        self.example = data["train"].x[:2]

    def fit(self, seed: int, hooks: Sequence[Hook]) -> tuple[nn.Module, list[float]]:
        """Train by `evo.training.train`."""
        torch.manual_seed(seed)
        curve: list[float] = []

        def note(report: EpochReport) -> None:
            assert report.error is not None
            curve.append(report.error)

        rng = np.random.default_rng(seed)
        model = train(
            self.make(), self.data["train"], self.recipe, rng, val=self.data["val"], on_epoch=note, hooks=hooks
        )
        return model, curve

    def errors(self, model: nn.Module) -> tuple[float, float]:
        """Return top-1 errors."""
        return error_rate(model, self.data["test"]), error_rate(model, self.data["train"])


class Column(Problem):
    """The debutaniser, with noise."""

    def __init__(self, path: Path, noise: float, recipe: Recipe) -> None:
        self.path, self.noise, self.recipe = path, noise, recipe
        rows = len(self._parts(0)["train"][0])
        self.steps = round(recipe.epochs) * (rows // recipe.batch_size)
        self.example = self._parts(0)["train"][0][:2]

    def _parts(self, seed: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Return (noisy inputs, targets to train on, clean targets) of every part, scaled by the training rows."""
        table = pd.read_csv(self.path).to_numpy(np.float32)
        first, second = round(0.6 * len(table)), round(0.8 * len(table))
        table = (table - table[:first].mean(0)) / table[:first].std(0)
        noisy = table + self.noise * np.random.default_rng(seed).standard_normal(table.shape, dtype=np.float32)
        gap = LAGS + DELAY - 1
        rows = np.arange(gap, len(table))
        measured = [noisy[rows - lag, :-1] for lag in range(LAGS)]
        inputs = np.concatenate([*measured, *(noisy[rows - lag, -1:] for lag in range(DELAY, DELAY + LAGS))], 1)
        parts = {"train": rows < first, "val": (rows >= first + gap) & (rows < second), "test": rows >= second + gap}
        return {
            name: (
                torch.from_numpy(inputs[chosen]),
                torch.from_numpy(noisy[rows[chosen], -1:]),
                torch.from_numpy(table[rows[chosen], -1:]),
            )
            for name, chosen in parts.items()
        }

    def fit(self, seed: int, hooks: Sequence[Hook]) -> tuple[nn.Module, list[float]]:
        """Train in a plain loop that calls the hooks."""
        torch.manual_seed(seed)
        self.data = self._parts(seed)
        x, y, _ = self.data["train"]
        model = mlp(1, features=x.shape[1]).train()
        optimizer = torch.optim.Adam(model.parameters(), self.recipe.lr)
        curve: list[float] = []
        for hook in hooks:
            hook.begin(model)
        for _ in range(round(self.recipe.epochs)):
            for rows in torch.split(torch.randperm(len(x)), self.recipe.batch_size)[: len(x) // self.recipe.batch_size]:
                for hook in hooks:
                    hook.before_forward()
                loss = nn.functional.mse_loss(model(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                for hook in hooks:
                    hook.before_step()
                optimizer.step()
                for hook in hooks:
                    hook.after_step()
            curve.append(self._error(model, "val"))
        for hook in hooks:
            hook.end()
            hook.close()
        return model.eval(), curve

    def errors(self, model: nn.Module) -> tuple[float, float]:
        """Return root mean squared errors, in standard deviations of the target in training."""
        return self._error(model, "test"), self._error(model, "train")

    @torch.no_grad()
    def _error(self, model: nn.Module, part: str) -> float:
        x, _, clean = self.data[part]
        return float((model(x) - clean).square().mean().sqrt())


def outcomes(problem: Problem, seed: int, appraisal: Appraisal) -> tuple[dict[str, Outcome], ConnectionAppraisal]:
    """Train in all four ways."""
    appraised = ConnectionAppraisal(appraisal, problem.steps)
    made: dict[str, Outcome] = {"dense": _outcome(problem, seed, [])}
    made["appraisal"] = _outcome(problem, seed, [appraised])
    per_layer = {entry.name: 1 - entry.alive / entry.gone.numel() for entry in appraised.connections}
    times = {"every": appraised.every, "start": appraisal.start, "stop": appraisal.stop}
    for way, share in zip(WAYS[2:], (made["appraisal"].sparsity, per_layer), strict=True):
        made[way] = _outcome(problem, seed, [MagnitudePruning(share, problem.steps, **times)])  # type: ignore[arg-type]
    return made, appraised


def _outcome(problem: Problem, seed: int, hooks: Sequence[Hook]) -> Outcome:
    begun = time.perf_counter()
    model, curve = problem.fit(seed, hooks)
    seconds = time.perf_counter() - begun
    test, training = problem.errors(model)
    small = slice_dead_units(copy.deepcopy(model), problem.example)
    units = [sum(entry.by_unit(entry.gone).shape[0] for entry in connections_of(one)) for one in (model, small)]
    params = sum(part.numel() for part in small.parameters())
    return Outcome(test, training, sparsity(model), units[0] - units[1], params, curve, seconds)


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean and half the width of its 95 % interval (Student's t)."""
    if len(values) < 2:
        return {"mean": float(np.mean(values)), "half_width": None}
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return {"mean": float(np.mean(values)), "half_width": float(half)}


def summary(runs: Sequence[Mapping[str, Outcome]]) -> dict[str, Any]:
    """Return the figures of every way over the seeds."""
    result: dict[str, Any] = {}
    for way in WAYS:
        own = [run[way] for run in runs]
        figures: dict[str, Sequence[float]] = {
            "test": [one.test for one in own],
            "test_minus_dense": [run[way].test - run["dense"].test for run in runs],
            "test_minus_train": [one.test - one.train for one in own],
            "sparsity": [one.sparsity for one in own],
            "dead_units": [one.dead_units for one in own],
            "params": [one.params for one in own],
            "reaches_dense_after": [_reaches(run[way].curve, run["dense"].curve[-1]) for run in runs],
            "seconds": [one.seconds for one in own],
        }
        result[way] = {name: interval(values) for name, values in figures.items()}
    return result


def _reaches(curve: Sequence[float], error: float) -> float:
    """Return the share of the epochs after which the error first was that low; 1 and one epoch if it never was."""
    first = next((epoch for epoch, value in enumerate(curve, 1) if value <= error), len(curve) + 1)
    return first / len(curve)


def mnist(plan: Plan) -> dict[str, Samples]:
    """Return `train`, `val` and `test`."""
    path = data_folder() / "mnist.npz"
    if not path.is_file():
        raise SystemExit(f"{path} is missing; set EVO_DATA to the folder that has it")
    with np.load(path, allow_pickle=False) as arrays:
        images = np.concatenate([arrays["x_train"], arrays["x_test"]]).astype(np.float32)
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    x, y = torch.from_numpy((images / 255 - 0.13066) / 0.30811)[:, None], torch.from_numpy(labels)
    parts = {"train": slice(0, plan.images), "val": slice(50_000, 60_000), "test": slice(60_000, 70_000)}
    return {name: Samples(x[rows], y[rows]) for name, rows in parts.items()}


def problems(plan: Plan, only: Sequence[str]) -> dict[str, Problem]:
    """Return what is asked for."""
    made: dict[str, Problem] = {}
    data = mnist(plan) if {"mlp", "lenet"} & {*only} else {}
    if "mlp" in only:
        made["MLP, MNIST"] = Digits(
            lambda: nn.Sequential(nn.Flatten(), mlp(10, features=784, widths=(300, 100))), plan.mlp, data
        )
    if "lenet" in only:
        made["LeNet, MNIST"] = Digits(lenet, plan.lenet, data)
    if "regression" in only:
        path = data_folder() / "debutanizer.csv"
        if not path.is_file():
            raise SystemExit(f"{path} is missing; set EVO_DATA to the folder that has it")
        made |= {f"column, noise {noise:g}": Column(path, noise, plan.regression) for noise in plan.noise}
    return made


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print the figures."""
    for name, ways in results.items():
        table = Table(
            "",
            "test error",
            "minus dense",
            "test − train",
            "pruned",
            "dead units",
            "as good as dense after",
            title=name,
        )
        for way, figures in ways.items():
            cells = [_cell(figures[key]) for key in ("test", "test_minus_dense", "test_minus_train")]
            share, units, after = (figures[key]["mean"] for key in ("sparsity", "dead_units", "reaches_dense_after"))
            table.add_row(way, *cells, f"{share:.1%}", f"{units:.1f}", f"{after:.0%} of the epochs")
        console.print(table)


def _cell(figures: Mapping[str, float | None]) -> str:
    half = figures["half_width"]
    return f"{figures['mean']:.4f}" + ("" if half is None else f" ± {half:.4f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("mlp", "lenet", "regression")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="problems")
    parser.add_argument("--threshold", type=float, help="of the appraisal, in place of its default; named in the file")
    parser.add_argument("--quick", action="store_true", help="a minute or two that only show that it runs")
    parser.add_argument(
        "--out", type=Path, help="folder for the results; default benchmarks/results, with --quick the cache"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, console = QUICK if options.quick else FULL, Console(width=150)
    suffix = "" if len(options.only) == len(names) else f"_{'_'.join(options.only)}"
    suffix += "" if options.threshold is None else f"_threshold_{options.threshold:g}"
    if options.threshold is not None:
        plan = replace(plan, appraisal=Appraisal(**{**plan.appraisal.to_dict(), "threshold": options.threshold}))
    out = options.out or (CACHE if options.quick else RESULTS)
    results: dict[str, Any] = {}
    every: dict[str, Any] = {}
    for name, problem in problems(plan, options.only).items():
        runs = []
        for seed in plan.seeds:
            made, appraised = outcomes(problem, seed, plan.appraisal)
            runs.append(made)
            if name.startswith("LeNet") and seed == plan.seeds[0]:
                out.mkdir(parents=True, exist_ok=True)
                plot_appraisals(appraised.history).savefig(out / f"synaptic{suffix}.png", dpi=120)
        results[name] = summary(runs)
        every[name] = [{way: one.figures() for way, one in run.items()} for run in runs]
        show({name: results[name]}, console)
    described = {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in vars(plan).items()}
    content = {"question": (__doc__ or "").splitlines()[0], "plan": described, "results": results, "runs": every}
    console.print(f"written to {write_results(f'synaptic{suffix}', content, folder=out)}")


if __name__ == "__main__":
    main()
