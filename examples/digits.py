"""The whole way in one go: train LeNet on real digits, evolve a smaller one on a local Ray, fine-tune it, save it.

Run it with `make demo`; results go to runs/digits. Takes a few minutes on two processors.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import evo
from evo.network.zoo import lenet
from evo.recipes.compression import Compression
from evo.recipes.ecs import ecs
from evo.report.plots import save_figure
from evo.report.progress import ProgressDisplay
from evo.report.tables import front_table, layer_table
from evo.training import Recipe, train
from evo.training.datasets import digits

FOLDER = Path("runs/digits")
RECIPE = Recipe(epochs=40, batch_size=32, lr=0.02, shift=1)


def main() -> None:
    """Run the demonstration."""
    console = Console()
    train_set, val_set, test_set = digits(size=28)
    console.print(f"Training LeNet 20-50-500-10 on {len(train_set)} digits …")
    torch.set_num_threads(1)  # so that the figures below do not depend on the number of processors
    torch.manual_seed(0)
    network = train(lenet(), train_set, RECIPE, np.random.default_rng(0))
    task = evo.Task(network, train_set, val_set, test=test_set)

    shutil.rmtree(FOLDER, ignore_errors=True)  # a demonstration starts afresh; a search would continue
    console.print("Evolving which of its 570 filters to keep, on a local Ray …")
    with ProgressDisplay(console) as display:
        result = ecs(
            task,
            fitness=evo.SubsetFineTune(images=1000, epochs=2, batch_size=32, lr=0.02, shift=1, lam=0.2),
            algorithm=evo.ECS(generations=12, population=40),
            evaluator=evo.RayEvaluator(),
            finetuning=RECIPE,
            out=FOLDER,
            callbacks=[display],
        )
    report(console, task, network, result)


def report(console: Console, task: evo.Task, network: torch.nn.Module, result: Compression) -> None:
    """Print the front, the winner and its figures on images that the search never saw, and save everything."""
    run = result.run
    console.print(front_table(run))
    console.print(layer_table(result.layers, f"Winner: id {result.id}, after ECS Tables 2 to 4"))
    assert task.test is not None
    for name, model in (("original", network), ("winner, fine-tuned", result.model)):
        parameters = sum(parameter.numel() for parameter in model.parameters())
        accuracies = [1 - evo.error_rate(model, images) for images in (task.val, task.test)]
        console.print(
            f"{name:>20}: {parameters:>8,} parameters, accuracy {accuracies[0]:.2%} on {len(task.val)} validation images, "
            f"{accuracies[1]:.2%} on {len(task.test)} test images",
            highlight=False,
            soft_wrap=True,
        )
    written = [
        evo.save(result.model, FOLDER / "winner.evo"),
        save_figure(run.plot.front(chosen=result.id), FOLDER / "front.png"),
        save_figure(run.plot.evolution(), FOLDER / "evolution.png"),
        save_figure(run.plot.filters(result.id, "conv1", tuned=result.model), FOLDER / "filters.png"),
    ]
    console.print(
        "Wrote:", *(f"  {path}" for path in [FOLDER / "history.sqlite", FOLDER / "run.toml", *written]), sep="\n"
    )
    console.print(f"Look further with `evo front {FOLDER}` and `evo show {FOLDER} {result.id}`.", highlight=False)


if __name__ == "__main__":
    main()
