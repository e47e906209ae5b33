"""`evo history` and `evo plot`."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import evo
from evo.cli.plot import KINDS
from tests.integration.shell import Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Run `evo` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(capsys)


class TestHistory:
    def test_to_parquet_and_back(self, shell: Shell, ecs_run: evo.Run) -> None:
        made = shell("history", ecs_run.folder, "--out", "tables/history.parquet")
        assert (made.status, made.err) == (0, "")
        history = ecs_run.history
        assert made.out == f"written: tables/history.parquet ({len(history)} rows, {history.shape[1] + 1} columns)\n"
        again = pd.read_parquet("tables/history.parquet")
        pd.testing.assert_frame_equal(again, history)
        assert again.attrs == history.attrs

    def test_csv_to_standard_output(self, shell: Shell, ecs_run: evo.Run) -> None:
        printed = shell("history", ecs_run.folder, "--pareto", "--objectives", "error, macs").out
        front = ecs_run.pareto(["error", "macs"])
        found = pd.read_csv(io.StringIO(printed), index_col="id")
        assert found.index.tolist() == front.index.tolist()
        assert found["error"].tolist() == front["error"].tolist()
        assert shell("history", ecs_run.folder, "--pareto").out == ecs_run.pareto(["error", "params"]).to_csv()

    def test_other_tables(self, shell: Shell, ecs_run: evo.Run) -> None:
        layers = shell("history", ecs_run.folder, "--layers", "3").out
        assert pd.read_csv(io.StringIO(layers), index_col="layer")["weights"].tolist() == [54, 432, 384, 36, 906]
        assert shell("history", ecs_run.folder, "--generations", "--out", "x.json").status == 0
        records = json.loads(Path("x.json").read_text())
        assert [record["generation"] for record in records] == [0, 1, 2, 3]
        assert [record["asked"] for record in records] == ecs_run.generations["asked"].tolist()

    def test_columns_are_explained(self, shell: Shell, ecs_run: evo.Run) -> None:
        printed = shell("history", ecs_run.folder, "--columns").out
        for name, text in ecs_run.history.attrs["columns"].items():
            (line,) = (line for line in printed.splitlines() if line.startswith(f"│ {name} "))
            assert text[:60] in line

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--out", "x.xls"], "x.xls: a table ends in .parquet, .csv, .json"),
            (["--pareto", "--layers", "1"], "--pareto and --layers: one table at a time"),
            (["--objectives", "error"], "--objectives says what the front is over; add --pareto"),
            (["--pareto", "--objectives", "eror"], "unknown objective 'eror'; did you mean 'error'?"),
            (["--layers", "999"], "there is no row 999; ids go from 0 to"),
            (["--out", "file/x.csv"], "file/x.csv: cannot be written (File exists)"),
        ],
    )
    def test_mistakes(self, shell: Shell, ecs_run: evo.Run, arguments: list[str], sentence: str) -> None:
        Path("file").touch()
        result = shell("history", ecs_run.folder, *arguments)
        assert (result.status, result.err.count("\n")) == (2, 1)
        assert sentence in result.err


class TestPlot:
    @pytest.mark.parametrize(
        ("arguments", "file"),
        [
            (["front"], "front.png"),
            (["front", "--id", "0", "--id", "2", "--x", "macs", "--out", "a/b.pdf"], "a/b.pdf"),
            (["parallel", "--objectives", "error,macs,score", "--widths"], "parallel.png"),
            (["convergence", "--objective", "error"], "convergence.png"),
            (["hypervolume", "--objectives", "error,params"], "hypervolume.png"),
            (["evolution", "--best", "3", "--y", "score"], "evolution.png"),
            (["scores", "--generations", "0,2"], "scores.png"),
            (["ribbon", "--id", "2", "--out", "r.svg"], "r.svg"),
        ],
    )
    def test_pictures(self, shell: Shell, ecs_run: evo.Run, arguments: list[str], file: str) -> None:
        made = shell("plot", ecs_run.folder, *arguments)
        assert (made.status, made.out, made.err) == (0, f"written: {file}\n", "")
        content = Path(file).read_bytes()
        assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[file[-3:]])
        if file.endswith("png"):
            with Image.open(file) as picture:
                assert min(picture.size) > 300

    def test_options_reach_the_picture(self, shell: Shell, ecs_run: evo.Run) -> None:
        shell("plot", ecs_run.folder, "front", "--id", "0", "--x", "macs", "--out", "front.svg")
        # Text is drawn as outlines, whose glyphs are named in the file; marks of individuals carry their ids in comments.
        assert "<!-- id 0 -->" in Path("front.svg").read_text()
        assert "<!-- multiply-accumulates (less is better) -->" in Path("front.svg").read_text()

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["frnt"], "unknown picture 'frnt'; did you mean 'front'?"),
            (["xyz"], f"unknown picture 'xyz'; known are: {', '.join(sorted(KINDS))}"),
            (["front", "--out", "x.doc"], "x.doc: a picture ends in"),
            (["widths", "--id", "3"], "--id: widths does not take it; it takes --best"),
            (["distribution", "--best", "3"], "--best: distribution does not take it; it takes no options"),
            (["ribbon", "--id", "1", "--id", "2"], "--id: ribbon draws one individual, got 2"),
            (["ribbon", "--id", "999"], "there is no row 999; ids go from 0 to"),
            (["front", "--x", "param"], "unknown objective 'param'; did you mean 'params'?"),
            (
                ["scores", "--generations", "1,a"],
                "--generations: expected whole numbers with commas between, got '1,a'",
            ),
            (["filters"], "was started from Python, where alone its task is known"),
        ],
    )
    def test_mistakes(self, shell: Shell, ecs_run: evo.Run, arguments: list[str], sentence: str) -> None:
        result = shell("plot", ecs_run.folder, *arguments)
        assert (result.status, result.err.count("\n")) == (2, 1)
        assert sentence in result.err
        assert not list(Path().iterdir()), "nothing was written"

    def test_the_help_lists_the_pictures(self, shell: Shell) -> None:
        text = " ".join(shell("plot", "--help").out.split())
        assert ", ".join(KINDS) in text
