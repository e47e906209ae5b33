"""Does ECS compress LeNet on MNIST as far as its paper says, without losing test accuracy?

Set-up. The last 1,000 training images of each digit are held out; they are what the search minimises the error on and what
every choice is made by. The test images are looked at once per network, at the end, and decide nothing. The base network
(LeNet 20-50-500-10 with batch normalisation) is trained without augmentation to about the accuracy that the paper starts
from. Every other network reported here is trained by the same recipe for more epochs and with random shifts by one pixel
(`Plan`); so that nobody takes what this adds for a merit of the search, a copy of the base network is trained on alike.

1. Train the base network.
2. Search: ECS over filter bits, at most `--evaluations` evaluations.
3. Shortlist: for each of several ranges of size, the individual that the search measured the smallest error for.
   Fine-tune each once; from the smallest up, fine-tune those that reach the base network's validation accuracy with the
   other seeds too. The winner is the smallest whose mean validation accuracy does so.
4. Controls, with the winner's recipe and seeds: its architecture from random weights; networks of about its size (number of
   weights within 10 %) cut out of the base network with random widths and random filters; and the base network trained on.

Outputs: a table on the screen and `benchmarks/results/ecs_lenet_mnist.json`. Trained networks and the search are kept in
`.cache/`, so that an interrupted benchmark goes on where it stopped. Accuracies in the results are shares, not per cent.

Run: `python -m benchmarks.ecs_lenet_mnist` (under half an hour on two processors; `--quick` takes a minute or two, to show
that it runs). MNIST is read from `mnist.npz` in the folder `EVO_DATA` (default: `../shared/data` beside this repository).
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table
from torch import nn

import evo
from benchmarks.common import ROOT, data_folder, write_results
from evo.algorithms.base import Algorithm
from evo.callbacks import Callback, Progress
from evo.network.zoo import lenet
from evo.training import Samples

CACHE = ROOT / ".cache" / "ecs_lenet_mnist"
WIDTHS = (20, 50, 500)
PAPER = {
    "evaluations": 100_000,
    "base_accuracy": 0.992,
    "accuracy": 0.992,
    "r_c": 15.52,
    "r_s": 5.76,
    "r_f": 2.42,
    "widths": [9, 17, 84],
    "from_scratch_accuracy": 0.985,
    "random_network_accuracy": 0.927,
}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Everything that is decided beforehand.

    Attributes:
        recipe: trains the winner and all controls.
        base: the base network is trained by the same recipe, with these changes.
        encoding, fitness, population: of the search.
        evaluations: limit of the search.
        sizes: compressions r_c; the shortlist takes one individual between every two neighbours.
        margin: by how much the winner has to exceed the base network's validation accuracy.
        seeds: of the winner and of every control.
        train_images, val_images: None for all.
    """

    recipe: Settings
    base: Settings
    encoding: Settings
    fitness: Settings
    population: int
    evaluations: int
    sizes: tuple[float, ...]
    margin: float = 0.0
    seeds: tuple[int, ...] = (0, 1, 2)
    train_images: int | None = None
    val_images: int | None = None


FULL = Plan(
    recipe={"epochs": 16, "batch_size": 128, "lr": 0.1, "schedule": "onecycle", "shift": 1, "dtype": "bfloat16"},
    base={"epochs": 4, "shift": 0},
    encoding={"initial": "sparse", "keep": (0.05, 0.5), "max_fragment": 0.05},
    fitness={"images": 5000, "batch_size": 50, "lr": 0.05, "lam": 0.5, "recalibrate": False, "val_images": 5000},
    population=40,
    evaluations=2000,
    sizes=(15.6, 20, 26, 34, 45, 60),
)
QUICK = replace(
    FULL,
    recipe={**FULL.recipe, "epochs": 1},
    base={"epochs": 1, "shift": 0},
    fitness={**FULL.fitness, "images": 500, "val_images": 1000},
    population=8,
    evaluations=40,
    sizes=(15.6, 30, 100),
    margin=-1,
    seeds=(0, 1),
    train_images=5000,
    val_images=1000,
)


