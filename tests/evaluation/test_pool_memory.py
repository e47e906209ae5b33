"""What worker processes take of the machine's memory, and what becomes of them when there is no more."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import evo
from evo.candidate import Candidate
from evo.evaluation import Job
from evo.testing import small_task
from evo.training import Samples

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

MIB = 2**20


@evo.fitness(maximize="own")
def own_memory_after_use(candidate: Candidate) -> Mapping[str, float]:
    """Read all weights and data; return the bytes of anonymous memory that the process has to itself."""
    for tensor in (*candidate.task.network._tensors.values(), candidate.task.train.x, candidate.task.val.x):
        tensor.sum()
    counters = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    assert int(counters["Rss:"]) * 1024 > sum(t.nbytes for t in candidate.task.network._tensors.values())
    return {"own": 1024.0 * int(counters["Anonymous:"])}


def test_a_network_of_550_megabytes_takes_ten_of_a_worker() -> None:
    width = 11_750
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    model.append(nn.Linear(width, 3))
    labels = torch.arange(30) % 3
    data = Samples(torch.randn(30, 1, 4, 4), labels)
    large = evo.Task(model, data, data)
    assert sum(tensor.nbytes for tensor in large.network._tensors.values()) > 550e6
    own = []
    for task in (small_task(), large):
        with evo.LocalEvaluator(workers=1).open(Job(task, own_memory_after_use, 0, 1, None)) as session:
            (outcome,) = session.run([task.network.full])
        assert outcome.status == "ok", outcome.reason
        own.append(outcome.objectives["own"])
    assert own[1] - own[0] < 15e6


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Return a control group of 1 GiB."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(root, f"evo-test-{os.getpid()}")
        with suppress(OSError):
            folder.mkdir()
            if (folder / limit).exists():
                (folder / limit).write_text(str(1024 * MIB))
                yield folder
                for _ in range(50):
                    with suppress(OSError):
                        folder.rmdir()
                        return
                    time.sleep(0.1)
            folder.rmdir()
    pytest.skip("control groups of memory cannot be made here")


SCRIPT = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
import numpy as np
import evo
from evo.evaluation import Job
from evo.testing import small_task

task = small_task()
masks = {group.name: np.ones(group.size, dtype=bool) for group in task.network.groups}
smaller = []
for index in range(6):
    masks["9"] = np.arange(12) != index
    smaller.append(evo.Blueprint.from_masks(masks))

@evo.fitness(maximize="score")
def judge(candidate):
    if candidate.blueprint == smaller[0]:
        return {"score": float(np.ones(2**31, dtype=np.uint8)[0])}
    return {"score": 1.0}

with evo.LocalEvaluator(workers=2).open(Job(task, judge, 0, 1, None)) as session:
    outcomes = {outcome.key: outcome for outcome in session.run(smaller)}
for blueprint in smaller:
    outcome = outcomes[blueprint.key]
    print(outcome.status, outcome.tries, outcome.reason)
"""


def test_what_the_kernel_kills_for_memory_is_tried_alone_and_recorded_and_the_search_lives(cgroup: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(cgroup)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == "failed 2 it ran out of memory, with a whole machine to itself as well"
    assert others == ["ok 1 "] * 5
