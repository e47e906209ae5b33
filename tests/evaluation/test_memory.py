import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evo.evaluation.memory import be_killed_first, give_back, kernel_kills, own_memory, peak, reset_peak

MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def test_memory_that_is_taken_and_given_back_shows() -> None:
    before = own_memory()
    taken = np.ones(100 * MIB, dtype=np.uint8)
    between = own_memory()
    assert taken.all()
    del taken
    after = own_memory()
    assert before is not None
    assert between is not None
    assert after is not None
    assert 95 * MIB < between - before < 110 * MIB
    assert after - before < 10 * MIB


def test_shared_memory_is_not_a_processs_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100 * MIB))
    before = own_memory()
    mapped = np.memmap(tmp_path / "file", dtype=np.uint8, mode="r")
    assert not mapped.any()
    after = own_memory()
    assert before is not None
    assert after is not None
    assert after - before < 10 * MIB


def test_the_peak_is_that_since_it_was_reset() -> None:
    reset_peak()
    before = peak()
    np.ones(200 * MIB, dtype=np.uint8)
    high = peak()
    reset_peak()
    after = peak()
    assert before is not None
    assert high is not None
    assert after is not None
    assert 190 * MIB < high - before < 220 * MIB
    assert after - before < 20 * MIB


def test_what_malloc_keeps_is_given_back() -> None:
    code = """
from evo.evaluation.memory import give_back, own_memory
pieces = [bytes(1000) for _ in range(200_000)]
keep = pieces[-1]
del pieces
before = own_memory()
give_back()
print(before - own_memory())
"""
    environment = {"PATH": "", "MALLOC_TRIM_THRESHOLD_": str(2**40), "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) > 150 * MIB


def test_a_worker_offers_itself_to_the_kernel() -> None:
    code = f"from evo.evaluation.memory import {be_killed_first.__name__}; {be_killed_first.__name__}()"
    code += "; print(open('/proc/self/oom_score_adj').read())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == 1000


def test_the_kernels_counter_is_read() -> None:
    counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    assert kernel_kills() == int(counters["oom_kill"])


def test_giving_back_is_harmless() -> None:
    kept = np.arange(1000)
    give_back()
    assert kept.sum() == 499500
