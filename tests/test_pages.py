"""The documentation: every block of code on its pages runs, and its links and names lead somewhere."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import evo
import evo.testing
from tests.pages import LANGUAGES, ROOT, Block, Page, check_arguments, pages, run

PAGES = list(pages())
WITH_CODE = [page for page in PAGES if page.blocks]
NOT_RUN = [block for page in PAGES for block in page.blocks if "not run" in block.notes]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; modules that are imported from it leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    with torch.random.fork_rng(devices=[]):
        yield tmp_path
    for name, module in list(sys.modules.items()):
        if name not in before and str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * page.slow) for page in WITH_CODE]
)
def test_its_code_runs(page: Page, place: Path, digits_task: evo.Task) -> None:
    names: dict[str, Any] = {"__name__": "page", "digits_task": digits_task}
    run(page, names)


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in NOT_RUN])
def test_what_is_not_run(block: Block) -> None:
    """Listed as skipped, each with its reason; that the arguments of evo are right is part of `test_its_code_runs`."""
    reason = block.notes["not run"].strip()
    assert len(reason) > 10, f"{block}: say why it is not run"
    pytest.skip(f"{block}: {reason}")


def test_every_block_has_a_language_that_says_what_to_do() -> None:
    assert not [str(block) for page in PAGES for block in page.blocks if block.language not in LANGUAGES]


class TestFastChecks:
    """What can be known of the documentation without building it or running its slow pages."""

    @pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in WITH_CODE if page.slow])
    def test_slow_pages_are_sound(self, page: Page) -> None:
        for block in page.blocks:
            if block.language == "python":
                compile(block.smaller, str(block), "exec")
            check_arguments(block)

    @pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
    def test_links_lead_somewhere(self, page: Page) -> None:
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)", page.path.read_text()):
            file = (page.path.parent / target) if target else page.path
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                assert anchor in {slug(heading) for heading in headings}, f"{page.name}: {target}#{anchor}"

    def test_every_page_is_in_the_table_of_contents(self) -> None:
        listed = {DOCS / "index.md"}
        for page in DOCS.rglob("*.md"):
            for toctree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
                names = [line for line in toctree.splitlines() if line and not line.startswith(":")]
                listed |= {page.parent / f"{name}{end}" for name in names for end in (".md", ".rst")}
        written = {path for end in ("md", "rst") for path in DOCS.rglob(f"*.{end}") if "_build" not in path.parts}
        assert written <= listed

    @pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
    def test_names_in_backticks_exist(self, page: Page) -> None:
        text = re.sub(r"```.*?```", "", page.path.read_text(), flags=re.DOTALL)
        for name in re.findall(r"`(?:[^`<]*<)?(evo(?:\.\w+)+)", text):
            assert found(name), f"{page.name}: there is no {name}"

    def test_every_public_name_is_in_the_reference(self) -> None:
        reference = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.rst"))
        documented = set(re.findall(r"^\.\. auto\w+:: (\S+)$", reference, re.MULTILINE))
        packages = (evo, evo.callbacks, evo.training, evo.importance, evo.quantization, evo.testing)
        public = {f"{package.__name__}.{name}" for package in packages for name in package.__all__}
        missing = {name for name in public if not any(documented_as(name, other) for other in documented)}
        # Packages, whose own names are looked at, and registries, which are explained where they are used.
        assert missing <= {
            *("evo.callbacks", "evo.fitness", "evo.importance", "evo.seeds"),
            *(name for name in public if name.rpartition(".")[2].isupper() and name.count(".") > 1),
            *KNOWN,
        }


DOCS = ROOT / "docs"
KNOWN = {"evo.EvoError", "evo.quantization.quantized_weights", "evo.quantization.weight_dim"}


def slug(heading: str) -> str:
    """Return the anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def found(name: str) -> bool:
    """Tell whether a dotted name is a module, or an attribute of one or of what it holds."""
    try:
        return bool(pkgutil.resolve_name(name) or True)
    except (ImportError, AttributeError):
        pass
    module, _, attribute = name.rpartition(".")
    try:  # a field of a class of settings is no attribute of it
        owner = pkgutil.resolve_name(module)
    except (ImportError, AttributeError):
        return False
    return attribute in getattr(owner, "model_fields", {}) or attribute in getattr(owner, "__dataclass_fields__", {})


def documented_as(name: str, other: str) -> bool:
    """Tell whether two dotted names are of the same object, such as the class and its re-export."""
    return pkgutil.resolve_name(name) is pkgutil.resolve_name(other) if name != other else True


@pytest.mark.slow  # 17 s of a processor
def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "-b",
        "html",
        "docs",
        str(tmp_path),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    assert (tmp_path / "guide" / "first-search.html").is_file()


def test_examples_in_docstrings() -> None:
    tried = 0
    for root, folder in (("evo", "evo"), ("evo.encodings", "encodings"), ("evo.fitness", "fitness")):
        for path in (ROOT / folder).rglob("*.py"):
            if ">>> " in path.read_text():
                name = ".".join((root, *path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(
                    ".__init__"
                )
                failed, attempted = doctest.testmod(importlib.import_module(name))
                assert not failed, name
                tried += attempted
    assert tried
