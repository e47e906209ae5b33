"""What a Ray cluster's workers take of their machine's memory, and what becomes of them when there is no more."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import evo
from tests.large_task import memory_of_a_large_task

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@pytest.fixture
def two_slots() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def test_a_network_of_550_megabytes_takes_ten_of_a_worker(two_slots: None) -> None:
    """It lies in the node's shared memory once, and training or anything else in one worker leaves it as it is."""
    assert memory_of_a_large_task(evo.RayEvaluator(), "Private_Dirty:", "Private_Clean:") < 15e6


SCRIPT = """
import sys, time
from pathlib import Path
import torch
import evo
from evo.evaluation import Job
from evo.testing import small_task

marks = Path(sys.argv[1])
task = small_task()
masks = {group.name: torch.ones(group.size, dtype=torch.bool).numpy() for group in task.network.groups}
smaller = []
for index in range(8):
    masks["9"] = torch.arange(12).numpy() != index
    smaller.append(evo.Blueprint.from_masks(masks))

@evo.fitness(maximize="score")
def judge(candidate):
    hoards = candidate.blueprint in smaller[:2]
    if candidate.blueprint == smaller[1] and not (marks / "once").exists():
        (marks / "once").touch()
    elif candidate.blueprint == smaller[1]:
        hoards = False
    if hoards:
        hoard = []
        while len(hoard) < 60:
            hoard.append(torch.ones(12_500_000))  # 3 GB in the end
            time.sleep(0.05)
        time.sleep(10)
    return {"score": 1.0}

with evo.RayEvaluator(retries=0).open(Job(task, judge, 0, 1, None)) as session:
    outcomes = {outcome.key: outcome for outcome in session.run(smaller)}
for blueprint in smaller:
    outcome = outcomes[blueprint.key]
    print(outcome.status, outcome.tries, outcome.reason)
"""


def test_what_ray_kills_for_memory_is_tried_alone_and_recorded(tmp_path: Path, start: Callable[..., Any]) -> None:
    """The threshold is 2.5 GB above what the whole machine takes now: nothing else may begin to take much meanwhile."""
    counters = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = int(counters["MemTotal:"]), int(counters["MemAvailable:"])
    if free < 6e6:
        pytest.skip("takes 3 GB of memory")
    threshold = f"{1 - (free - 2.5e6) / total:.4f}"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = start(tmp_path, script=script, RAY_memory_usage_threshold=threshold, RAY_memory_monitor_refresh_ms="100")
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    first, second, *others = output.splitlines()
    assert first == "failed 2 it ran out of memory, with a whole machine to itself as well"
    assert second == "ok 2 "
    assert {other.partition(" ")[0] for other in others} == {"ok"}  # one may have been the first to be killed
