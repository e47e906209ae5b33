"""The command `evo`, as a user runs it: the examples with tiny budgets."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

import evo
from evo.cli.keys import markdown
from evo.network.checkpoint import describe
from evo.records import MEASUREMENTS
from evo.run import read_settings
from tests.integration.shell import Shell

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits.toml"
OWN = ROOT / "examples" / "own_network"
SMALL = ["model_args={conv1 = 4, conv2 = 6, fc1 = 12}", "train.epochs=1"]
QUICK = [
    "fitness.images=64",
    "fitness.epochs=1",
    "algorithm.generations=3",
    "algorithm.population=4",
    "evaluator.workers=0",
]
TINY = [part for override in [*(f"task.{key}" for key in SMALL), *QUICK] for part in ("--set", override)]


def history(folder: Path) -> pd.DataFrame:
    """Return what has to be equal between two runs of the same search."""
    run = evo.Run(folder)
    return run.history.drop(columns=list(MEASUREMENTS)).assign(
        structure=[run.blueprint(row).key for row in run.history.index]
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search of examples/digits.toml, made by a process of its own."""
    place = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-m", "evo.cli", "search", str(DIGITS), *TINY, "--out", "run"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: training differs in the last bits otherwise
    finished = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=one_thread)
    assert (finished.returncode, finished.stderr) == (0, "")
    out = finished.stdout
    assert "lenet on digits: 1,078 train, 360 val, 359 test images; 22 filters in 3 groups" in out
    assert "3 of 3 generations; " in out
    assert "evo resume" not in out
    assert f"evo export run --id {evo.Run(place / 'run').best.name} --out small.evo --finetune 10" in out
    assert "\x1b" not in out
    return place / "run"


def test_a_search_leaves_a_complete_run(searched: Path) -> None:
    run = evo.Run(searched)
    assert (len(run.generations), set(run.history["status"])) == (3, {"ok"})
    assert read_settings(searched)["source"]["task"]["model"] == "lenet"


def test_front_and_show_need_nothing_of_the_users(searched: Path, shell: Shell, tmp_path: Path) -> None:
    copy = shutil.copytree(searched, tmp_path / "elsewhere")
    (copy / "base.safetensors").unlink()
    settings = (copy / "run.toml").read_text().replace(str(ROOT), "/nowhere")
    (copy / "run.toml").write_text(settings.replace('"digits"', '"gone:data"'))
    front = shell("front", copy)
    assert (front.status, front.err) == (0, "")
    assert "Pareto front over error, params" in front.out
    shown = shell("show", copy, "0")
    assert shown.status == 0
    for text in (
        "id 0: generation 0, initial; ok",
        "fitness",
        "(maximised)",
        "conv2",
        "r_c",
        "r_s",
        "r_f",
        "feature_maps",
    ):
        assert text in shown.out


def test_filters_are_drawn_with_the_task_of_the_run(searched: Path, shell: Shell) -> None:
    drawn = shell("plot", searched, "filters", "--layer", "conv2", "--id", "1", "--out", "pictures/filters.png")
    assert (drawn.status, drawn.err) == (0, "")
    assert drawn.out == "written: pictures/filters.png\n"
    with Image.open("pictures/filters.png") as picture:
        assert min(picture.size) > 100


def test_export_loads_back_and_agrees_with_its_other_files(searched: Path, shell: Shell) -> None:
    pytest.importorskip("onnxruntime")
    best = int(str(evo.Run(searched).best.name))
    files = ["--out", "a/small.evo", "--pt2", "a/small.pt2", "--onnx", "a/small.onnx"]
    made = shell("export", searched, "--id", str(best), "--finetune", "1", *files)
    assert (made.status, made.err) == (0, "")
    assert "fine-tuning: epoch 1 of 1, loss" in made.out
    assert "error on val" in made.out
    assert "error on test" in made.out
    assert "written: a/small.pt2: torch.export.load agrees with the network on batches of any size" in made.out
    assert "written: a/small.onnx: onnxruntime agrees with the network on batches of any size" in made.out
    assert {entry.name for entry in Path("a").iterdir()} == {"small.evo", "small.pt2", "small.onnx"}
    model = evo.load("a/small.evo")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == evo.Run(searched).history.loc[best, "params"]
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    provenance = describe("a/small.evo")["provenance"]
    assert (provenance["run"], provenance["id"], provenance["model"]) == ("run", best, "lenet")


def test_export_without_fine_tuning_says_so(searched: Path, shell: Shell) -> None:
    made = shell("export", searched)
    assert "not fine-tuned: its error is that of the cut weights; add --finetune EPOCHS" in made.out
    assert Path("small.evo").is_file()


