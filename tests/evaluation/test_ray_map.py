import pytest
from ray.exceptions import OutOfMemoryError

from evo.errors import EvaluatorError
from evo.evaluation.base import Tries
from evo.evaluation.calls import Calls
from evo.evaluation.ray_map import _forgive


def test_a_call_that_runs_out_of_memory_is_repeated_like_one_that_dies() -> None:
    calls, tries = Calls(max, 1, [2], threads=1), Tries(retries=2)
    lost = OutOfMemoryError("the node is full")  # type: ignore[no-untyped-call]
    for _ in range(2):
        _forgive(lost, "0", calls, tries)
    with pytest.raises(EvaluatorError, match=r"^max: it ran out of memory, on each of 3 tries$"):
        _forgive(lost, "0", calls, tries)
