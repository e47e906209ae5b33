"""What worker processes take of the machine's memory, and what becomes of them when there is no more."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import evo
from tests.large_task import memory_of_a_large_task

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

MIB = 2**20


def test_a_network_of_550_megabytes_takes_ten_of_a_worker() -> None:
    assert memory_of_a_large_task(evo.LocalEvaluator(workers=1), "Anonymous:") < 15e6


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
