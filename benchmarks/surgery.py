"""What do analysing a network and building a candidate cost, against Torch-Pruning doing the same?

Question: how long does `Network.analyse` take and how much memory, with and without its proof; and `Network.build` for one
candidate? How does Torch-Pruning 1.6.1 compare, the best library of this kind, doing the same job in the same run, and are
the networks that both build equal bit for bit?

Set-up: every network of the zoo at its natural input and some of other families (`awkward.py`), one thread.
Each measurement runs in a fresh process, limited in time and memory; seconds are medians of repeated calls in the warm
process. Analysis: `Network.analyse` against `DependencyGraph().build_dependency` and `get_all_groups`. "Structure" is the part
of ours that does what Torch-Pruning does, tracing and grouping; the rest prepares costs and building, and proves every group
in float64, which Torch-Pruning does not. Memory: highest resident memory above the level after imports and making the
network. Building: a random half of the channels of every group; Torch-Pruning's usual way per candidate is to copy the network
deeply, make the copy's dependency graph and prune group by group. The share of the parameters that a tool can cut is what
it says itself: of Torch-Pruning's, some would break the network.

Outputs: `results/surgery.json` and a table in Markdown. Targets: analysis no slower than Torch-Pruning's; building at least 10
times as fast for vgg16_cifar and 30 times for resnet56 and lenet, with equal outputs.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import ROOT, write_results
from benchmarks.surgery_worker import SUBJECTS, WORK

SECONDS = 120
"""Limit of one measurement; those of Network.analyse on the largest networks repeat it less often."""

MEMORY = 12 * 2**30
"""Limit of the address space of one measurement, in bytes."""

ROUNDS = 5
QUICK = ("lenet", "resnet20", "U-Net")
TARGETS = {"vgg16_cifar": 10, "resnet56": 30, "resnet56, shortcut B": 30, "lenet": 30}
"""How many times as fast building has to be."""

Figures = dict[str, Any]


def measured(name: str, work: str, rounds: int) -> Figures:
    """Return what one process of `surgery_worker` found, with "failed" if it did not get to its end."""
    command = [sys.executable, "-m", "benchmarks.surgery_worker", name, work, str(rounds)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    failed = None
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, preexec_fn=limit, check=False
        )
        out = done.stdout
        if done.returncode:
            failed = _last_line(done.stderr) or f"ended with status {done.returncode}"
    except subprocess.TimeoutExpired as expired:
        out = (expired.stdout or b"").decode()
        failed = f"took longer than {SECONDS} s"
    figures: Figures = {}
    for line in out.splitlines():
        figures |= json.loads(line)
    return figures if failed is None else figures | {"failed": failed}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else ""


def measure(name: str, rounds: int) -> Figures:
    """Return all figures of one network."""
    subject = SUBJECTS[name]
    figures = {work: measured(name, work, rounds) for work in WORK}
    build = figures["build"]
    if "seconds_evo" in build and "seconds_torch_pruning" in build:
        build["times_faster"] = build["seconds_torch_pruning"] / build["seconds_evo"]
    return {"family": subject.family, "input": list(subject.shape), **figures}


COLUMNS = (
    "family",
    "network",
    "groups",
    "left whole",
    "can be cut",
    "Torch-Pruning",
    "analysis, s",
    "of which structure",
    "of which proof",
    "Torch-Pruning",
    "memory, MB",
    "Torch-Pruning",
    "build, ms",
    "Torch-Pruning",
    "faster",
    "outputs",
)


def row(name: str, figures: Figures) -> list[str]:
    """Return a row of the table; the columns of Torch-Pruning follow ours."""
    ours, theirs, build = (figures[work] for work in WORK)
    return [
        figures["family"],
        name,
        _shown(ours, "groups", "{:d}"),
        _shown(ours, "frozen", "{:d}"),
        _shown(ours, "share", "{:.1%}"),
        _shown(theirs, "share", "{:.1%}"),
        _shown(ours, "seconds", "{:.3f}"),
        _shown(ours, "seconds_structure", "{:.3f}"),
        _shown(ours, "seconds_proof", "{:.3f}"),
        _shown(theirs, "seconds", "{:.3f}"),
        _shown(ours, "memory", "{:.0f}", 1e-6),
        _shown(theirs, "memory", "{:.0f}", 1e-6),
        _shown(build, "seconds_evo", "{:.2f}", 1000),
        _shown(build, "seconds_torch_pruning", "{:.2f}", 1000),
        _shown(build, "times_faster", "{:.0f}×"),
        verdict(build),
    ]


def _shown(figures: Figures, name: str, form: str, factor: float | None = None) -> str:
    if name not in figures:
        return "–"
    return form.format(figures[name] if factor is None else figures[name] * factor)


def verdict(build: Figures) -> str:
    """Return how Torch-Pruning's candidate compares with ours."""
    if "equal" in build:
        return "equal" if build["equal"] else "differ"
    if "seconds_torch_pruning" in build:
        return "theirs does not run"
    return "theirs cannot be built" if "seconds_evo" in build else "not measured"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its first two columns are text."""
    lines = [COLUMNS, ["---", "---", *["---:"] * (len(COLUMNS) - 3), "---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(networks: Mapping[str, Figures]) -> Figures:
    """Return the figures that have targets."""
    builds = {name: figures["build"] for name, figures in networks.items()}
    both = [
        figures for figures in networks.values() if all("seconds" in figures[work] for work in ("evo", "torch_pruning"))
    ]
    ratios = {
        kind: [figures["evo"][kind] / figures["torch_pruning"]["seconds"] for figures in both]
        for kind in ("seconds", "seconds_structure")
    }
    return {
        "times_faster": {name: builds[name].get("times_faster") for name in TARGETS if name in builds},
        "targets": {name: target for name, target in TARGETS.items() if name in builds},
        "equal": sum(build.get("equal") is True for build in builds.values()),
        "not_equal": {
            name: build.get("failed", "outputs differ")
            for name, build in builds.items()
            if build.get("equal") is not True
        },
        "analysis_times_slower": _geometric_mean(ratios["seconds"]),
        "structure_times_slower": _geometric_mean(ratios["seconds_structure"]),
    }


def _geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surgery", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="default: all")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, one round; writes nothing")
    chosen = parser.parse_args(arguments)
    names = chosen.networks or (QUICK if chosen.quick else SUBJECTS)
    networks = {}
    for name in names:
        networks[name] = measure(name, 1 if chosen.quick else ROUNDS)
        print(f"{name} ({len(networks)} of {len(names)})", file=sys.stderr, flush=True)
    print(markdown([row(name, figures) for name, figures in networks.items()]))
    found = summary(networks)
    print(json.dumps(found, indent=2))
    if not chosen.quick and not chosen.networks:
        write_results("surgery", {"summary": found, "networks": networks})


if __name__ == "__main__":
    main()
