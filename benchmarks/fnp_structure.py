"""FNP's structural columns without training: how large are the networks that its importance matrix starts from?

Question: at the paper's γ and λ, how many parameters and multiply-accumulates does V* have (FNP eq. 2 to 7), and how long
does it take to find, next to the parameters and FLOPs that the paper prints for the networks it finds from there?

Set-up: VGG-16, ResNet-56, ResNet-110, GoogLeNet on CIFAR-10 and ResNet-50 on ImageNet; free are the layers that the paper
searches. **The weights are untrained**, as `initialise` draws them (Kaiming): what trained weights say of layers is missing,
and V* says little more than how λ weighs their costs. Several seeds, of which smallest and largest are given. The paper's
columns are of the networks that its search found near V*, and its FLOPs count more than multiply-accumulates (see the
networks' docstrings), so that shares of the original are what compares.

Then the search stage, for which weights do not matter but by V*: the paper's 50 + 20 · 50 candidates with at most the
parameters of V*, on two workers, by the score of the frame on two batches of `--batch` images of CIFAR-10 (JPEG), and by
`capacity`, the closed form, from where that is largest; by gradients at the largest γ only, and of `BY_GRADIENTS`. With
`--exact`, ResNet-56 is also searched on batches of 128: the winners of both are then scored on those, to see what the small
batch loses.

Outputs: `results/fnp_structure.json` and tables. `--seeds` (default 5), `--networks` (default all), `--generations`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import evo
from benchmarks.cifar10 import read_images
from benchmarks.common import data_folder, write_results
from evo.candidate import Candidate
from evo.fitness.base import Fitness
from evo.importance import importance_matrix
from evo.network.zoo import INPUTS, googlenet, resnet50, resnet56, resnet110, vgg16_cifar
from evo.training import Samples

UNTRAINED = "Weights are untrained (Kaiming): V* is what the importance matrix makes of random weights."


@dataclass(frozen=True)
class Paper:
    """What FNP prints of one network: millions of parameters and of FLOPs of the result, and its top-1 accuracy in %."""

    gamma: float
    params: float | None = None
    flops: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Case:
    """One of FNP's networks.

    Attributes:
        make: the network, untrained.
        free: patterns of the groups that are searched.
        lam: the paper's λ.
        params, flops: millions of parameters and of FLOPs of the original, as the paper prints them.
        rows: what it prints of the compressed ones (Tables 1 to 7).
    """

    make: Callable[[], nn.Module]
    free: tuple[str, ...]
    lam: float
    params: float
    flops: float | None
    rows: tuple[Paper, ...]


CASES = {
    "vgg16_cifar": Case(
        vgg16_cifar,
        ("features*",),
        0.5,
        14.73,
        314.59,
        (Paper(0.7, 1.81, accuracy=93.93), Paper(0.86, 0.70, 77.86, 93.67)),
    ),
    "resnet56": Case(
        resnet56,
        ("layer*.conv1",),
        10.0,
        0.85,
        127.62,
        (Paper(0.4, 0.50, accuracy=93.92), Paper(0.56, flops=56.82, accuracy=93.62), Paper(0.7, 0.25, accuracy=93.10)),
    ),
    "resnet110": Case(
        resnet110,
        ("layer*.conv1",),
        5.0,
        1.72,
        None,
        (Paper(0.5, 0.85, accuracy=94.49), Paper(0.7, 0.49, accuracy=93.95)),
    ),
    "googlenet": Case(
        googlenet,
        ("*.branch3.0.conv", "*.branch5.[01].conv"),
        20.0,
        6.15,
        1534.55,
        (Paper(0.95, 2.11, 511.64, 95.03),),
    ),
    "resnet50": Case(
        resnet50,
        ("layer*.conv[12]",),
        0.4,
        25.50,
        4135.70,
        (Paper(0.25, 15.09, 1949.52, 75.10), Paper(0.38, 10.82, 1340.37, 74.50), Paper(0.48, 7.99, accuracy=73.85)),
    ),
}
"""By name in the zoo."""

COSTS = ("params", "macs")
BY_GRADIENTS = ("vgg16_cifar", "resnet56")
"""Networks that are searched by the score of the frame too; the others take too long on two processors."""


def analysed(name: str, seed: int) -> evo.Network:
    """Return a network of the zoo with the weights that a seed draws."""
    torch.manual_seed(seed)
    return evo.Network.analyse(CASES[name].make(), torch.randn(1, *INPUTS[name]))


def preprocessed(network: evo.Network, case: Case, gamma: float) -> dict[str, Any]:
    """Return V*, its costs, and the seconds that it took."""
    start = time.perf_counter()
    counts = importance_matrix(network, gamma, case.lam, case.free)
    seconds = time.perf_counter() - start
    costs = network.costs.costs(counts, COSTS)
    return {"counts": counts.tolist(), **{cost: int(costs[cost]) for cost in COSTS}, "seconds": seconds}


def measured(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what the seeds give for every γ of one network, and the paper's columns."""
    case = CASES[name]
    rows: dict[float, list[dict[str, Any]]] = {row.gamma: [] for row in case.rows}
    for seed in seeds:
        network = analysed(name, seed)
        for gamma, found in rows.items():
            found.append({"seed": seed, **preprocessed(network, case, gamma)})
    original = network.cost_of(network.full)
    return {
        "lambda": case.lam,
        "free": list(case.free),
        "groups": [group.name for group in network.groups],
        "original": {cost: original[cost] for cost in COSTS},
        "paper_original": {"params_millions": case.params, "flops_millions": case.flops},
        "rows": [{"gamma": row.gamma, "preprocessed": rows[row.gamma], "paper": asdict(row)} for row in case.rows],
    }


