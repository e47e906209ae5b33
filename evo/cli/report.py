"""`evo report`: pages about runs."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evo.cli.config import resume_config
from evo.errors import SettingsError
from evo.export import same_task
from evo.report.html import checked, watch_report, write_comparison, write_report
from evo.report.progress import counts, generations
from evo.run import Run
from evo.status import RunStatus, status


def report(
    folders: Sequence[Path],
    out: Path | None,
    console: Console,
    *,
    compare: bool,
    every: float | None,
    objectives: Sequence[str] | None,
    original: bool,
) -> None:
    """Write the page that was asked for, and print where it is.

    Args:
        folders: of the runs.
        out: the file; default report.html or compare.html in the current folder.
        console: where to.
        compare: several runs on one page.
        every: seconds between looks at a search that runs; None for one look.
        objectives: what fronts are drawn over; None as `write_report` chooses.
        original: load network and data, too, and measure the original's error.

    Raises:
        SettingsError: options that do not go together, an unknown objective, or a file that cannot be written.
        RunFolderError: a folder is no run's.
    """
    if not compare and len(folders) > 1:
        raise SettingsError(f"expected one run folder, got {len(folders)}; --compare puts several runs on one page")
    if (compare or original) and every is not None:
        raise SettingsError(f"--watch follows one run; leave out --{'compare' if compare else 'original'}")
    if compare and original:
        raise SettingsError("--original measures the network of one run; leave out --compare")
    path = checked(out or Path("compare.html" if compare else "report.html"))
    if compare:
        write_comparison([Run(folder) for folder in folders], path, objectives=objectives)
    elif every is not None:
        watch_report(folders[0], path, every, objectives=objectives, written=lambda found: _say(console, path, found))
    else:
        status(folders[0])  # says what is going on where no search has begun yet
        write_report(_with_task(folders[0]) if original else Run(folders[0]), path, objectives=objectives)
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser, it needs nothing else")


def _with_task(folder: Path) -> Run:
    task = resume_config(folder).make_task()
    same_task(Run(folder), task)
    return Run(folder, task)


def _say(console: Console, path: Path, found: RunStatus) -> None:
    line = f"{path}: {found.state}, {generations(found)}, {counts(found)}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
