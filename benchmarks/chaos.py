"""Does a search on a cluster survive everything at once, for long?

Question: with a random fault every few seconds for ten minutes, is any evaluation lost, counted twice or wrong, and does the
memory of driver and workers stay flat?

Set-up: a Ray cluster of three nodes with a processor each on this machine (`ray.cluster_utils`), one asynchronous ECS search
of short evaluations (10 to 90 ms, by structure). Every one to four seconds one of these happens: a worker is killed (-9), a
worker is stopped for two seconds, a node is lost without a word, a node joins (never more than three beside the head).
Besides, one try in a hundred raises, and one in five hundred hangs until its timeout of five seconds. Half-way the driver
gets Ctrl-C (SIGINT) and continues from its folder. A score is a known function of the structure, so that every row can be
checked.

Outputs: `results/chaos.json` and a table. Targets: every individual has one row, but for those that are under way, and every
structure one measurement; every score is right; only hangs end otherwise; the file is whole; memory of the last third is not
more than 10 % above that of the second. What is missed is printed, and the exit status is 1. `--seconds` shortens it.
"""

import argparse
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

import evo
from benchmarks.common import write_results
from evo.network.zoo import lenet
from evo.training.datasets import digits

MEBI = 2**20
TIMEOUT = 5.0
LATE = pd.Timedelta(seconds=60)
"""What has no row after that long is lost; the longest wait is for a node that does not answer any more."""
GROWTH = 0.1
"""Most that memory may grow."""


@evo.fitness(maximize="score")
def fragile(candidate: evo.Candidate) -> Mapping[str, float]:
    """Return a number that the structure decides, after a time that it decides, unless chance interferes."""
    chance = random.SystemRandom().random()
    if chance < 0.01:
        raise OSError("a file that is not there for a moment")
    if chance < 0.012:
        time.sleep(3600)
    time.sleep(0.01 + 0.08 * candidate.rng("time").random())
    return {"score": score(candidate)}


def score(candidate: evo.Candidate) -> float:
    """Return what `fragile` measures."""
    return float(1 / candidate.costs["params"] + 1e-6 * candidate.rng("score").random())


@dataclass
class Account:
    """What was done to the cluster, and the memory of driver and largest worker meanwhile, as (seconds, MiB)."""

    faults: Counter[str] = field(default_factory=Counter)
    driver: list[tuple[float, float]] = field(default_factory=list)
    worker: list[tuple[float, float]] = field(default_factory=list)


