"""What a process takes of the machine's memory, as Linux tells it; elsewhere little is known and nothing happens."""

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress

import torch


def own_memory() -> int | None:
    """Return the resident bytes that are this process's own, without files and memory that it shares; None if unknown."""
    try:
        resident, shared = _read("/proc/self/statm").split()[1:3]
    except OSError:
        return None
    return (int(resident) - int(shared)) * resource.getpagesize()


def reset_peak() -> None:
    """Let `peak` begin anew, where the system can."""
    with suppress(OSError):
        _write("/proc/self/clear_refs", b"5")


def peak() -> int | None:
    """Return the most resident bytes since `reset_peak`, shared ones included; since the process began where that cannot be."""
    with suppress(OSError):
        _, found, rest = _read("/proc/self/status").partition(b"VmHWM:")
        if found:
            return int(rest.split(maxsplit=1)[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def give_back() -> None:
    """Return to the system, as far as possible, what this process keeps but does not use."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)


def kernel_kills() -> int:
    """Return how many processes the kernel has killed for memory since the machine started; 0 where it does not say."""
    with suppress(OSError):
        _, found, rest = _read("/proc/vmstat", 2**16).partition(b"\noom_kill ")
        if found:
            return int(rest.split(maxsplit=1)[0])
    return 0


def be_killed_first() -> None:
    """Let the kernel choose this process, and those that it starts, before all others when the machine runs out of memory."""
    with suppress(OSError):
        _write("/proc/self/oom_score_adj", b"1000")


def _read(path: str, size: int = 4096) -> bytes:
    file = os.open(path, os.O_RDONLY)  # a third of what `open` costs
    try:
        return os.read(file, size)
    finally:
        os.close(file)


def _write(path: str, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, content)
    finally:
        os.close(file)
