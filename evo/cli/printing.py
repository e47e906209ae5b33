"""What the shell prints about one individual, an exported network, and the keys of run.toml."""

import json

from rich.console import Console
from rich.table import Table

from evo.export import Exported
from evo.report.progress import number
from evo.report.tables import layer_table
from evo.run import Run


def print_individual(console: Console, run: Run, row: int) -> None:
    """Print origin, objectives, costs, structure and layers of the individual `row`.

    Raises:
        RunFolderError: there is no such individual.
    """
    blueprint = run.blueprint(row)
    record = run.history.loc[row].to_dict()
    parents = ", ".join(map(str, json.loads(str(record["parents"]))))
    made = f"{record['operator']} of {parents}" if parents else str(record["operator"])
    state = record["status"] + (" (looked up)" if record["cached"] else "")
    _say(console, f"id {row}: generation {record['generation']}, {made}; {state}")
    if record["reason"]:
        _say(console, f"why: {record['reason']}")
    original = run.costs.costs(run.costs.sizes)
    costs = {name: record[name] for name in original}
    objectives = [entry for entry in run.objectives if entry.name not in costs]
    if record["status"] == "ok":
        for entry in objectives:
            direction = "maximised" if entry.maximize else "minimised"
            _say(console, f"{entry.name} {float(record[entry.name]):.4f} ({direction})")
    table = _table("cost", "original", "this one", "ratio")
    for name in costs:
        before, after = int(original[name]), int(costs[name])
        table.add_row(name, f"{before:,}", f"{after:,}", _ratio(before, after))
    console.print(table)
    table = _table("group", "filters", "kept", "share")
    for name, mask in blueprint.masks.items():
        table.add_row(name, f"{mask.size:,}", f"{int(mask.sum()):,}", f"{mask.mean():.0%}")
    console.print(table)
    console.print(layer_table(run.layers(row), "Layers: compression r_c, speed-up r_s, feature maps r_f"))


def print_exported(console: Console, made: Exported, row: int, *, tuned: bool) -> None:
    """Print what an export wrote, and the network against the original."""
    table = _table("", "original", f"id {row}", "compared")
    for name in ("params", "macs", "bytes"):
        before, after = made.costs[name]
        table.add_row(name, f"{before:,}", f"{after:,}", _ratio(before, after))
    for name, (error, own) in made.errors.items():
        table.add_row(f"error on {name}", f"{error:.2%}", f"{own:.2%}", f"{own - error:+.2%}")
    console.print(table)
    if not tuned:
        _say(console, "not fine-tuned: its error is that of the cut weights; add --finetune EPOCHS")
    size = made.path.stat().st_size
    _say(console, f"written: {made.path} ({number(size)} bytes)")
    for sentence in made.others:
        _say(console, f"written: {sentence}")


def print_keys(console: Console) -> None:
    """Print every key of run.toml."""
    from evo.cli.keys import sections

    for section in sections():
        table = _table("key", "type", "default", "meaning", justify="left")
        for key in section.keys:
            table.add_row(key.name, key.kind, key.default, key.meaning)
        console.print(f"{section.title}: {section.about}", style="bold", highlight=False, markup=False)
        console.print(table, markup=False)


def _table(*columns: str, justify: str = "right") -> Table:
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index and justify == "right" else "left")
    return table


def _ratio(before: float, after: float) -> str:
    return f"{before / after:.2f}×" if after else ""


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
