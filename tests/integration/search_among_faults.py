"""A search whose evaluations fail in every way: `python search_among_faults.py FOLDER GENERATIONS [SEED]`.

With a SEED it runs on a Ray cluster of three nodes in this process, where nodes are lost and join and workers are killed,
and some candidates fail at their first try only. Without, on this machine, undisturbed; then some candidates fail always, and
these are the same ones. Prints, with a SEED, the names of the nodes that joined.
"""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import search_digits  # type: ignore[import-not-found]  # beside this script
import torch
from ray.cluster_utils import Cluster

import evo
from evo.callbacks import Callback, Progress
from evo.evaluation import Evaluator

TIMEOUT = 4.0
MEMORY = 0.25  # GiB
ALWAYS = {0: "exit", 1: "hang", 2: "memory", 3: "raise", 4: "nan"}
ONCE = {5: "exit", 6: "memory", 7: "raise"}
KINDS = 35  # all others are well-behaved; three generations meet each of these


def fault_of(key: str) -> int:
    """Return what is wrong with the candidate of this key."""
    return int(key[:8], 16) % KINDS


def make_fitness(marks: Path | None) -> Any:
    """Return a fitness; the first tries of some leave a mark in the folder `marks` and fail."""

    @evo.fitness(maximize="score")
    def among_faults(candidate: evo.Candidate) -> dict[str, float]:
        key = candidate.blueprint.key
        fault = ALWAYS.get(fault_of(key), "")
        if marks is not None and fault_of(key) in ONCE:
            kind, node = ONCE[fault_of(key)], ray.get_runtime_context().get_node_id()
            first = not (marks / key).exists()
            if first:
                (marks / key).write_text(node)
            if first or (kind == "raise" and (marks / key).read_text() == node):  # that, always on this node
                fault = kind
        if fault == "raise":
            raise ArithmeticError("as it should")
        if fault == "hang":
            time.sleep(3600)
        if fault == "memory":
            hoard = torch.ones(100_000_000)  # more than it may take
            time.sleep(1)
            del hoard
        if fault == "exit":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        with torch.no_grad():
            score = float(candidate.build()(candidate.task.val.x).std())
        return {"score": float("nan") if fault == "nan" else score + float(candidate.rng().random())}

    return among_faults


def search(folder: Path, generations: int, marks: Path | None, evaluator: Evaluator, callback: Callback) -> None:
    """Search."""
    evo.search(
        search_digits.make_task(),
        encoding=evo.FilterBits(),
        fitness=make_fitness(marks),
        algorithm=evo.ECS(generations=generations, population=16),
        evaluator=evaluator,
        out=folder,
        seed=1,
        reuse=False,
        callbacks=[callback],
    )


class Chaos(Callback):
    """Kills workers, removes nodes and adds others while a search makes progress."""

    def __init__(self, cluster: Cluster, seed: int, every: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.every = every
        self.next = every
        self.step = 0
        self.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]  # besides the head
        self.joined: list[str] = []

    def on_progress(self, progress: Progress) -> None:
        """Do the next bad thing every few evaluations, as soon as there is somebody at work to suffer from it."""
        if progress.evaluated < self.next:
            return
        swap = self.step % 3 == 0
        victims = [node for node in (self.nodes if swap else [self.cluster.head_node, *self.nodes]) if workers(node)]
        if not victims:
            return
        self.step += 1
        self.next = progress.evaluated + self.every
        victim = self.random.choice(victims)
        if swap:
            self.nodes.remove(victim)
            self.cluster.remove_node(victim, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1))
            self.joined.append(self.nodes[-1].node_id[:8])
        else:
            with suppress(ProcessLookupError, IndexError):  # it may have died of something else
                os.kill(workers(victim)[0], signal.SIGKILL)


def workers(node: Any) -> list[int]:
    """Return the processes that are evaluating on a node."""
    raylet = str(node.all_processes["raylet"][0].process.pid)
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", raylet], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "_chunk" in line]


def main(folder: str, generations: str, seed: str = "") -> None:
    """Search, undisturbed or not."""
    torch.set_num_threads(1)
    if not seed:
        local = evo.LocalEvaluator(workers=2, timeout=TIMEOUT, memory=MEMORY)
        search(Path(folder), int(generations), None, local, Callback())
        return
    marks = Path(f"{folder}-marks")
    marks.mkdir(parents=True)
    quicker = {"health_check_period_ms": 500}  # five times that until a node counts as lost
    options = {"num_cpus": 1, "include_dashboard": False, "_system_config": quicker}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    chaos = Chaos(cluster, int(seed), every=12)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    search(Path(folder), int(generations), marks, evo.RayEvaluator(timeout=TIMEOUT, memory=MEMORY), chaos)
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]
    print("joined:", *chaos.joined)


if __name__ == "__main__":
    main(*sys.argv[1:])
