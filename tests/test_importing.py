"""Objects named as module:attribute (the sentences are tested in test_config_errors)."""

import sys
import types
from pathlib import Path

import pytest

from evo.errors import DataError, SettingsError
from evo.importing import add_to_path, call, describe, import_object, own_path


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_folders_come_first_and_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "which_of_two.py").write_text(f"name = {folder.name!r}\n")
    add_to_path([second])
    add_to_path([first, second])
    assert sys.path[:2] == [str(first), str(second)]
    assert sys.path.count(str(second)) == 1
    assert import_object("which_of_two:name", "here", first) == "first"


def test_dotted_attributes() -> None:
    assert import_object("os:path.join", "here", Path()) is __import__("os").path.join
    with pytest.raises(SettingsError, match=r"^here: module 'os' has no 'jion'; did you mean 'join'\?$"):
        import_object("os:path.jion", "here", Path())


def test_other_processes_are_told_of_own_folders_only(tmp_path: Path) -> None:
    add_to_path([tmp_path])
    assert own_path()[0] == str(tmp_path)
    assert not any(path.endswith("site-packages") or "lib/python3" in path for path in own_path())


def test_our_own_errors_pass_with_their_place() -> None:
    def refuse() -> None:
        raise DataError("train: empty")

    with pytest.raises(SettingsError, match=r"^here: train: empty$"):
        call(refuse, {}, "x:refuse", "here")


def test_an_error_is_described_in_one_line() -> None:
    module = types.ModuleType("m")
    code = compile("def f():\n    raise ValueError('one\\n   two')\n", "/somewhere/m.py", "exec")
    exec(code, module.__dict__)
    with pytest.raises(ValueError, match="one") as caught:
        module.f()
    assert describe(caught.value) == "ValueError: one two (m.py, line 2)"
