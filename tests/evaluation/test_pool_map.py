import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import evo
from evo.errors import EvaluatorError, SettingsError

SCRIPT = """
from dataclasses import dataclass
import evo

@dataclass
class Item:
    value: int

def doubled(shared, item):
    return shared + 2 * item.value

print(evo.LocalEvaluator(workers=1).map(doubled, 100, [Item(1), Item(2)]))
"""


def test_functions_and_items_of_a_script_travel_by_value_and_the_script_does_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[102, 104]\n"), done.stderr


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(
        EvaluatorError, match=r"cannot be sent to worker processes \(cannot pickle '_thread\.lock' object\)"
    ):
        evo.LocalEvaluator(workers=1).map(lambda shared, item: item, threading.Lock(), [1, 2])


def test_items_may_be_an_array() -> None:
    squares = evo.LocalEvaluator(workers=1).map(lambda shared, item: int(item) ** 2, None, np.arange(4))  # type: ignore[arg-type]
    assert squares == [0, 1, 4, 9]


def test_settings_that_are_refused_by_a_worker_are_refused_here() -> None:
    with pytest.raises(SettingsError, match=r"^ECS\.generations: got 0; "):
        evo.LocalEvaluator(workers=1).map(lambda shared, item: evo.ECS(generations=item), None, [0])


def test_a_machine_that_has_no_room_for_workers_says_so() -> None:
    evaluator = evo.LocalEvaluator(workers=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(limits[0]) if not Path(f"/proc/self/fd/{number}").exists()]
    job_and_pipe = 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[job_and_pipe], limits[1]))
    try:
        with pytest.raises(
            EvaluatorError, match=r"^LocalEvaluator\.workers: cannot start another worker process \(.*open files"
        ):
            evaluator.map(lambda shared, item: item, None, [1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
