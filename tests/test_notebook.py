"""examples/results.ipynb: valid, without outputs, and it runs."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "results.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def test_it_is_valid_and_has_no_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    for cell in cells:
        assert (cell.outputs, cell.execution_count) == ([], None), "clear all outputs before committing"
        compile(cell.source, "cell", "exec")


@pytest.mark.slow
def test_it_runs(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    shutil.copy(NOTEBOOK, tmp_path)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [cell for cell in cells if ".plot." in cell.source]
    assert all("image/png" in cell.outputs[-1].data for cell in pictures)
    assert cells[-1].outputs[-1].data["text/plain"] == "True", "what was saved is what is loaded"
    assert (tmp_path / "runs" / "notebook" / "small.evo").is_file()
