"""What an evaluation prints."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

LENGTH = 4000
"""Characters that a log keeps."""
CUT = "[…]\n"
"""How a log begins of which only the end was kept."""


class Log:
    """The end of a text that may be of any length."""

    def __init__(self) -> None:
        self._end = ""
        self._cut = False

    def add(self, text: str) -> None:
        """Append `text`."""
        self._end += text
        if len(self._end) > 2 * LENGTH:  # not at every call
            self._end, self._cut = self._end[-LENGTH:], True

    def text(self) -> str:
        """Return the last LENGTH characters, marked if there were more, fit to be stored anywhere."""
        end = self._end[-LENGTH:].replace("\0", "\N{REPLACEMENT CHARACTER}")
        end = end.encode(errors="replace").decode()
        return CUT + end if self._cut or len(self._end) > LENGTH else end


class _Tee:
    """Writes to a log and to the stream in whose place it stands; to that alone once it is closed to the log."""

    def __init__(self, stream: TextIO, log: Log) -> None:
        self.stream = stream
        self.log: Log | None = log

    def write(self, text: str) -> int:
        if self.log is not None:
            self.log.add(text)
        return self.stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _below(stream: Any) -> Any:
    """Return the stream itself, or what is below it if it is a tee that was left behind."""
    while isinstance(stream, _Tee) and stream.log is None:
        stream = stream.stream
    return stream


@contextmanager
def logged(log: Log) -> Iterator[None]:
    """Let `log` have what Python code writes to standard output and standard error, warnings and logging included.

    It still gets to where it would have gone. What other processes and compiled code write is not seen.
    """
    out, err = _below(sys.stdout), _below(sys.stderr)
    tees = {id(stream): _Tee(stream, log) for stream in (out, err) if stream is not None}
    streams: Any = tees.get(id(out)), tees.get(id(err))
    sys.stdout, sys.stderr = streams
    moved = []
    for handler in logging.root.handlers:
        # It holds the stream that it was made with, which was a tee if an evaluation made it.
        stream = _below(getattr(handler, "stream", None))
        if isinstance(handler, logging.StreamHandler) and id(stream) in tees:
            handler.stream = tees[id(stream)]
            moved.append((handler, stream))
    try:
        yield
    finally:
        for tee in tees.values():
            tee.log = None
        sys.stdout, sys.stderr = _below(out), _below(err)
        for handler, stream in moved:
            handler.stream = stream
