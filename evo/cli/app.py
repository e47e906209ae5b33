"""The command `evo`."""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import evo
from evo.cli.interruption import interruptible, left_by_compression, left_by_search, left_by_training
from evo.cli.plot import KINDS, listed
from evo.errors import EvoError, SettingsError
from evo.export import training_file
from evo.run import Run

app = typer.Typer(
    help="Evolutionary search that makes trained convolutional networks smaller and faster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The run's folder.", show_default=False)]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help='Ray cluster to evaluate on: "auto" or host:port; short for evaluator.name=ray and evaluator.address.',
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of run.toml, e.g. algorithm.population=20; repeatable."
    ),
]


def console() -> Console:
    """Return standard output; not a terminal, it is wide enough for any table."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=160)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"evo {evo.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def search(
    file: Annotated[
        Path, typer.Argument(metavar="RUN.TOML", help="What to search, see `evo keys`.", show_default=False)
    ],
    override: Override = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, in place of the key `out`.")] = None,
    address: Address = None,
) -> None:
    """Search as a run.toml says; continues what its folder holds already."""
    from evo.cli.config import read_config
    from evo.cli.search import search as run_search

    config = read_config(file, override or (), out=out, address=address)
    with interruptible(partial(left_by_search, config.out)):
        run_search(config, console())


@app.command()
def compress(
    method: Annotated[str, typer.Option(help="The system: ecs, fnp, ocnna, adalayer or synaptic.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN.TOML", help="Network and data, see `evo keys`; or all in --set.", show_default=False
        ),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(help="fnp: share of the weights that the importance matrix removes, encoding.gamma.")
    ] = None,
    k: Annotated[
        list[float] | None,
        typer.Option(
            help="ocnna: percentile of a layer's filters that go, in [0, 100]; default 40. Repeatable: the smallest network "
            "that is nearly as accurate before fine-tuning is taken."
        ),
    ] = None,
    override: Override = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, in place of the key `out`.")] = None,
    address: Address = None,
    save: Annotated[
        Path | None, typer.Option(help="File for the network; default small.evo in the run's folder.")
    ] = None,
) -> None:
    """Compress a network as one of the published systems does: search, choose filters, fine-tune, save.

    Killed at any moment, the same command goes on where it stopped.
    """
    from evo.cli.compress import compress as run_method
    from evo.cli.compress import read_method
    from evo.cli.printing import print_exported
    from evo.cli.search import make_task, network_kept
    from evo.export import check_files, write

    chosen, config = read_method(method, file, override or (), gamma=gamma, k=k or (), out=out, address=address)
    path = save or config.out / "small.evo"
    check_files(path, None, None)
    screen = console()
    with interruptible(partial(left_by_compression, config.out)):
        task = make_task(config, screen)
        with network_kept(config.out):
            made = run_method(chosen, config, task, screen)
        shipped = write(made.run, task, made.id, made.model, path)
    if len(made.tuned) > 1:
        print(f"fine-tuned: {', '.join(f'id {row} ({error:.2%})' for row, error in made.tuned['error'].items())}")
    print_exported(screen, shipped, made.id, tuned=True)
    for line in made.remarks:
        print(line)
    print(f"the run is in {made.run.folder}; next: evo front {shlex.quote(str(made.run.folder))}")


@app.command()
def resume(folder: Folder, override: Override = None, address: Address = None) -> None:
    """Continue an interrupted search."""
    from evo.cli.config import resume_config
    from evo.cli.search import print_summary
    from evo.cli.search import search as run_search

    config = resume_config(folder, override or (), address=address)
    run, screen = Run(folder), console()
    if len(run.generations) >= config.algorithm.rounds:
        print(f"{folder}: finished already, all {config.algorithm.rounds} generations are done")
        print_summary(run, screen)
        return
    with interruptible(partial(left_by_search, folder)):
        run_search(config, screen)


@app.command()
def status(
    folder: Folder,
    watch: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Look again so often, until the search is not running any more."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch, a line per look.")] = False,
) -> None:
    """Print how a search stands that runs elsewhere on this machine, or has run; it is not disturbed."""
    from evo.cli.status import show_status

    try:
        show_status(folder, console(), every=watch, as_json=as_json)
    except KeyboardInterrupt:  # how one leaves --watch
        raise typer.Exit(130) from None


@app.command()
def front(
    folder: Folder,
    objectives: Annotated[
        str | None,
        typer.Option(help="Objectives or costs, with commas; default error (or the first objective) and params."),
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows to print at most.")] = 30,
) -> None:
    """Print the individuals that no other beats; `evo history --pareto` has all rows and columns."""
    from evo.report.tables import front_table

    run = Run(folder)
    console().print(front_table(run, listed("objectives", objectives), rows=rows))


@app.command()
def history(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="File ending in .parquet, .csv or .json; default CSV to standard output.")
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="The individuals that no other beats instead.")] = False,
    objectives: Annotated[
        str | None, typer.Option(help="With --pareto: objectives or costs, with commas; default as `evo front`.")
    ] = None,
    generations: Annotated[bool, typer.Option("--generations", help="The statistics of generations instead.")] = False,
    layers: Annotated[int | None, typer.Option(metavar="ID", help="The layers of an individual instead.")] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Print what the columns mean instead.")] = False,
) -> None:
    """Write the history of a run as a table: a row per individual, failures included."""
    from evo.cli.history import check_file, chosen_table, print_columns, write_table

    check_file(out)
    frame = chosen_table(
        Run(folder),
        pareto=pareto,
        generations=generations,
        layers=layers,
        objectives=listed("objectives", objectives),
    )
    if columns:
        print_columns(frame, console())
    else:
        write_table(frame, out)


@app.command()
def plot(
    folder: Folder,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of: {', '.join(KINDS)}.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File: .png, .pdf, .svg, …; default KIND.png here.")] = None,
    rows: Annotated[
        list[int] | None, typer.Option("--id", help="Individual to draw, default the best; or to mark, repeatable.")
    ] = None,
    x: Annotated[str | None, typer.Option(help="Objective or cost to the right, of front and evolution.")] = None,
    y: Annotated[str | None, typer.Option(help="Objective or cost upwards, of front and evolution.")] = None,
    objective: Annotated[str | None, typer.Option(help="Of convergence; default the first.")] = None,
    objectives: Annotated[str | None, typer.Option(help="Of hypervolume and parallel, with commas.")] = None,
    widths: Annotated[bool, typer.Option("--widths", help="Layer widths in place of costs, of parallel.")] = False,
    best: Annotated[int | None, typer.Option(min=1, help="Individuals of a generation: evolution, widths.")] = None,
    generations: Annotated[str | None, typer.Option(help="Of scores, with commas.")] = None,
    layer: Annotated[str | None, typer.Option(help="Of filters, the name of a convolution.")] = None,
) -> None:
    """Draw a picture of a run into a file."""
    from evo.cli.plot import plot as draw

    given = {
        "id": rows or None,
        "x": x,
        "y": y,
        "objective": objective,
        "objectives": listed("objectives", objectives),
        "widths": widths or None,
        "best": best,
        "generations": listed("generations", generations, int),
        "layer": layer,
    }
    print(f"written: {draw(folder, kind, out, {name: value for name, value in given.items() if value is not None})}")


@app.command()
def show(
    folder: Folder,
    row: Annotated[int | None, typer.Argument(metavar="ID", help="Default: the best.", show_default=False)] = None,
) -> None:
    """Print all about one individual: where it comes from, its objectives, costs and layers."""
    from evo.cli.printing import print_individual

    run = Run(folder)
    print_individual(console(), run, _row(run, row))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="The run's folder.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="File for the page; default report.html, or compare.html.", show_default=False)
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put several runs on one page.")] = False,
    watch: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="SECONDS", help="Write it again so often, until the search is not running any more."
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="What the front is drawn over, with commas; default the run's objectives, or error and params."
        ),
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Load network and data, too, and measure the original's error.")
    ] = False,
) -> None:
    """Write a page about a run to one HTML file that needs nothing else: the front, single individuals, how it went."""
    from evo.cli.report import report as write

    names = [name.strip() for name in objectives.split(",")] if objectives else None
    try:
        write(folders, out, console(), compare=compare, every=watch, objectives=names, original=original)
    except KeyboardInterrupt:  # how one leaves --watch
        raise typer.Exit(130) from None


def _row(run: Run, row: int | None) -> int:
    return int(str(run.best.name)) if row is None else row


@app.command()
def export(
    folder: Folder,
    row: Annotated[int | None, typer.Option("--id", help="Which individual; default the best.")] = None,
    out: Annotated[Path, typer.Option(help="File for the network, which evo.load reads.")] = Path("small.evo"),
    epochs: Annotated[float, typer.Option("--finetune", min=0, metavar="EPOCHS", help="Fine-tune on all images.")] = 0,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="How to fine-tune, e.g. lr=0.02: keys of [task.train]; default as the run's file does.",
        ),
    ] = None,
    pt2: Annotated[Path | None, typer.Option(help="A further file, for torch.export.load.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="A further file, in ONNX format.")] = None,
) -> None:
    """Build an individual's network, fine-tune it, write it to a file, and compare it with the original.

    Killed while fine-tuning, the same command goes on after the last finished epoch.
    """
    from evo.cli.config import read_overrides, resume_config
    from evo.cli.printing import print_exported
    from evo.export import check_files, same_task
    from evo.export import export as write
    from evo.report.progress import TrainingDisplay
    from evo.training import Recipe

    config, run = resume_config(folder, ["callbacks=[]"]), Run(folder)  # nothing is searched
    row = _row(run, row)
    run.blueprint(row)  # refuses an unknown id
    check_files(out, pt2, onnx)
    usual = config.finetuning or config.fitness
    like = usual.model_dump(include=set(Recipe.model_fields)) if isinstance(usual, Recipe) else {}
    recipe = Recipe.parse({**like, **read_overrides(override or ()), "epochs": epochs}, "--set:")
    if override and not epochs:
        raise SettingsError("--set says how to fine-tune; add --finetune EPOCHS")
    task = config.make_task()
    same_task(run, task)

    screen = console()
    left = partial(left_by_training, training_file(out), "nothing was written")
    with interruptible(left), TrainingDisplay("fine-tuning", screen) if epochs else nullcontext() as training:
        tuning = recipe if epochs else None
        made = write(run, task, row, out, finetuning=tuning, pt2=pt2, onnx=onnx, on_epoch=training)
    print_exported(screen, made, row, tuned=bool(epochs))


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A network of the zoo, or module:attribute.", show_default=False),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="SHAPE", help="Shape of an input without the batch, e.g. 3,224,224; repeatable."
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option("--args", metavar="KEY=VALUE", help="Argument of the function that returns it; repeatable."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Safetensors file with its weights.")] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Layers that stay whole, by name or pattern (head.*); repeatable."),
    ] = None,
    multiple: Annotated[int, typer.Option(help="Layers keep a multiple of this many channels, or all.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what can be searched in a network, what cannot and why, and what it costs."""
    from evo.cli.inspect import inspect as look

    found = look(
        model, inputs or (), arguments=arguments or (), weights=weights, protect=protect or (), multiple=multiple
    )
    if as_json:
        print(found.to_json())
    else:
        found.print(console())


@app.command()
def keys(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/run-toml.md.")] = False,
) -> None:
    """Print every key of run.toml with its type, default and meaning."""
    from evo.cli.keys import markdown
    from evo.cli.printing import print_keys

    if as_markdown:
        print(markdown(), end="")
    else:
        print_keys(console())


@app.command()
def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print every part that a run.toml can name: built in, or brought by an installed package, and whether it works."""
    from evo.cli import plugins as parts

    found = parts.listing()
    if as_json:
        print(parts.as_json(found))
    else:
        parts.show(found, console())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="evo")
    except EvoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # e.g. `evo front … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
