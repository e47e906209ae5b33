"""Searches on disks that fill up: `unshare -rm python fill_disk.py FOLDER KIBIBYTES…`.

Each disk is a file system in memory, so large at first; nobody else sees it. For every one, a line of JSON is printed: what
the search said on it, what it said on the second try, and after there is room all rows of the history.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

import evo
from evo.errors import EvoError
from evo.testing import small_task

COLUMNS = ["generation", "operator", "parents", "key", "status", "cached", "score"]


@evo.fitness(maximize="score")
def small(candidate: evo.Candidate) -> dict[str, float]:
    return {"score": 1 / candidate.costs["params"]}


def search(task: evo.Task, folder: Path) -> list[list[object]]:
    """Return the rows that the search wrote."""
    run = evo.search(
        task,
        encoding=evo.FilterBits(),
        fitness=small,
        algorithm=evo.ECS(generations=6, population=6),
        evaluator=evo.LocalEvaluator(workers=0),
        out=folder,
        reuse=False,
    )
    rows: list[list[object]] = run.history[COLUMNS].to_numpy().tolist()
    run.close()
    return rows


def complaint(task: evo.Task, folder: Path) -> str:
    """Return how the search was refused; "" if it was not."""
    try:
        search(task, folder)
    except EvoError as error:
        return str(error)
    return ""


def main(place: str, *sizes: str) -> None:
    """Try every size."""
    torch.set_num_threads(1)
    task = small_task()
    for size in sizes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True)
        folder = Path(place) / "run"
        said = [complaint(task, folder), complaint(task, folder)]
        subprocess.run(["mount", "-o", "remount,size=8m", place], check=True)
        rows = search(task, folder)
        subprocess.run(["umount", "--lazy", place], check=True)
        print(json.dumps({"size": int(size), "said": said, "rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
