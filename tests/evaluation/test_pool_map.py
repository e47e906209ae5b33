import subprocess
import sys
import threading
from pathlib import Path

import pytest

import evo
from evo.errors import EvaluatorError

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
