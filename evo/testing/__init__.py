"""Conformance tests for the parts of a search: subclass one, supply one pytest fixture, and run pytest::

    class TestMyEncoding(evo.testing.EncodingContract):
        @pytest.fixture
        def encoding(self):
            return MyEncoding()

`EncodingContract`, `FitnessContract`, `AlgorithmContract` (`SteadyStateContract` for one that can work asynchronously),
`EvaluatorContract` and `ImportanceContract` state what `evo.search` relies on.
`small_task` is the task they try a part on. This package alone needs pytest.
"""

import pytest

# Before the modules are imported: their assertions then show the values that were compared.
pytest.register_assert_rewrite(
    "evo.testing.algorithm",
    "evo.testing.encoding",
    "evo.testing.evaluator",
    "evo.testing.fitness",
    "evo.testing.importance",
    "evo.testing.steady",
)

from evo.testing.algorithm import AlgorithmContract  # noqa: E402
from evo.testing.encoding import EncodingContract  # noqa: E402
from evo.testing.evaluator import EvaluatorContract  # noqa: E402
from evo.testing.fitness import FitnessContract  # noqa: E402
from evo.testing.importance import ImportanceContract  # noqa: E402
from evo.testing.steady import SteadyStateContract  # noqa: E402
from evo.testing.tasks import small_task  # noqa: E402

__all__ = [
    "AlgorithmContract",
    "EncodingContract",
    "EvaluatorContract",
    "FitnessContract",
    "ImportanceContract",
    "SteadyStateContract",
    "small_task",
]
