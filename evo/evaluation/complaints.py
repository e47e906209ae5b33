"""What an error of a fitness says, fit for a history."""

import errno
import os
import traceback
from collections.abc import Callable

import torch

NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""How else torch says that there is no memory."""

LONGEST = 500
"""Characters of a message that a reason repeats."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether it says that the machine, or its GPU, has no more memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in one_line(error) for words in NO_MEMORY)


def describe(error: BaseException) -> str:
    """Return one line: kind, message and the place in the code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"


def one_line(error: BaseException) -> str:
    """Return the message in one line of characters that can be stored anywhere."""
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be had"
    line = " ".join(message.replace("\0", " ").encode(errors="replace").decode().split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def account(error: BaseException, function: Callable[..., object]) -> str:
    """Return the traceback of what `function` called, over several lines."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code is not function.__code__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames and frames.tb_next))