class Chaos:
    """A cluster and what happens to it; has a process of its own, whose main thread Ray wants for adding nodes."""

    def __init__(self, driver: int, seed: int) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.account = Account()
        self._driver = driver
        self._nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self._random = random.Random(seed)
        self._began = time.monotonic()

    def disturb(self) -> None:
        """Do something bad, if what chance chooses is possible at this moment."""
        deeds: dict[str, Callable[[], bool]] = {
            "worker killed": lambda: self._signal(signal.SIGKILL) is not None,
            "worker stopped for 2 s": self._stop,
            "node lost": self._lose,
            "node joined": self._join,
        }
        name = self._random.choice(list(deeds))
        self.account.faults[name] += deeds[name]()

    def note(self) -> None:
        """Take the memory of driver and workers."""
        now = time.monotonic() - self._began
        self.account.driver.append((now, resident(self._driver)))
        busy = [resident(process) for process in self._workers()]
        if busy:
            self.account.worker.append((now, max(busy)))

    def _workers(self) -> list[int]:
        """Return the processes that evaluate for this cluster at this moment."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                name = path.read_bytes()
                if name.startswith(b"ray::") and b"_chunk" in name:  # not the helpers of the node itself
                    parent = path.with_name("stat").read_text().rpartition(")")[2].split()[1]
                    if self.cluster.address.encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                        found.append(int(path.parent.name))
        return found

    def _signal(self, number: int) -> int | None:
        found = self._workers()
        if found:
            chosen = self._random.choice(found)
            with suppress(ProcessLookupError):
                os.kill(chosen, number)
                return chosen
        return None

    def _stop(self) -> bool:
        stopped = self._signal(signal.SIGSTOP)
        if stopped is None:
            return False
        time.sleep(2)
        with suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)
        return True

    def _lose(self) -> bool:
        if not self._nodes:
            return False
        node = self._nodes.pop(self._random.randrange(len(self._nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        return True

    def _join(self) -> bool:
        if len(self._nodes) >= 3:
            return False
        self._nodes.append(self.cluster.add_node(num_cpus=1))
        return True


def rule(driver: int, connection: Connection) -> None:
    """Start a cluster, send its address, disturb it until the other end says that it is enough, and send the account."""
    signal.signal(signal.SIGINT, lambda *_: None)  # of the terminal; ignored, it would be for all nodes and workers too
    chaos = Chaos(driver, seed=0)
    try:
        connection.send(chaos.cluster.address)
        patience = random.Random(1)
        while not connection.poll(patience.uniform(1, 4)):
            chaos.note()
            chaos.disturb()
        connection.recv()
        connection.send(chaos.account)
    except (EOFError, BrokenPipeError):  # the other end is gone
        pass
    finally:
        chaos.cluster.shutdown()  # type: ignore[no-untyped-call]


def resident(process: int) -> float:
    """Return the memory of a process that it shares with nobody, in MiB; 0 if it has ended."""
    try:
        pages = [int(word) for word in Path(f"/proc/{process}/statm").read_text().split()]
    except OSError:
        return 0.0
    return (pages[1] - pages[2]) * 4096 / MEBI


def growth(samples: list[tuple[float, float]]) -> float:
    """Return how much larger the median of the last third is than that of the second third, as a share; 0 of a few."""
    values = [value for _, value in samples]
    if len(values) < 9:
        return 0.0
    third = len(values) // 3
    second, last = (sorted(part)[len(part) // 2] for part in (values[third : 2 * third], values[2 * third :]))
    return last / second - 1


def search(task: evo.Task, folder: Path, seconds: float, address: str) -> evo.Run:
    """Search for so long, until Ctrl-C, and return what there is by then."""
    end = time.monotonic() + seconds
    clock = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    clock.start()
    try:
        evo.search(
            task,
            encoding=evo.FilterBits(),
            fitness=fragile,
            algorithm=evo.ECS(generations=100_000, population=100, asynchronous=True),
            evaluator=evo.RayEvaluator(address=address, timeout=TIMEOUT, retries=5),
            out=folder,
            reuse=False,
        )
    except KeyboardInterrupt:
        if time.monotonic() < end:  # somebody else's
            raise
    finally:
        clock.cancel()
    return evo.Run(folder, task)


def check(run: evo.Run, task: evo.Task) -> dict[str, Any]:
    """Return what is wrong with the history, and what is in it."""
    history = run.history
    turns = history["turn"].sort_values()
    measured = history[~history["cached"]]
    good = history[history["status"] == "ok"]
    wrong = sum(
        float(row["score"]) != score(evo.Candidate(task, run.blueprint(int(str(number))), 0))
        for number, row in good.iterrows()
    )
    return {
        "rows": len(history),
        "evaluations": len(measured),
        "statuses": measured["status"].value_counts().to_dict(),
        "reasons": measured.loc[measured["status"] == "failed", "reason"].value_counts().to_dict(),
        "more_than_one_try": int((measured["tries"] > 1).sum()),
        "nodes": int(measured["node"].nunique()),
        "individuals_lost": lost(history),
        "turns_missing_or_twice": len(turns) - len(set(turns) & set(range(len(turns)))),
        "structures_measured_twice": int(measured["key"].duplicated().sum()),
        "wrong_scores": wrong,
        "integrity": integrity(run.folder / "history.sqlite"),
    }


def lost(history: pd.DataFrame) -> int:
    """Return how many individuals have no row that were proposed long before the last row was written."""
    old = history[history["finished"] < history["finished"].max() - LATE]
    return 0 if old.empty else len({*range(int(old["asked"].max()))} - {*history.index})


def missed(found: Mapping[str, Any], grown: Mapping[str, float]) -> list[str]:
    """Return which targets are not met."""
    faults = {
        name: found[name]
        for name in ("individuals_lost", "turns_missing_or_twice", "structures_measured_twice", "wrong_scores")
    }
    faults["failures_other_than_timeouts"] = found["statuses"].get("failed", 0)
    lines = [f"{name.replace('_', ' ')}: {count}, expected none" for name, count in faults.items() if count]
    if found["integrity"] != "ok":
        lines.append(f"integrity: {found['integrity']}")
    too_much = {name: share for name, share in grown.items() if share > GROWTH}
    return lines + [
        f"{name.replace('_', ' ')}: grew by {share:.1%}, at most {GROWTH:.0%}" for name, share in too_much.items()
    ]


def integrity(path: Path) -> str:
    """Return what SQLite finds wrong with a file, "ok" if nothing."""
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("PRAGMA integrity_check").fetchone()[0])


def main() -> None:
    """Search amid faults, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    seconds = parser.parse_args().seconds
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it would be ignored
    torch.manual_seed(0)
    train, val, _ = digits(size=28)
    task = evo.Task(lenet(), train, val)
    ours, theirs = Pipe()
    ruler = get_context("spawn").Process(target=rule, args=(os.getpid(), theirs))
    ruler.start()
    theirs.close()  # so that either end learns when the other is gone
    try:
        address = ours.recv()
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                run = search(task, Path(folder) / "run", seconds / 2, address)
            ours.send("enough")
            account: Account = ours.recv()
            found = check(run, task)
    finally:
        ours.close()
        ruler.join()
    memory = {"driver_mib": account.driver, "largest_worker_mib": account.worker}
    grown = {name: growth(samples) for name, samples in memory.items()}
    table = Table("", "", title=f"{seconds:.0f} seconds of chaos", title_justify="left", show_header=False)
    for name, value in {**account.faults, **found}.items():
        table.add_row(name.replace("_", " "), f"{value}")
    for name, share in grown.items():
        table.add_row(f"{name.replace('_', ' ')}, growth over the last third", f"{share:+.1%}")
    Console().print(table)
    if seconds >= 600:
        results = {
            "seconds": seconds,
            "faults": dict(account.faults),
            "found": found,
            "growth": grown,
            "memory": memory,
        }
        write_results("chaos", results)
    targets = missed(found, grown)
    for line in targets:
        print(f"target missed: {line}")
    sys.exit(bool(targets))


if __name__ == "__main__":
    main()
