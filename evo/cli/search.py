"""A search from the shell: what it says before, while and after it goes on."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from evo.cli.config import Config
from evo.export import training_file
from evo.report.progress import ProgressDisplay, TrainingDisplay
from evo.report.structure import by_reason
from evo.report.tables import fidelity_table, front_table
from evo.run import SETTINGS, Run
from evo.seeding import SOURCES, TAKEN
from evo.task import Task


def search(config: Config, screen: Console) -> None:
    """Search with a live display, then print what was found."""
    task = make_task(config, screen)
    with network_kept(config.out), ProgressDisplay(screen) as show:
        run = config.search(task, [show])
    if (stop := run.stopped) is not None:
        print(
            f"stopped after generation {len(run.generations)} of {config.algorithm.rounds}: {stop.reason}; to go on: "
            f"evo resume {shlex.quote(str(run.folder))}{stop.option and f' --set {stop.option}'}"
        )
    print_summary(run, screen)


@contextmanager
def network_kept(folder: Path) -> Iterator[None]:
    """Delete the checkpoint of the network's own training in the end if the run's folder holds the network by then."""
    try:
        yield
    finally:
        if (folder / SETTINGS).exists():
            training_file(folder).unlink(missing_ok=True)


def make_task(config: Config, screen: Console) -> Task:
    """Load network and data, train the network if the file says so, and print what there is to search."""
    with TrainingDisplay("training the network", screen) if config.task.trains else nullcontext() as training:
        task = config.make_task(training, training_file(config.out))
    sizes = [f"{len(part):,} {name}" for name, part in vars(task).items() if name in ("train", "val", "test") and part]
    screen.print(
        f"{config.source['task']['model']} on {config.source['task']['data']}: {', '.join(sizes)} images; "
        f"{task.network.channels:,} filters in {len(task.network.groups)} groups to choose from",
        highlight=False,
        soft_wrap=True,
    )
    for reason, layers in by_reason(task.network.frozen).items():
        screen.print(f"left whole: {', '.join(layers)} ({reason})", highlight=False, soft_wrap=True)
    return task


def print_summary(run: Run, screen: Console) -> None:
    """Print what a finished search found and what to do with it."""
    best = int(str(run.best.name))
    screen.print(front_table(run, rows=8))
    if len(run.fidelities) > 1:
        screen.print(fidelity_table(run))
    if SOURCES in run.settings:
        counted = zip(run.settings[SOURCES], run.settings[TAKEN], strict=True)
        parts = [f"{n['taken']} of {n['made']} from {one.get('folder', one['from'])}" for one, n in counted]
        print(f"began with {', '.join(parts)}")
    if run.limits is not None:
        drawn, rejected = (int(run.generations[name].sum()) for name in ("drawn", "rejected"))
        print(f"budget: {run.limits.describe()}; rejected {rejected / max(1, drawn):.1%} of {drawn:,} genomes drawn")
    folder = shlex.quote(str(run.folder))
    print(f"best {run.objectives[0].name}: id {best}")
    print(f"the run is in {run.folder}; next:")
    print(f"  evo front {folder}")
    print(f"  evo show {folder} {best}")
    if "source" in run.settings:
        print(f"  evo export {folder} --id {best} --out small.evo --finetune 10")
