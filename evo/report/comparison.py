"""What a page says about several runs side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evo.compare import names_of
from evo.errors import SettingsError
from evo.fitness.base import Objective
from evo.front import MOST, non_dominated
from evo.report import figures
from evo.report.drawn import Drawn, rows
from evo.report.facts import flattened, ratio
from evo.report.look import Look, thinned
from evo.report.progress import duration, number
from evo.run import Run
from evo.status import status

UNINTERESTING = ("versions", "hardware", "source")
"""Tables of run.toml whose differences are listed last."""


def looks_of(runs: Sequence[Run], objectives: Sequence[str] | None) -> list[Look]:
    """Look at runs that can be compared.

    Raises:
        SettingsError: fewer than two runs, or runs with different objectives.
    """
    if len(runs) < 2:
        raise SettingsError(f"runs: expected at least two to compare, got {len(runs)}")
    first = runs[0]
    for other in runs[1:]:
        if other.objectives != first.objectives:
            raise SettingsError(
                f"runs: {other.folder} has other objectives ({_said(other.objectives)}) than {first.folder} "
                f"({_said(first.objectives)}); runs are compared by the same ones"
            )
    return [Look.at(run, objectives) for run in runs]


def comparison(runs: Sequence[Run], objectives: Sequence[str] | None) -> dict[str, Any]:
    """Return what the page says; see `looks_of` for what it raises."""
    looks = looks_of(runs, objectives)
    names = names_of([run.folder for run in runs])
    joint = _joint_front(looks)
    return {
        "names": names,
        "summary": [_row(look, name, share) for look, name, share in zip(looks, names, joint, strict=True)],
        "axes": [axis.name for axis in looks[0].objectives],
        "first": looks[0].run.objectives[0].name,
        "has_error": all("error" in look.frame for look in looks),
        "same_task": len({str(run.settings["task"]) for run in runs}) == 1,
        "empty": [name for look, name in zip(looks, names, strict=True) if not len(look.measured)],
        "figures": _figures(looks, names),
        "differences": differences(runs),
    }


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the settings in which runs differ, under dotted names, with the value of every run; "" where it has none."""
    tables = [dict(flattened(run.settings)) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    found = [(key, [table.get(key, "") for table in tables]) for key in keys]
    different = [(key, values) for key, values in found if len(set(values)) > 1]
    return sorted(different, key=lambda entry: entry[0].split(".")[0] in UNINTERESTING)


def _said(objectives: Sequence[Objective]) -> str:
    return ", ".join(
        f"{objective.name} {'maximised' if objective.maximize else 'minimised'}" for objective in objectives
    )


def _joint_front(looks: Sequence[Look]) -> list[int]:
    """Return how many of the individuals that nothing in any run beats are of which run."""
    values = [look.values(looks[0].objectives) for look in looks]
    kept = non_dominated(np.concatenate(values))
    ends = np.cumsum([len(part) for part in values])[:-1]
    return [int(part.sum()) for part in np.split(kept, ends)]


def _row(look: Look, name: str, joint: int) -> dict[str, Any]:
    found, best, first = status(look.run.folder), look.best, look.run.objectives[0]
    row: dict[str, Any] = {"name": name, "folder": str(look.run.folder), "state": found.state, "joint": joint}
    row |= {"evaluations": f"{found.evaluated:,}", "failed": f"{found.failed:,}"}
    row |= {
        "work": duration(float(look.frame["seconds"].sum())),
        "best": "",
        "id": "",
        "error": "",
        "params": "",
        "macs": "",
    }
    if best is not None:
        row |= {"best": number(float(best[first.name])), "id": str(best.name)}
        row |= {cost: f"{int(best[cost]):,} ({ratio(look.original[cost], best[cost])})" for cost in ("params", "macs")}
        row |= {"error": f"{float(best['error']):.2%}"} if "error" in look.frame else {}
    return row


def _figures(looks: Sequence[Look], names: Sequence[str]) -> dict[str, Drawn]:
    axes, first = looks[0].objectives, looks[0].run.objectives[0]
    found: dict[str, Drawn] = {}
    if len(axes) > 1:
        y, x = axes[:2]
        points = [
            (name, str(row.name), number(float(row[x.name])), number(float(row[y.name])))
            for look, name in zip(looks, names, strict=True)
            for _, row in look.frame.iloc[thinned(look.front((x, y)), 30)].iterrows()
        ]
        found["joint"] = Drawn(
            figures.joint_front_figure(looks, names),
            f"The individuals of every run that no other of its run beats in {y.name} and {x.name}.",
            f"Pareto fronts of {len(looks)} runs over {y.name} and {x.name}.",
            ("run", "id", x.name, y.name),
            tuple(points),
        )
    courses = [figures.best_so_far(look, first) for look in looks]
    found["convergence"] = Drawn(
        figures.joint_convergence_figure(looks, names),
        f"The best {first.name} so far ({'higher' if first.maximize else 'lower'} is better).",
        _ends(names, [values for _, values in courses], f"Best {first.name} in the end"),
        ("run", "evaluations", f"best {first.name}"),
        _table(names, courses),
    )
    if 2 <= len(axes) <= MOST:
        figure = figures.hypervolume_figure(looks, names)
        volumes = [(line.x, line.y) for line in figure.data]
        found["hypervolume"] = Drawn(
            figure,
            f"How much of the box between the best and the worst {' and '.join(axis.name for axis in axes)} of all these runs "
            "their fronts cover: the hypervolume. A cost reaches from 0 to that of the original network.",
            _ends(names, [values for _, values in volumes], "Hypervolume in the end"),
            ("run", "evaluations", "hypervolume"),
            _table(names, volumes),
        )
    return found


def _ends(names: Sequence[str], values: Sequence[Any], what: str) -> str:
    ends = [f"{name} {number(float(part[-1]))}" for name, part in zip(names, values, strict=True) if len(part)]
    return f"{what}: {', '.join(ends) or 'no value yet'}."


def _table(names: Sequence[str], courses: Sequence[tuple[Any, Any]]) -> tuple[tuple[str, ...], ...]:
    parts = [(name, rows(zip(*course, strict=True))) for name, course in zip(names, courses, strict=True)]
    return tuple((name, *row) for name, part in parts for row in part)
