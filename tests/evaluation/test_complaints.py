import numpy as np
import pytest
import torch

from evo.evaluation.complaints import account, describe, is_out_of_memory, one_line


def outer() -> None:
    inner()


def inner() -> None:
    raise LookupError("one\n  two\0three\udc80")


def test_an_error_is_one_line_with_its_place() -> None:
    with pytest.raises(LookupError) as caught:
        outer()
    assert describe(caught.value).startswith("LookupError: one two three? (test_complaints.py:")
    assert describe(caught.value).endswith(", in inner)")


def test_an_error_without_a_message_or_with_a_broken_one_has_a_line_too() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert one_line(ValueError()) == ""
    assert describe(Broken()) == "Broken: its message cannot be had"


def test_the_account_begins_with_what_the_function_called() -> None:
    with pytest.raises(LookupError) as caught:
        outer()
    lines = account(caught.value, outer).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert ", in inner" in lines[1]
    assert not any(", in outer" in line for line in lines)


def test_every_way_of_saying_that_there_is_no_memory_is_known() -> None:
    for ask in (lambda: torch.empty(10**14), lambda: np.empty(10**14), lambda: bytearray(10**14)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            ask()
        assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))
