"""What there is to say about a run in words, numbers and commands; plain text, to be escaped where it is shown."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import tomli_w

from evo.folder import search_document
from evo.report.labels import LABELS
from evo.report.look import Look
from evo.report.members import excerpt
from evo.report.progress import duration, number
from evo.run import SETTINGS, Run
from evo.status import RunStatus
from evo.training import error_rate

REASONS = 40
"""Reasons of failures that are listed."""


@dataclass(frozen=True)
class Failure:
    """Evaluations that failed for one reason.

    Attributes:
        reason: why, as the history has it.
        count: how many.
        example: id of the first of them.
        status: failed or timeout.
        log: the end of what the first of them printed.
    """

    reason: str
    count: int
    example: int
    status: str
    log: str


def summary(look: Look, status: RunStatus) -> list[str]:
    """Return what was searched and how, what it took, and what came of it: a paragraph each."""
    return [_searched(look), _took(look, status), _found(look)]


def _searched(look: Look) -> str:
    settings, run = look.run.settings, look.run
    source = settings.get("source", {}).get("task", {})
    network = str(source.get("model", "A network"))
    data = f" on {source['data']}" if "data" in source else ""
    words = {"train": "training", "val": "validation", "test": "test"}
    sizes = [f"{count:,} {words[name]}" for name, count in run.images.items()]
    images = f" ({listed(sizes)} images)" if sizes else ""
    channels = sum(run.groups.values())
    first = run.objectives[0]
    aim = f"{'maximising' if first.maximize else 'minimising'} {first.name}"
    if len(run.objectives) > 1:
        aim += f" first, of {len(run.objectives)} objectives"
    budget = f", within the budget {run.limits.describe()}" if run.limits is not None else ""
    return (
        f"{network}{data}{images} was searched for smaller networks by the algorithm {_name(settings, 'algorithm')}, "
        f"with the encoding {_name(settings, 'encoding')} over {counted(channels, 'filter')} in "
        f"{counted(len(run.groups), 'coupling group')}, judged by the fitness {_name(settings, 'fitness')}, {aim}{budget}."
    )


def _took(look: Look, status: RunStatus) -> str:
    if not status.individuals:
        return f"No evaluation has finished yet, and none of {counted(status.generations, 'generation')}."
    parts = [f"{status.failed:,} failed" if status.failed else "none failed"]
    parts += [f"{counted(status.cached, 'repeat')} looked up instead"] if status.cached else []
    parts += [f"{status.reused:,} measured by other runs"] if status.reused else []
    workers = look.frame[["node", "worker"]].dropna().query("node != ''").drop_duplicates()
    where = (
        f", by {counted(len(workers), 'worker')} on {counted(workers['node'].nunique(), 'machine')}"
        if len(workers)
        else ""
    )
    return (
        f"So far {status.generation:,} of {counted(status.generations, 'generation')} are done, with "
        f"{counted(status.evaluated, 'evaluation')} ({', '.join(parts)}). All evaluations together are "
        f"{duration(_work(look))} of work{where}, between {moment(look.frame['finished'].min())} and "
        f"{moment(look.frame['finished'].max())} UTC."
    ).removeprefix("So far " if status.state == "finished" else "")


def _found(look: Look) -> str:
    best = look.best
    if best is None:
        return (
            "No evaluation has succeeded, so there is no front to show."
            if len(look.frame)
            else "There is no result yet."
        )
    first = look.run.objectives[0]
    text = f"The best {first.name}, {number(float(best[first.name]))}, has individual {best.name}"
    if "error" in look.frame and first.name != "error":
        text += f", with an error of {float(best['error']):.2%}"
    if "error" in look.frame:
        found = original_error(look)
        text += f"; the error of the original network is {found[0]:.2%} ({found[1]})" if found else ""
    params, macs = (ratio(look.original[name], float(best[name])) for name in ("params", "macs"))
    return (
        f"{text}. It has {int(best['params']):,} of {look.original['params']:,} parameters ({params} smaller) and takes "
        f"{int(best['macs']):,} of {look.original['macs']:,} multiply-accumulates ({macs} fewer)."
    )


def original_error(look: Look) -> tuple[float, str] | None:
    """Return the error of the original network and how it is known; None if it is not."""
    task = look.run.task
    if task is not None:
        return error_rate(task.network.build(task.network.full), task.val), "as it is, on the validation images"
    whole = (look.counts == look.run.costs.sizes).all(1) & (look.bits == look.bits.max(initial=0)).all(1)
    rows = look.frame[whole & (look.frame["status"] == "ok")]
    if rows.empty or float(rows["bytes"].iloc[0]) != look.original["bytes"]:
        return None
    return float(rows["error"].iloc[0]), f"treated like every candidate, individual {rows.index[0]}"


def numbers(look: Look, status: RunStatus) -> list[tuple[str, str, str]]:
    """Return the key numbers: a name, the number, and what to compare it with."""
    found: list[tuple[str, str, str]] = []
    best = look.best
    if best is not None:
        first = look.run.objectives[0]
        found.append((f"best {first.name}", number(float(best[first.name])), f"individual {best.name}"))
        if "error" in look.frame and first.name != "error":
            found.append(("its error", f"{float(best['error']):.2%}", "on validation images"))
        for cost in ("params", "macs", "bytes"):
            before, after = look.original[cost], int(best[cost])
            found.append((LABELS.get(cost, cost), ratio(before, after), f"{after:,} of {before:,}"))
    done = f"{status.generation:,} of {counted(status.generations, 'generation')}, {status.failed:,} failed"
    found.append(("evaluations", f"{status.evaluated:,}", done))
    found.append(("work", duration(_work(look)), "all evaluations together"))
    return found


def standing(status: RunStatus) -> str:
    """Return whether the search runs, in a sentence that stays true."""
    last = (
        f"; the last result is of {moment(status.last)} UTC" if status.last is not None else "; there is no result yet"
    )
    if status.state == "running" and status.claim is not None:
        since = moment(datetime.fromtimestamp(status.claim.since, UTC))
        return f"{status.folder}, by {status.claim} since {since} UTC{last}."
    why = "" if status.stop is None else f", stopped because {status.stop.reason}"
    return f"{status.folder}{why}{last}."


def next_commands(look: Look, status: RunStatus) -> list[tuple[str, str]]:
    """Return what to do next: a sentence, and a command or lines of Python."""
    run, folder = look.run, str(look.run.folder)
    quoted = shlex.quote(folder)
    best = None if look.best is None else int(str(look.best.name))
    found: list[tuple[str, str]] = []
    if "source" in run.settings:
        if best is not None:
            tune = f"evo export {quoted} --id {best} --out small.evo --finetune 10"
            found.append(("Build the best network, fine-tune it, and write it to a file:", tune))
            found.append(("Print all about it:", f"evo show {quoted} {best}"))
        if status.state == "stopped":
            option = "" if status.stop is None or not status.stop.option else f" --set {status.stop.option}"
            found.append(("Continue the search:", f"evo resume {quoted}{option}"))
        return found
    if best is not None:
        code = (
            f"run = evo.Run({folder!r}, task)  # the task that the search was given\nsmall = run.build({best})\n"
            'evo.finetune(small, task, epochs=10)\nevo.save(small, "small.evo")'
        )
        found.append(("Build the best network, fine-tune it, and write it to a file, in Python:", code))
    if status.state == "stopped":
        call = f"evo.search(task, …, out={folder!r})  # all arguments as they were"
        sentence = "Continue the search: run the program again that began it, which calls"
        found.append((sentence, call))
    return found


def again(run: Run) -> list[tuple[str, str]]:
    """Return how to make the same run anew: a sentence, and a file or a command, in turns."""
    if "source" not in run.settings:
        return [
            (
                "The search was started from Python, where alone its task is known. The same program makes the same run in "
                "another folder; these settings, which are the arguments of evo.search, and the hashes of network and data "
                "have to be the same:",
                f"{run.folder / SETTINGS}",
            )
        ]
    place = run.settings["source"]["folder"]
    return [
        (
            f"Save this as again.toml in {place}, from where its names of modules and files are looked up:",
            tomli_w.dumps(search_document(run.settings)),
        ),
        ("and search into a new folder:", f"evo search {shlex.quote(f'{place}/again.toml')} --out runs/again"),
    ]


def failures(look: Look) -> tuple[list[Failure], int]:
    """Return why evaluations failed, the most frequent reason first, and how many failed for reasons not listed."""
    rows = look.frame[(look.frame["status"] != "ok") & ~look.frame["cached"]]
    groups = [
        Failure(
            str(reason),
            len(part),
            int(part.index[0]),
            str(part["status"].iloc[0]),
            excerpt(part["log"].iloc[0]),
        )
        for reason, part in rows.groupby("reason", sort=False)
    ]
    groups.sort(key=lambda group: -group.count)
    return groups[:REASONS], sum(group.count for group in groups[REASONS:])


def nodes(look: Look, status: RunStatus) -> list[tuple[str, ...]]:
    """Return a row per machine: name, workers, evaluations, their mean time, its share of all work, peak memory of a worker."""
    workers = look.frame.query("node != ''").groupby("node")["worker"].nunique()
    everything = sum(node.seconds * node.evaluations for node in status.nodes) or 1.0
    return [
        (
            node.name or "unknown",
            f"{int(workers.get(node.name, 0))}",
            f"{node.evaluations:,}",
            f"{node.seconds:.3g} s",
            f"{node.seconds * node.evaluations / everything:.0%}",
            "" if node.worker_memory is None else f"{node.worker_memory / 2**20:,.0f} MiB",
        )
        for node in status.nodes
    ]


def settings_rows(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return every setting as text, by the table of run.toml that it is in; those of none come first."""
    plain = [(name, _text(value)) for name, value in settings.items() if not isinstance(value, Mapping)]
    tables = [(name, flattened(table)) for name, table in settings.items() if isinstance(table, Mapping)]
    return [("search", plain), *tables]


def flattened(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the entries of a table and those within it, under dotted names."""
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        found += flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, _text(value))]
    return found


def ratio(before: float, after: float) -> str:
    """Return how many times smaller something became."""
    return f"{before / after:.1f}×" if after else "∞"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(parts: list[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _name(settings: Mapping[str, Any], part: str) -> str:
    return str(settings.get(part, {}).get("name", "unknown"))


def _work(look: Look) -> float:
    return float(look.frame["seconds"].sum())


def moment(time: datetime) -> str:
    """Return a time to the second."""
    return f"{time:%Y-%m-%d %H:%M:%S}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries" if len(value) > 20 else ", ".join(map(_text, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
