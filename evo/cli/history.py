"""`evo history`: the tables of a run, for other programs."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from evo.errors import SettingsError
from evo.run import Run

if TYPE_CHECKING:
    import pandas as pd

WRITERS: "dict[str, Callable[[pd.DataFrame, Path], object]]" = {
    ".parquet": lambda frame, path: frame.to_parquet(path),
    ".csv": lambda frame, path: frame.to_csv(path),
    ".json": lambda frame, path: frame.reset_index().to_json(path, orient="records", date_format="iso", indent=1),
}
"""How a table is written, by the ending of the file; Parquet alone keeps types and descriptions."""


def chosen_table(
    run: Run, *, pareto: bool, generations: bool, layers: int | None, objectives: Sequence[str] | None
) -> "pd.DataFrame":
    """Return the one table that is asked for; default the history.

    Raises:
        SettingsError: more than one, or objectives without `pareto`.
        RunFolderError: there is no individual of this id, or there is no front yet.
    """
    asked = {"--pareto": pareto, "--generations": generations, "--layers": layers is not None}
    several = [flag for flag, wanted in asked.items() if wanted]
    if len(several) > 1:
        raise SettingsError(f"{' and '.join(several)}: one table at a time")
    if objectives is not None and not pareto:
        raise SettingsError("--objectives says what the front is over; add --pareto")
    if layers is not None:
        return run.layers(layers)
    if generations:
        return run.generations.set_index("generation")
    return run.pareto(objectives or run.trade_off) if pareto else run.history


def write_table(frame: "pd.DataFrame", out: Path | None) -> None:
    """Write a table to a file, as its ending says, or as CSV to standard output.

    Raises:
        SettingsError: another ending, or the file cannot be written.
    """
    if out is None:
        frame.to_csv(sys.stdout)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[out.suffix.lower()](frame, out)
    except OSError as error:
        raise SettingsError(f"{out}: cannot be written ({error.strerror or error})") from None
    print(f"written: {out} ({len(frame):,} rows, {frame.shape[1] + 1} columns)")


def check_file(out: Path | None) -> None:
    """Raise SettingsError if the ending of a file is of no known format."""
    if out is not None and out.suffix.lower() not in WRITERS:
        raise SettingsError(f"{out}: a table ends in {', '.join(WRITERS)}")


def print_columns(frame: "pd.DataFrame", screen: Console) -> None:
    """Print what the columns of a table mean, and their types."""
    table = Table("column", "type", "meaning")
    for name in (frame.index.name, *frame.columns):
        kind = frame.index.dtype if name == frame.index.name else frame[name].dtype
        table.add_row(str(name), str(kind), frame.attrs["columns"].get(name, ""))
    screen.print(table, markup=False)
