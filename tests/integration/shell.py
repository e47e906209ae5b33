"""The command `evo` in the process of the tests."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from evo.cli.app import main


@dataclass
class Result:
    """What a command did."""

    status: int
    out: str
    err: str


class Shell:
    """Runs `evo` in this process: quick, but with the real argument parser and error handling."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Result:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(left.value.code or 0), captured.out, captured.err)
