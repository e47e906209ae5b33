"""The layout of the checkout and of the wheel, what `import evo` costs, and who may import whom."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("evo", "encodings", "fitness")


def python(code: str, *options: str, path: Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `code` in a fresh interpreter with `path` on PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *options, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


class TestCheckout:
    def test_standard_encodings_are_not_hidden(self, tmp_path: Path) -> None:
        code = "import os, encodings, evo.encodings, evo.fitness\n"
        code += "assert encodings.__file__.startswith(os.path.dirname(os.__file__)), encodings.__file__"
        done = python(code, path=ROOT, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_nothing_turns_the_folder_into_a_package(self) -> None:
        assert not (ROOT / "encodings" / "__init__.py").exists()
        assert not (ROOT / "encodings.py").exists()

    @pytest.mark.parametrize("name", ["encodings", "fitness"])
    def test_links(self, name: str) -> None:
        assert os.readlink(ROOT / "evo" / name) == f"../{name}"

    def test_every_package_is_in_the_wheel(self) -> None:
        listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
        assert {module.rpartition(".")[0] for module, _ in modules()} == set(listed)


class TestWheel:
    @pytest.fixture(scope="module")
    @staticmethod
    def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with the content of the wheel and nothing else."""
        folder = tmp_path_factory.mktemp("wheel")
        for name in SOURCES:
            shutil.copytree(
                ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--disable-pip-version-check", "--wheel-dir", str(folder / "dist"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        (wheel,) = (folder / "dist").iterdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "installed")
        return folder / "installed"

    def test_content(self, installed: Path) -> None:
        files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.suffix in (".py", ".typed")}
        expected = {f"{module.removesuffix('.__init__').replace('.', '/')}" for module, _ in modules()}
        packed = {file.removesuffix(".py").removesuffix("/__init__") for file in files} - {"evo/py.typed"}
        assert packed == expected
        assert "evo/py.typed" in files
        pages = {path.name for path in (ROOT / "evo" / "report" / "templates").iterdir()}
        assert {path.name for path in (installed / "evo" / "report" / "templates").iterdir()} == pages != set()
        assert "evo = evo.cli.app:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text()

    def test_works_alone(self, installed: Path, tmp_path: Path) -> None:
        """Every module comes from the wheel, although the checkout may be installed as well."""
        names = [module.removesuffix(".__init__") for module, _ in modules()]
        names.remove("evo.evaluation.process")  # a program
        code = f"""
import importlib
for name in {names}:
    assert importlib.import_module(name).__spec__.origin.startswith({str(installed)!r}), name
"""
        done = python(code, path=installed, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


class TestImport:
    def test_starts_nothing_and_stays_light(self, tmp_path: Path) -> None:
        code = """
import os, sys, threading
import evo
assert threading.active_count() == 1, threading.enumerate()
assert not os.path.exists(f"/proc/self/task/{os.getpid()}/children") \\
    or not open(f"/proc/self/task/{os.getpid()}/children").read()
heavy = {"ray", "matplotlib", "plotly", "jinja2", "sklearn", "scipy", "torchvision", "onnx", "typer", "rich"}
heavy = (heavy | {"torch._dynamo"}) & {*sys.modules}
assert not heavy, heavy
assert not os.listdir("."), os.listdir(".")
"""
        done = python(code, path=ROOT, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_own_time(self, tmp_path: Path) -> None:
        """Without what it builds on, `import evo` takes some 100 ms of a processor; ten times that is too much on any."""
        code = """
import cloudpickle, deap.tools, moocore, numpy, pandas, pydantic, safetensors.torch, threadpoolctl, time, torch.fx
begun = time.process_time()
import evo
print(time.process_time() - begun)
"""
        done = python(code, path=ROOT, cwd=tmp_path)
        assert float(done.stdout) < 1, done.stderr


# What may import what: every entry those before it, and its own modules. Equal ranks do not know each other. The one thing
# outside of it: `Run.plot` and `Comparison.plot` load `evo.report.accessor` by its name when they are first used.
ORDER = (
    {"evo.columns", "evo.errors"},
    {"evo.settings", "evo.importing", "evo.glance", "evo.records"},
    {"evo.plugins"},
    {"evo.blueprint"},
    {"evo.quantization"},
    {"evo.network"},
    {"evo.budget", "evo.training"},
    {"evo.importance"},
    {"evo.task"},
    {"evo.policy"},
    {"evo.candidate", "evo.encodings"},
    {"evo.fitness"},
    {"evo.evaluation", "evo.fidelities", "evo.history", "evo.front"},
    {"evo.algorithms", "evo.convergence", "evo.stopping"},
    {"evo.run"},
    {"evo.folder", "evo.export", "evo.promotion", "evo.reuse", "evo.compare", "evo.seeds"},
    {"evo.callbacks", "evo.ledger", "evo.seeding", "evo.status"},
    {"evo.screening"},
    {"evo.loop"},
    {"evo.search"},
    {"evo.recipes", "evo.testing"},
    {"evo.report"},
    {"evo.cli"},
)
ONLY_IN = {
    "ray": ("evo.evaluation.ray",),
    "deap": ("evo.encodings", "evo.algorithms"),
    "jinja2": ("evo.report",),
    "matplotlib": ("evo.report",),
    "plotly": ("evo.report",),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of evo with its file; a package as package.__init__."""
    for root, folder in (("evo", "evo"), ("evo.encodings", "encodings"), ("evo.fitness", "fitness")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join((root, *path.relative_to(ROOT / folder).with_suffix("").parts)), path


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, inside functions too; not those for type checkers alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports do not work across the root folders"
            # `from evo import x` may name a module; evo itself holds only what its modules define.
            yield from (f"evo.{alias.name}" for alias in node.names) if node.module == "evo" else (str(node.module),)
        else:
            waiting += ast.iter_child_nodes(node)


def unit(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_arrows() -> None:
    rank = {name: number for number, names in enumerate(ORDER) for name in names}
    wrong = []
    for module, path in modules():
        mine = unit(module)
        if mine == "evo.__init__":
            continue  # the catalogue knows everybody
        assert mine in rank, f"{mine} has no place in ORDER yet"
        for other in imported(path):
            theirs = unit(other)
            if theirs == "evo" and rank[mine] < rank["evo.cli"]:
                wrong.append(f"{module} imports all of evo")
            elif theirs in rank and theirs != mine and rank[theirs] >= rank[mine]:
                wrong.append(f"{module} imports {other}")
    assert not wrong


@pytest.mark.parametrize("package", ONLY_IN)
def test_only_in(package: str) -> None:
    importers = {module for module, path in modules() if package in {name.split(".")[0] for name in imported(path)}}
    assert importers
    assert not [module for module in importers if not module.startswith(ONLY_IN[package])]


def test_nobody_imports_the_root_folders() -> None:
    for module, path in modules():
        assert not {"encodings", "fitness"} & {name.split(".")[0] for name in imported(path)}, module
