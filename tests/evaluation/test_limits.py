import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from evo.evaluation.limits import TimeUp, TooMuchMemory, limits

MIB = 2**20


@pytest.fixture(autouse=True)
def alarm_is_put_back() -> Iterator[None]:
    handler, (delay, interval) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == pytest.approx((delay, interval), abs=10)


def wait(seconds: float) -> None:
    time.sleep(seconds)


def take(mebibytes: int, seconds: float = 60) -> None:
    taken = np.ones(mebibytes * MIB, dtype=np.uint8)
    time.sleep(seconds)
    del taken


def test_time_and_memory_within_limits_pass() -> None:
    with limits(50, 100 * MIB, take):
        take(50, 0.3)
    with limits(None, None, take):
        take(50, 0)


def test_what_takes_too_long_is_stopped() -> None:
    began = time.monotonic()
    with pytest.raises(TimeUp), limits(0.2, None, wait):
        wait(60)
    assert 0.2 <= time.monotonic() - began < 5


def test_what_takes_too_much_memory_is_stopped() -> None:
    with pytest.raises(TooMuchMemory), limits(None, 100 * MIB, take):
        take(150)
    with pytest.raises(TooMuchMemory), limits(50, 100 * MIB, take):
        take(150)
    with pytest.raises(TimeUp), limits(0.2, 1000 * MIB, take):
        take(150)


def test_only_growth_counts() -> None:
    before = np.ones(200 * MIB, dtype=np.uint8)
    with limits(None, 100 * MIB, take):
        take(50, 0.3)
    assert before[0] == 1


def test_code_that_swallows_everything_is_stopped_by_a_later_alarm() -> None:
    def stubborn() -> None:
        for _ in range(2):
            try:
                time.sleep(60)
            except BaseException:
                continue
        time.sleep(60)

    with pytest.raises(TimeUp), limits(0.1, None, stubborn):
        stubborn()


def test_nothing_but_the_guarded_call_is_interrupted() -> None:
    with limits(0.1, None, wait):
        time.sleep(0.3)


def test_a_limit_within_a_limit_leaves_the_outer_one_in_force() -> None:
    def outer() -> None:
        with pytest.raises(TimeUp), limits(0.1, None, wait):
            wait(60)
        time.sleep(60)

    began = time.monotonic()
    with pytest.raises(TimeUp), limits(0.5, None, outer):
        outer()
    assert 0.5 <= time.monotonic() - began < 5


def test_other_threads_have_no_limits() -> None:
    def work() -> None:
        with limits(0.05, 1, wait):
            wait(0.2)
        done.append(1)

    done: list[int] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
