"""One function called on many items: what `Evaluator.map` sends to workers, and what comes back."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evo.errors import EvaluatorError, EvoError
from evo.evaluation.complaints import describe
from evo.network.modes import apart, using_threads


@dataclass(frozen=True)
class Answer:
    """What a call came to.

    Attributes:
        number: which item it was for.
        value: what the function returned; None if it raised.
        error: what it raised, as an error that a user can read; None if it returned.
    """

    number: int
    value: Any
    error: EvoError | None = None

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True)
class Calls:
    """What all calls of a map have in common; travels to a worker once.

    Attributes:
        function: takes `shared` and an item.
        shared: not to be written to: workers of a machine share its arrays.
        items: one per call.
        threads: torch threads of a call.
    """

    function: Callable[[Any, Any], Any]
    shared: Any
    items: Sequence[Any]
    threads: int

    def __call__(self, number: int) -> Answer:
        """Return the answer for the item of this number; never raises what the function does."""
        try:
            with apart(0), using_threads(self.threads):
                value = self.function(self.shared, self.items[number])
            # What cannot be sent back is an error of this call, not of the worker; large arrays are not copied for that.
            pickle.dumps(value, protocol=5, buffer_callback=lambda array: None)
            return Answer(number, value)
        except EvoError as error:
            return Answer(number, None, error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # some libraries have errors that are no Exception
            return Answer(number, None, EvaluatorError(f"{self.name} failed: {describe(error)}"))

    @property
    def name(self) -> str:
        """What errors call the function."""
        return str(getattr(self.function, "__qualname__", self.function))