def test_onnx_without_its_packages(searched: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo.network.formats.ONNX_PACKAGES", ("onnx", "not_installed_anywhere"))
    made = shell("export", searched, "--onnx", "small.onnx")
    assert (made.status, made.err) == (
        2,
        "error: ONNX needs not_installed_anywhere; install with: pip install 'evo-arch[onnx]'\n",
    )
    assert not Path("small.evo").exists()


def test_resuming_a_finished_run_says_so(searched: Path, shell: Shell) -> None:
    before = history(searched)
    again = shell("resume", searched)
    assert again.out.startswith(f"{searched}: finished already, all 3 generations are done\n")
    pd.testing.assert_frame_equal(history(searched), before)


def test_resuming_a_run_from_python(shell: Shell, task: evo.Task) -> None:
    evo.search(
        task,
        encoding=evo.FilterBits(),
        fitness=evo.SubsetFineTune(epochs=0),
        algorithm=evo.RandomSearch(evaluations=2),
        evaluator=evo.LocalEvaluator(workers=0),
        out="run",
    )
    for command in ("resume", "export"):
        result = shell(command, "run")
        assert result.status == 2
        assert result.err == (
            "error: run: was started from Python, where alone its task is known: evo.search(…, out='run') continues it, "
            "evo.Run('run', task).build(id) builds its networks\n"
        )
    assert shell("front", "run").status == 0


def test_a_limit_on_evaluations(searched: Path, shell: Shell) -> None:
    limited = shell("search", DIGITS, *TINY, "--set", "max_evaluations=5", "--out", "run")
    assert limited.status == 0
    assert "stopped after generation 1 of 3: another generation would exceed max_evaluations = 5" in limited.out
    assert "to go on: evo resume run --set max_evaluations=…" in limited.out
    assert "s ago: another generation would exceed max_evaluations = 5; to continue: " in shell("status", "run").out
    converged = shell(
        "resume",
        "run",
        "--set",
        "max_evaluations=100",
        "--set",
        "convergence.generations=1",
        "--set",
        "convergence.tolerance=1",
    )
    assert (
        "stopped after generation 2 of 3: over 1 generation, the hypervolume of error, params has grown"
        in converged.out
    )
    assert "to go on: evo resume run --set convergence.tolerance=…" in converged.out
    resumed = shell("resume", "run", "--set", "max_evaluations=100")
    assert (resumed.status, resumed.err) == (0, "")
    assert "training the network" not in resumed.out
    pd.testing.assert_frame_equal(history(Path("run")), history(searched))


def test_interrupted_before_the_search(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evo.cli.task_source.train", interrupt)
    result = shell("search", DIGITS, *TINY)
    assert (result.status, result.err) == (130, "interrupted: the search had not begun, nothing was written\n")
    assert not Path("runs").exists()


def test_interrupted_in_the_fine_tuning(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    tiny = ["algorithm.name=fga", "algorithm.generations=1", "algorithm.population=2", "evaluator.workers=0"]
    overrides = [part for setting in [*(f"task.{key}" for key in SMALL), *tiny] for part in ("--set", setting)]
    command = ("compress", "--method", "fnp", DIGITS, "--set", "fitness.epochs=0", *overrides, "--out", "run")
    monkeypatch.setattr("evo.export.finetune", interrupt)
    result = shell(*map(str, command))
    said = "interrupted: finished evaluations and epochs are in run; the same command continues\n"
    assert (result.status, result.err) == (130, said)
    assert len(evo.Run("run").history) == 4
    assert not Path("run.training").exists()


def test_a_budget_is_said_with_what_it_rejected(shell: Shell) -> None:
    fga = ["--set", "algorithm.name=fga", "--set", "budget.params=0.5", "--set", "budget.macs=60_000"]
    found = shell("search", DIGITS, *TINY, *fga, "--out", "run")
    assert (found.status, found.err) == (0, "")
    run = evo.Run("run")
    drawn, rejected = (int(run.generations[name].sum()) for name in ("drawn", "rejected"))
    assert f" of {drawn:,} drawn rejected by the budget; " in found.out
    assert run.limits is not None
    said = f"budget: {run.limits.describe()}; rejected {rejected / drawn:.1%} of {drawn} genomes drawn\n"
    assert said in found.out
    assert "macs ≤ 60,000 (" in said
    again = shell("resume", "run")
    assert "all 4 generations are done" in again.out
    assert said in again.out


def test_compress_from_the_network_to_the_fine_tuned_small_one(shell: Shell) -> None:
    settings = [f"task.{key}" for key in ("model=lenet", "data=digits", *SMALL)]
    settings += ["algorithm.generations=2", "algorithm.population=4", "evaluator.workers=0"]
    settings += ["finetuning.epochs=2", "finetuning.lr=0.04"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = ("compress", "--method", "fnp", "--gamma", "0.3", *overrides, "--out", "run")
    made = shell(*command)
    assert (made.status, made.err) == (0, "")
    assert "3 of 3 generations; 12 evaluated" in made.out
    assert "fine-tuning: epoch 2 of 2, loss" in made.out
    run = evo.Run("run")
    best = int(str(run.best.name))
    assert made.out.endswith("bytes)\nthe run is in run; next: evo front run\n")
    assert {entry.name for entry in Path().iterdir()} == {"run"}
    model, provenance = evo.load("run/small.evo"), describe("run/small.evo")["provenance"]
    assert sum(parameter.numel() for parameter in model.parameters()) == run.history.loc[best, "params"]
    assert (provenance["id"], provenance["finetuning"]["epochs"], run.settings["encoding"]["gamma"]) == (best, 2, 0.3)

    before = Path("run/small.evo").read_bytes()
    again = shell(*command, "--save", "copies/small.evo")
    assert (again.status, again.err) == (0, "")
    assert "generations" not in again.out
    assert "epoch" not in again.out
    assert Path("run/small.evo").read_bytes() == Path("copies/small.evo").read_bytes() == before
    assert "finished already, all 3 generations are done" in shell("resume", "run").out
    assert shell("export", "run", "--finetune", "1").status == 0
    tuning = describe("small.evo")["provenance"]["finetuning"]
    assert (tuning["epochs"], tuning["lr"]) == (1, 0.04), "as the run's own fine-tuning, but for the epochs"


def test_the_example_of_an_own_network(shell: Shell) -> None:
    tiny = ["task.train.epochs=1", "task.model_args.width=4", "algorithm.generations=2", "algorithm.population=3"]
    overrides = [part for override in [*tiny, "evaluator.workers=1"] for part in ("--set", override)]
    made = shell("search", OWN / "run.toml", *overrides)
    assert (made.status, made.err) == (0, "")
    assert "mine:network on mine:data: 1,000 train, 400 val, 397 test images" in made.out
    run = evo.Run("runs/own_network")
    assert set(run.history["status"]) == {"ok"}
    assert [objective.name for objective in run.objectives] == ["score", "error", "macs"]
    exported = shell("export", "runs/own_network", "--finetune", "1", "--set", "lr=0.01")
    assert (exported.status, exported.err) == (0, "")
    assert "loss" in exported.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search", "nope.toml"], "nope.toml: no such file"),
        (["compress", "--method", "fnp"], "name a run.toml, or network and data: --set task.model=… --set task.data=…"),
        (["compress", "--method", "fnp", str(DIGITS)], "--method fnp: its algorithm is FGA, got ECS; to combine parts"),
        (
            ["compress", "--method", "ecs", str(DIGITS), "--save", "RUN/run.toml/small.evo"],
            "RUN/run.toml/small.evo: cannot be written (RUN/run.toml is not a folder)",
        ),
        (["front", "nowhere"], "nowhere: not a run folder, it has no run.toml"),
        (["resume", "nowhere"], "nowhere: not a run folder, it has no run.toml"),
        (["front", "RUN", "--objectives", "eror"], "unknown objective 'eror'; did you mean 'error'?"),
        (["show", "RUN", "999"], "RUN: there is no row 999; ids go from 0 to "),
        (["export", "RUN", "--id", "999"], "RUN: there is no row 999; ids go from 0 to "),
        (
            ["export", "RUN", "--finetune", "1", "--set", "lrr=1"],
            "--set: lrr: unknown setting 'lrr'; did you mean 'lr'?",
        ),
        (
            ["export", "RUN", "--pt2", "small.pt"],
            "small.pt: torch.export.load opens files ending in .pt2 only; call it small.pt2",
        ),
        (["export", "RUN", "--set", "lr=1"], "--set says how to fine-tune; add --finetune EPOCHS"),
        (
            ["search", str(DIGITS), *TINY, "--set", "seed=1", "--out", "RUN"],
            "belongs to another search (seed was 0, is now 1)",
        ),
    ],
)
def test_mistakes_are_one_line(searched: Path, shell: Shell, arguments: list[str], sentence: str) -> None:
    folder = str(searched)
    result = shell(*(argument.replace("RUN", folder) for argument in arguments))
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert sentence.replace("RUN", folder) in result.err
    assert result.err.count("\n") == 1


def test_a_wrong_command_line(shell: Shell) -> None:
    result = shell("search")
    assert result.status == 2
    assert "Missing argument" in result.err


def test_version_and_keys(shell: Shell) -> None:
    assert shell("--version").out == f"evo {evo.__version__}\n"
    assert "max_evaluations" in shell("keys").out


def test_the_page_of_keys_is_up_to_date(shell: Shell) -> None:
    page = (ROOT / "docs" / "run-toml.md").read_text()
    assert shell("keys", "--markdown").out == page == markdown(), "run: evo keys --markdown > docs/run-toml.md"


def test_the_installed_command(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "evo.cli", "search", "x.toml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (2, "", "error: x.toml: no such file\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ray_workers_find_modules_of_the_users_own(shell: Shell) -> None:
    tiny = ["task.train.epochs=1", "task.model_args.width=4", "algorithm.generations=1", "algorithm.population=3"]
    overrides = [part for override in [*tiny, "evaluator.name=ray"] for part in ("--set", override)]
    made = shell("search", OWN / "run.toml", *overrides)
    assert (made.status, made.err) == (0, "")
    assert set(evo.Run("runs/own_network").history["status"]) == {"ok"}