def load_mnist(folder: Path, plan: Plan) -> dict[str, Samples]:
    """Return `train`, `val` and `test`, normalised; the held-out images are the last of every class."""
    path = folder / "mnist.npz"
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing: make it from the four original IDX files with numpy.savez_compressed as the uint8 arrays "
            "x_train (60000, 28, 28), y_train (60000,), x_test (10000, 28, 28), y_test (10000,), or set EVO_DATA to the "
            "folder that holds it"
        )
    with np.load(path, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    labels = data["y_train"]
    val = np.sort(np.concatenate([np.flatnonzero(labels == digit)[-1000:] for digit in range(10)]))
    train = np.setdiff1d(np.arange(len(labels)), val)
    everything = _samples(data["x_train"], labels)
    return {
        "train": everything.take(_thinned(train, plan.train_images)),
        "val": everything.take(_thinned(val, plan.val_images)),
        "test": _samples(data["x_test"], data["y_test"]),
    }


def _samples(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Samples:
    x = (torch.from_numpy(images.astype(np.float32)) / 255 - 0.13066) / 0.30811
    return Samples(x[:, None].contiguous(), torch.from_numpy(labels.astype(np.int64)))


def _thinned(rows: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    return rows if count is None else rows[:: max(1, len(rows) // count)][:count]


@dataclass
class Trained:
    """A network to be trained, and how well it does afterwards.

    Attributes:
        kind: what it is for.
        seed: of its training.
        model: untrained or cut; trained later.
        key: identifies what it is made from.
        weights: of its convolutional and linear layers.
        widths: filters of the three searched layers.
        val, test: accuracies in [0, 1]; test stays None until the end.
    """

    kind: str
    seed: int
    model: nn.Module
    key: str
    weights: int
    widths: list[int]
    val: float = 0.0
    test: float | None = field(default=None)

    def figures(self) -> Settings:
        """Return what the results file says about it."""
        shown = {name: getattr(self, name) for name in ("kind", "seed", "widths", "weights", "val", "test")}
        return {**shown, "r_c": WEIGHTS / self.weights}


def weights_of(widths: Sequence[int]) -> int:
    """Return the weights of the convolutional and linear layers of a LeNet with these widths."""
    first, second, third = widths
    return 25 * first + 25 * first * second + 16 * second * third + 10 * third


WEIGHTS = weights_of(WIDTHS)


def _fit(model: nn.Module, task: evo.Task, seed: int, recipe: Settings) -> nn.Module:
    """Train in a worker process of its own, on one thread."""
    torch.set_num_threads(1)
    return evo.finetune(model, task, seed=seed, **recipe)


class Workshop:
    """Trains networks in parallel, keeps them in the cache, and measures them.

    Attributes:
        task: network and data; its network is the untrained base network until `train_base` has replaced it.
    """

    def __init__(self, plan: Plan, data: dict[str, Samples], console: Console) -> None:
        self.plan = plan
        self.console = console
        self._data = data
        torch.manual_seed(0)
        self.task = self._task(lenet(*WIDTHS))

    def _task(self, model: nn.Module) -> evo.Task:
        return evo.Task(model, self._data["train"], self._data["val"], test=self._data["test"])

    def train_base(self) -> Trained:
        """Train the base network and make it the task's."""
        base = Trained("base", 0, self.whole(), self.task.digest(), WEIGHTS, list(WIDTHS))
        self.train([base], **self.plan.base)
        self.task = self._task(base.model)
        return base

    def whole(self) -> nn.Module:
        """Return a copy of the task's network."""
        return self.task.network.build(self.task.network.full)

    def sliced(self, kind: str, seed: int, blueprint: evo.Blueprint) -> Trained:
        """Return a network cut out of the base network, to be trained."""
        widths = [blueprint.counts[group.name] for group in self.task.network.groups]
        key = f"{self.task.digest()} {blueprint.key}"
        return Trained(kind, seed, self.task.network.build(blueprint), key, weights_of(widths), widths)

    def fresh(self, kind: str, seed: int, widths: list[int]) -> Trained:
        """Return a network with random weights, to be trained."""
        torch.manual_seed(seed)
        return Trained(kind, seed, lenet(*widths), f"{self.task.digest()} {widths}", weights_of(widths), widths)

    def train(self, networks: Sequence[Trained], **changes: object) -> None:
        """Train all `networks` that the cache lacks by the recipe with `changes`, and measure all on the validation images."""
        recipe = {**self.plan.recipe, **changes}
        missing = [entry for entry in networks if not self._path(entry, recipe).exists()]
        if missing:
            workers = min(len(missing), len(os.sched_getaffinity(0)))
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool, Bar(console=self.console) as bar:
                futures = [pool.submit(_fit, e.model, self.task, e.seed, recipe) for e in missing]
                for entry, future in bar.track(list(zip(missing, futures, strict=True)), description="training"):
                    evo.save(future.result(), self._path(entry, recipe))
        for entry in networks:
            entry.model = evo.load(self._path(entry, recipe))
            entry.val = 1 - evo.error_rate(entry.model, self.task.val)
            self.console.print(f"{entry.kind}, seed {entry.seed}, {entry.widths}: validation accuracy {entry.val:.2%}")

    def _path(self, entry: Trained, recipe: Settings) -> Path:
        made_from = json.dumps([entry.kind, entry.seed, entry.key, recipe], sort_keys=True)
        return CACHE / f"{hashlib.sha256(made_from.encode()).hexdigest()[:24]}.safetensors"

    def test(self, networks: Iterable[Trained]) -> None:
        """Measure on the test images; only when every choice has been made."""
        assert self.task.test is not None
        for entry in networks:
            entry.test = 1 - evo.error_rate(entry.model, self.task.test)


def search(workshop: Workshop, algorithm: Algorithm, seed: int) -> evo.Run:
    """Run or continue the search, in a folder named by everything that decides its result."""
    plan, task = workshop.plan, workshop.task
    encoding, fitness = evo.FilterBits(**plan.encoding), evo.SubsetFineTune(**plan.fitness)
    parts = [task.digest(), encoding.to_dict(), fitness.to_dict(), algorithm.to_dict(), seed]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    with Bar(console=workshop.console) as bar:
        line = bar.add_task(type(algorithm).__name__, total=plan.evaluations)

        class Shown(Callback):
            def on_progress(self, progress: Progress) -> None:
                bar.update(line, completed=progress.evaluated)

        return evo.search(
            task,
            encoding=encoding,
            fitness=fitness,
            algorithm=algorithm,
            out=CACHE / f"{type(algorithm).__name__}-{name}",
            seed=seed,
            max_evaluations=plan.evaluations,
            reuse=False,  # its time is reported
            callbacks=[Shown()],
        )


def shortlist(run: evo.Run, sizes: Sequence[float]) -> list[int]:
    """Return, for every range of compressions between two neighbouring `sizes`, the row with the smallest error."""
    rows = run.history
    rows = rows[(rows["status"] == "ok") & ~rows["cached"]]
    chosen = []
    for low, high in pairwise(sizes):
        compression = WEIGHTS / rows["weights"]
        fitting = rows[(compression >= low) & (compression < high)].sort_values(["error", "weights"])
        if len(fitting):
            chosen.append(int(fitting.index[0]))
    return chosen


def choose(workshop: Workshop, run: evo.Run, base: Trained) -> tuple[list[Trained], list[Trained], int | None]:
    """Return the shortlist, the winner once per seed, and the winner's row; no winner if none keeps the accuracy."""
    seeds, target = workshop.plan.seeds, base.val + workshop.plan.margin
    rows = shortlist(run, workshop.plan.sizes)
    first = [workshop.sliced("shortlist", seeds[0], run.blueprint(row)) for row in rows]
    workshop.train(first)
    tried = list(first)
    for entry, row in sorted(zip(first, rows, strict=True), key=lambda pair: pair[0].weights):
        if entry.val < target:
            continue
        others = [workshop.sliced("shortlist", seed, run.blueprint(row)) for seed in seeds[1:]]
        workshop.train(others)
        tried += others
        if np.mean([one.val for one in (entry, *others)]) >= target:
            return tried, [entry, *others], row
    return tried, [], None


def random_structure(task: evo.Task, weights: int, rng: np.random.Generator) -> evo.Blueprint:
    """Return random filters in random widths, the weights within 10 % of `weights`."""
    for _ in range(100_000):
        widths = [int(np.exp(rng.uniform(0, np.log(size + 1)))) for size in WIDTHS]
        if abs(weights_of(widths) / weights - 1) <= 0.1:
            break
    else:
        raise SystemExit(f"no random widths found with {weights} weights")
    masks = {}
    for group, width in zip(task.network.groups, widths, strict=True):
        masks[group.name] = np.zeros(group.size, dtype=bool)
        masks[group.name][rng.choice(group.size, width, replace=False)] = True
    return evo.Blueprint.from_masks(masks)


def controls(workshop: Workshop, winner: Trained) -> list[Trained]:
    """Train the networks that the winner is compared with."""
    # The largest first: it takes longest.
    trained = [workshop.sliced("base trained on", workshop.plan.seeds[0], workshop.task.network.full)]
    for seed in workshop.plan.seeds:
        trained.append(workshop.fresh("winner's architecture from scratch", seed, winner.widths))
        structure = random_structure(workshop.task, winner.weights, np.random.default_rng(seed))
        trained.append(workshop.sliced("random widths and filters", seed, structure))
    workshop.train(trained)
    return trained


def search_figures(run: evo.Run) -> Settings:
    """Return how fast the search was and what it found; the time runs from the first recorded result to the last."""
    rows = run.history
    evaluated = int((~rows["cached"]).sum())
    finished = rows["finished"]
    seconds = float((finished.max() - finished.min()).total_seconds())
    best = run.best
    return {
        "algorithm": run.settings["algorithm"],
        "seed": run.settings["seed"],
        "evaluations": evaluated,
        "failed": int((rows["status"] != "ok").sum()),
        "cached_share": 1 - evaluated / len(rows),
        "seconds": seconds,
        "evaluations_per_second": evaluated / seconds if seconds else None,
        "best": {name: float(best[name]) for name in ("fitness", "error", "weights")},
        "generations": run.generations["max"].tolist(),
    }


def compress(workshop: Workshop, run: evo.Run, base: Trained, *, compare: bool) -> Settings:
    """Choose from what the search found, compare with controls if asked to, and return the figures of all of it."""
    tried, winners, row = choose(workshop, run, base)
    others = controls(workshop, winners[0]) if winners and compare else []
    workshop.test([*tried, *others])
    groups = {"winner": winners}
    for entry in others:
        groups.setdefault(entry.kind, []).append(entry)
    return {
        "search": search_figures(run),
        "winner": None if row is None else structure_figures(run, row),
        "accuracy": {kind: spread(group) for kind, group in groups.items() if group},
        "networks": [entry.figures() for entry in (*tried, *others)],
    }


def structure_figures(run: evo.Run, row: int) -> Settings:
    """Return the layer table of an individual and its totals."""
    layers = run.layers(row).reset_index()
    total = layers.to_dict("records")[-1]
    return {
        "row": row,
        "widths": run.counts(row).tolist(),
        "weights": total["kept_weights"],
        **{ratio: total[ratio] for ratio in ("r_c", "r_s", "r_f")},
        "layers": layers.to_dict("records"),
    }


def spread(networks: Sequence[Trained]) -> Settings:
    """Return mean, sample standard deviation and range of the accuracies over the seeds."""
    result: Settings = {"networks": len(networks)}
    for name in ("val", "test"):
        values = [float(getattr(entry, name)) for entry in networks]
        result[name] = {
            "mean": statistics.mean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "min": min(values),
            "max": max(values),
        }
    return result


def show(results: Settings, console: Console) -> None:
    """Print every network that was trained, and how the search went."""
    table = Table("network", "widths", "weights", "r_c", "val %", "test %", title="LeNet on MNIST")
    base = results["base"]
    table.add_row(*_row("base", base), f"{base['val']:.2%}", f"{base['test']:.2%}")
    for name, found in results["searches"].items():
        table.add_section()
        for entry in found["networks"]:
            table.add_row(*_row(f"{name}: {entry['kind']}", entry), f"{entry['val']:.2%}", f"{entry['test']:.2%}")
    console.print(table)
    for name, found in results["searches"].items():
        timing, winner = found["search"], found["winner"]
        console.print(
            f"{name}: {timing['evaluations']} evaluations in {timing['seconds']:.0f} s; {timing['cached_share']:.1%} of the "
            "individuals were looked up."
        )
        if winner is None:
            console.print("No network of the shortlist keeps the base network's accuracy.")
            continue
        ratios = ", ".join(f"{ratio} {winner[ratio]:.2f}" for ratio in ("r_c", "r_s", "r_f"))
        console.print(f"Winner: {'-'.join(map(str, winner['widths']))}, {ratios}. Test accuracy, mean over the seeds:")
        for kind, group in found["accuracy"].items():
            console.print(f"  {kind}: {_mean_and_spread(group['test'])}")


def _row(name: str, figures: Settings) -> list[str]:
    widths = "-".join(map(str, figures["widths"]))
    return [f"{name}, seed {figures['seed']}", widths, f"{figures['weights']:,}", f"{figures['r_c']:.2f}"]


def _mean_and_spread(figures: Settings) -> str:
    spread = "" if figures["std"] is None else f" ± {figures['std']:.2%}"
    return f"{figures['mean']:.2%}{spread}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, help="limit of each search")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--random", action="store_true", help="also search at random, with as many evaluations")
    parser.add_argument("--quick", action="store_true", help="two minutes that only show that it runs")
    parser.add_argument(
        "--out", type=Path, help="folder for the results; default benchmarks/results, with --quick the cache"
    )
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    if options.evaluations:
        plan = replace(plan, evaluations=options.evaluations)
    console = Console()
    data = load_mnist(data_folder(), plan)
    workshop = Workshop(plan, data, console)
    base = workshop.train_base()
    # The limit on evaluations ends the search; a higher one continues it.
    algorithms: dict[str, Algorithm] = {"ECS": evo.ECS(population=plan.population, generations=1000)}
    if options.random:
        algorithms["random search"] = evo.RandomSearch(evaluations=plan.evaluations, batch=plan.population)
    searches = {}
    for name, algorithm in algorithms.items():
        run = search(workshop, algorithm, options.seed)
        searches[name] = compress(workshop, run, base, compare=name == "ECS")
        run.close()
    workshop.test([base])
    results = {
        "question": (__doc__ or "").splitlines()[0],
        "plan": asdict(plan),
        "paper": PAPER,
        "base": base.figures(),
        "searches": searches,
    }
    out = write_results("ecs_lenet_mnist", results, folder=options.out or (CACHE if options.quick else None))
    show(results, console)
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
