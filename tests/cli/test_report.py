"""`evo report`: pages from the shell, and what it says to mistakes."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

import evo
from evo.cli.app import main
from evo.folder import claimed
from evo.report.facts import again
from evo.report.progress import duration

Shell = Callable[..., tuple[int, str, str]]

FILE = """
out = "runs/my run"
[task]
model = "parts:network"
data = "parts:data"
[fitness]
name = "parts:judged"
[encoding]
name = "filter_bits"
[algorithm]
name = "random"
evaluations = 6
batch = 3
[evaluator]
name = "local"
workers = 0
"""


@pytest.fixture
def shell(place: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Run `evo` in this process; returns exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(arguments)
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def folder(place: Path, shell: Shell) -> Path:
    (place / "run.toml").write_text(FILE)
    status, _, err = shell("search", "run.toml")
    assert status == 0, err
    return Path("runs/my run")


def page(path: str) -> str:
    """Return the page's text; commands stand in it as they are typed."""
    return unescape(Path(path).read_text())


def test_a_run_of_the_shell(folder: Path, shell: Shell) -> None:
    status, out, err = shell("report", str(folder))
    assert (status, err) == (0, "")
    size = Path("report.html").stat().st_size
    assert out == f"written: report.html ({size / 1e6:.1f} MB); open it in a browser, it needs nothing else\n"
    text, best = page("report.html"), evo.Run(folder).best.name
    assert f"evo export 'runs/my run' --id {best} --out small.evo --finetune 10" in text
    assert "parts:network on parts:data (20 training and 20 validation images) was searched" in text
    assert "evo resume" not in text
    assert "the error of the original network" not in text


def test_the_command_on_the_page_builds_the_network(folder: Path, shell: Shell) -> None:
    best = int(str(evo.Run(folder).best.name))
    assert shell("export", str(folder), "--id", str(best), "--out", "small.evo", "--finetune", "1")[0] == 0
    assert Path("small.evo").exists()


def test_what_the_page_says_makes_the_same_run_anew(folder: Path, shell: Shell) -> None:
    run = evo.Run(folder)
    (sentence, document), (_, command) = again(run)
    found = re.fullmatch(r"Save this as again.toml in (.*), from where its names .*:", sentence)
    assert found is not None
    (Path(found[1]) / "again.toml").write_text(document)
    assert command == f"evo search {found[1]}/again.toml --out runs/again"
    status, _, err = shell(*command.split()[1:])
    assert status == 0, err
    anew = evo.Run("runs/again")
    assert anew.history["key"].tolist() == run.history["key"].tolist()
    assert anew.history["score"].tolist() == run.history["score"].tolist()
    assert document in page_of_record(folder, shell)


def page_of_record(folder: Path, shell: Shell) -> str:
    assert shell("report", str(folder))[0] == 0
    return page("report.html")


def test_a_stopped_run_says_how_to_go_on(folder: Path, shell: Shell) -> None:
    assert shell("search", "run.toml", "--out", "runs/b", "--set", "max_evaluations=3")[0] == 0
    assert shell("report", "runs/b", "--out", "pages/b.html")[0] == 0
    text = page("pages/b.html")
    assert "evo resume runs/b --set max_evaluations=…" in text
    assert "1 of 2 generations" in text


def test_the_original_is_measured_if_asked_for(folder: Path, shell: Shell) -> None:
    assert shell("search", "run.toml", "--out", "runs/e", "--set", "fitness.name=parts:rated")[0] == 0
    assert shell("report", "runs/e", "--original")[0] == 0
    assert "(as it is, on the validation images)" in page("report.html")


def test_several_runs(folder: Path, shell: Shell) -> None:
    assert shell("search", "run.toml", "--out", "runs/b", "--set", "seed=1")[0] == 0
    status, out, _ = shell("report", "--compare", str(folder), "runs/b")
    assert (status, out.split()[:2]) == (0, ["written:", "compare.html"])
    text = page("compare.html")
    assert "2 runs compared" in text
    assert duration(float(evo.Run(folder).history["seconds"].sum())) in text


def test_watching_a_search_that_has_ended_looks_once(folder: Path, shell: Shell) -> None:
    status, out, err = shell("report", str(folder), "--watch", "1")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "report.html: finished, 2 of 2 generations, 5 evaluated, 0 failed, 1 looked up"
    assert 'id="watch"' not in Path("report.html").read_text()


def test_one_leaves_the_watch_by_ctrl_c(folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = folder / "run.toml"
    settings.write_text(settings.read_text().replace("rounds = 2", "rounds = 9"))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    with claimed(folder):
        status, out, err = shell("report", str(folder), "--watch", "5")
    assert (status, err) == (130, "")
    assert out.startswith("report.html: running, 2 of 9 generations")
    assert 'id="watch"' not in Path("report.html").read_text()


MISTAKES = {
    "runs/run runs/b": "expected one run folder, got 2; --compare puts several runs on one page",
    "runs/run --compare": "runs: expected at least two to compare, got 1",
    "runs/run runs/run --compare --watch 1": "--watch follows one run; leave out --compare",
    "runs/run --original --watch 1": "--watch follows one run; leave out --original",
    "runs/run runs/b --compare --original": "--original measures the network of one run; leave out --compare",
    "runs/run --objectives scor": "unknown objective 'scor'; did you mean 'score'?",
    "runs/run --out runs": "runs: is a folder, expected a file name such as runs/report.html",
    "runs/run --out run.toml/a.html": "run.toml/a.html: cannot be written (",
    "runs/nowhere": "runs/nowhere: not a run folder, it has no run.toml",
}


def test_mistakes_are_one_sentence(folder: Path, shell: Shell) -> None:
    folder.rename("runs/run")
    for arguments, sentence in MISTAKES.items():
        status, out, err = shell("report", *arguments.split())
        assert (status, out) == (2, "")
        (line,) = err.splitlines()
        assert line.startswith(f"error: {sentence}")
    assert not list(Path().glob("*.html"))
