"""What all worker processes of this machine need, in a file that they share."""

import mmap
import pickle
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import cloudpickle

from evo.errors import EvaluatorError
from evo.evaluation.base import unsendable

Span = tuple[int, int]


def packed(content: Any) -> tuple[IO[bytes], list[Span]]:
    """Return what `pack` does.

    Raises:
        EvaluatorError: the content cannot be sent, or there is no room for it.
    """
    try:
        return pack(content)
    except OSError as error:
        raise EvaluatorError(
            f"{tempfile.gettempdir()}: no room for what workers share ({error.strerror or error}); free some, or set TMPDIR"
        ) from error
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise unsendable(error) from error


def pack(content: Any) -> tuple[IO[bytes], list[Span]]:
    """Write `content` to a nameless file and return it with what `unpack` needs.

    Arrays are written apart from the rest, for all workers to share. What a user's script defines travels by value.
    """
    arrays: list[pickle.PickleBuffer] = []
    body = cloudpickle.dumps(content, protocol=5, buffer_callback=arrays.append)
    file = tempfile.TemporaryFile(prefix="evo-")  # noqa: SIM115, closed with the session
    spans = []
    for part in (body, *(array.raw() for array in arrays)):
        file.write(bytes(-file.tell() % 64))  # arrays want to be aligned
        start = file.tell()
        file.write(part)
        spans.append((start, file.tell()))
    file.flush()
    return file, spans


def unpack(file: int, spans: Sequence[Span]) -> Any:
    """Return what `pack` wrote to the file with this descriptor; its arrays are read-only views of the file."""
    mapped = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
    body, *arrays = (mapped[start:stop] for start, stop in spans)
    return pickle.loads(body, buffers=arrays)