def task_of(name: str, images: Samples) -> evo.Task:
    """Return a task of an untrained network; of images that it does not read, so many of the right shape that are noise."""
    torch.manual_seed(0)
    shape = INPUTS[name]
    if shape != tuple(images.x.shape[1:]):
        images = Samples(torch.randn(64, *shape), torch.arange(64) % 10)
    return evo.Task(CASES[name].make(), images, 0.1)


def searched(
    name: str, task: evo.Task, gamma: float, fitness: Fitness, generations: int, initial: str = "importance_matrix"
) -> dict[str, Any]:
    """Return what FGA finds within the parameters of V*, and how long it takes."""
    case, network = CASES[name], task.network
    start = network.costs.costs(importance_matrix(network, gamma, case.lam, case.free), ["params"])
    encoding = evo.ChannelVector.parse(
        {"initial": initial, "gamma": gamma, "lam": case.lam, "free": case.free}, "fnp_structure"
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = evo.search(
            task,
            encoding=encoding,
            fitness=fitness,
            algorithm=evo.FGA(generations=generations),
            budget=evo.Budget(params=int(start["params"])),
            out=folder,
            reuse=False,  # its time is reported
        )
        seconds = time.perf_counter() - began
        best = int(str(run.best.name))
        found = {cost: int(run.best[cost]) for cost in COSTS}
        measured = run.history.query("not cached")
        rejected = float(run.generations["rejected"].sum() / run.generations["drawn"].sum())
        counts = run.counts(best)
        blueprint = run.blueprint(best)
        run.close()
    score = {"score": fitness(Candidate(task, blueprint, 0))["score"]}
    return {
        "gamma": gamma, "initial": initial, "fitness": fitness.describe(), **found, **score, "seconds": seconds,
        "evaluations": len(measured), "seconds_per_candidate": float(measured["seconds"].mean()), "rejected": rejected,
        "capacity": float(network.costs.capacity(counts)), "structure": blueprint.to_json(),
    }  # fmt: skip


def search_stage(name: str, images: Samples, batch: int, generations: int, exact: bool) -> list[dict[str, Any]]:
    """Return what the searches find for one network, at every γ by the closed form, at the last by gradients."""
    task, rows = task_of(name, images), []
    for gamma in [row.gamma for row in CASES[name].rows]:
        closed_form = evo.ZeroShot(proxy="capacity")
        rows.append(searched(name, task, gamma, closed_form, generations, "capacity"))
    if name in BY_GRADIENTS:
        rows.append(searched(name, task, gamma, evo.ScoreOfFrame(batch_size=batch), generations))
    if exact and name == "resnet56":
        judge = evo.ScoreOfFrame(batch_size=128)
        rows.append(searched(name, task, rows[-1]["gamma"], judge, generations))
        for row in rows:
            row["score_on_128"] = judge(Candidate(task, evo.Blueprint.from_json(row["structure"]), 0))["score"]
    return rows


def search_table(results: dict[str, list[dict[str, Any]]]) -> Table:
    """Return what the searches found, next to the paper's."""
    table = Table(title="The search stage: 50 + 20 · 50 candidates, two workers", title_justify="left")
    headings = (
        "network",
        "γ",
        "score",
        "params, M",
        "paper, M",
        "MACs, M",
        "paper, M",
        "search, s",
        "capacity",
        "rejected",
    )
    for heading in (*headings, "score on 128"):
        table.add_column(heading, no_wrap=True)
    for name, rows in results.items():
        for row in rows:
            paper = next(entry for entry in CASES[name].rows if entry.gamma == row["gamma"])
            judge = row["fitness"]
            table.add_row(
                name,
                f"{row['gamma']:g}",
                judge.get("proxy") if judge["name"] == "zero_shot" else f"frame, batch {judge['batch_size']}",
                f"{row['params'] / 1e6:.3f}",
                "" if paper.params is None else f"{paper.params:g}",
                f"{row['macs'] / 1e6:.1f}",
                "" if paper.flops is None else f"{paper.flops:g}",
                f"{row['seconds']:.0f}",
                f"{row['capacity']:.2f}",
                f"{row['rejected']:.0%}",
                f"{row['score_on_128']:.2f}" if "score_on_128" in row else "",
            )
    return table


def table_of(results: dict[str, Any]) -> Table:
    """Return smallest and largest V* of all seeds in millions and in shares of the original, next to the paper's."""
    table = Table(title="V* from untrained weights, and what the paper found", title_justify="left", caption=UNTRAINED)
    for heading in ("network", "γ", "params V*, M", "%", "paper, M", "%", "MACs V*, M", "%", "paper, M", "%", "s"):
        table.add_column(heading, no_wrap=True)
    for name, figures in results.items():
        for row in figures["rows"]:
            cells = [name, f"{row['gamma']:g}"]
            for cost, key in (("params", "params"), ("macs", "flops")):
                values = [each[cost] for each in row["preprocessed"]]
                original, printed = figures["original"][cost], figures["paper_original"][f"{key}_millions"]
                paper = row["paper"][key]
                cells += [
                    _span([value / 1e6 for value in values]),
                    _span([100 * value / original for value in values]),
                    "" if paper is None else f"{paper:g}",
                    "" if paper is None or printed is None else f"{100 * paper / printed:.1f}",
                ]
            table.add_row(*cells, f"{max(each['seconds'] for each in row['preprocessed']):.2f}")
    return table


def _span(values: Sequence[float]) -> str:
    low, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="parameters and MACs of FNP's V* at the paper's γ and λ")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, default=8, help="images per batch of the score of the frame")
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--exact", action="store_true", help="search ResNet-56 on batches of 128 too (20 minutes)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=150)
    results = {name: measured(name, range(arguments.seeds)) for name in arguments.networks}
    console.print(table_of(results))
    images = read_images(data_folder() / "cifar10_jpeg_train.npz", 2000)
    searches = {}
    for name in arguments.networks:
        searches[name] = search_stage(name, images, arguments.batch, arguments.generations, arguments.exact)
        console.print(search_table({name: searches[name]}))
    written = {"weights": UNTRAINED, "networks": results, "batch": arguments.batch, "searches": searches}
    console.print(f"written to {write_results('fnp_structure', written)}")


if __name__ == "__main__":
    main()
