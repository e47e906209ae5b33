import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with modules of a user's own; imports leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copy(Path(__file__).with_name("parts.py"), tmp_path)
    (tmp_path / "hungry.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "wrong.py").write_text("x = = 1\n")
    (tmp_path / "raises.py").write_text("raise OSError('no disk')\n")
    yield tmp_path
    for name in ("parts", "hungry", "wrong", "raises"):
        sys.modules.pop(name, None)
