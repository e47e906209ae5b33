r"""The code on pages of documentation: found, and run from top to bottom as a reader would.

A page is Markdown. Every fenced block has a language, which says what happens to it:

- `python` is executed; all blocks of a page share their names;
- `bash`: every line is a command of `evo`, run as from a shell, in the folder of the page's other files;
- `toml` is a run.toml, or a part of one, that is read and checked as `evo search` does;
- `text` right after one of these is what it prints, with `...` for what may differ.

What a block takes to run is said in comments before it, which no reader sees:

    <!-- test: before …python… -->      executed first
    <!-- test: after …python… -->       executed afterwards, such as assertions
    <!-- test: smaller …lines of `large → small`… -->   replaced in the block, so that it takes seconds (`\n`: a new line)
    <!-- test: file NAME -->            the block is written to this file as well
    <!-- test: fails -->                the commands end with status 2: the page shows a mistake
    <!-- test: not run: REASON -->      it cannot be run here; the arguments of `evo` commands are checked all the same
    <!-- test: slow -->                 anywhere: the page is not part of the fast tests
"""

import contextlib
import doctest
import io
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import typer

from evo.cli.app import app, main
from evo.cli.config import read_config

ROOT = Path(__file__).parents[1]
MINIMAL_TASK = {"model": "lenet", "data": "digits", "train": {"epochs": 1}}
"""[task] of a part of a run.toml that has none."""

_COMMENT = re.compile(r"<!-- test: (not run|\w+)[: ]?(.*?)-->", re.DOTALL)
_FENCE = re.compile(r"^```(\S*).*$")
_BEFORE = ([], ["--"], ["&&"])
"""What stands before `evo` where it is a command, also of `ray job submit` and its like."""
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Block:
    """A fenced block.

    Attributes:
        page: the file.
        line: of its first line of code, from 1.
        heading: the last one before it.
        language: what stands after the fence; "" for nothing.
        text: its content.
        notes: what the comments before it say, by their first word.
    """

    page: Path
    line: int
    heading: str
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def smaller(self) -> str:
        """The text with every replacement made."""
        text = self.text
        for line in filter(None, map(str.strip, self.notes.get("smaller", "").splitlines())):
            large, arrow, small = line.partition(" → ")
            assert arrow, f"{self}: expected `large → small`, got {line!r}"
            assert large in text, f"{self}: has no {large!r} to make smaller"
            text = text.replace(large, small.replace("\\n", "\n"))
        return text

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of every command `evo` in it, also of one at the end of another command; comments left out."""
        found = []
        for line in self.smaller.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            starts = [
                index for index, word in enumerate(words) if word == "evo" and words[index - 1 : index] in _BEFORE
            ]
            if starts:
                words = words[starts[0] + 1 :]
                end = next((index for index, word in enumerate(words) if word in ("|", "&&", ">")), len(words))
                found.append(words[:end])
        return found

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page}:{self.line}"


@dataclass
class Page:
    """A page and its blocks; `slow` if it says so."""

    path: Path
    blocks: list[Block]
    slow: bool

    @property
    def name(self) -> str:
        """Its path from the root of the project."""
        return str(self.path.relative_to(ROOT))


def read(path: Path, notes: Path | None = None) -> Page:
    """Return a page; comments for it may stand in a file of their own, before empty blocks under the same headings."""
    blocks, slow = _blocks(path)
    if notes is not None:
        beside, slow_too = _blocks(notes)
        slow |= slow_too
        for place, block in _placed(beside).items():
            matching = _placed(blocks).get(place)
            assert matching, f"{block}: {path.name} has no such block: {place}"
            matching.notes |= block.notes
    return Page(path, blocks, slow)


def _placed(blocks: Sequence[Block]) -> dict[tuple[str, str, int], Block]:
    """Return blocks by heading, language and number among those of this language under the heading."""
    placed: dict[tuple[str, str, int], Block] = {}
    for block in blocks:
        number = sum((block.heading, block.language) == place[:2] for place in placed)
        placed[block.heading, block.language, number] = block
    return placed


def _blocks(path: Path) -> tuple[list[Block], bool]:
    text = path.read_text()
    blocks: list[Block] = []
    heading, notes, slow, position = "", dict[str, str](), False, 0
    while position < len(text):
        end = text.find("\n", position)
        line = text[position : end if end >= 0 else len(text)]
        if comment := _COMMENT.match(text, position):
            word, rest = comment.groups()
            slow |= word == "slow"
            notes[word] = notes.get(word, "") + rest.strip("\n")
            position = comment.end()
        elif fence := _FENCE.match(line):
            start = end + 1
            stop = text.index("\n```", end)
            if not fence[1].startswith("{"):  # a directive of Sphinx is no code
                number = text.count("\n", 0, start) + 1
                blocks.append(Block(path, number, heading, fence[1], text[start : stop + 1], notes))
                notes = {}
            position = text.find("\n", stop + 1) + 1 or len(text)
        else:
            if line.startswith("#"):
                heading = line.lstrip("# ")
            position = end + 1 if end >= 0 else len(text)
    return blocks, slow


def run(page: Page, names: dict[str, Any]) -> None:
    """Run a page in the current folder.

    Args:
        page: what to run.
        names: that its Python finds.
    """
    printed: str | None = None
    for block in page.blocks:
        if "not run" in block.notes:
            check_arguments(block)
            printed = None
            continue
        _execute(block, block.notes.get("before", ""), names)
        if "file" in block.notes:
            Path(block.notes["file"].strip()).write_text(block.smaller)
        if block.language == "text":
            assert printed is not None, f"{block}: nothing has been printed that this could be"
            same = doctest.OutputChecker().check_output(block.text, printed, _SAME)
            assert same, f"{block}: printed was\n{printed}"
        else:
            printed = _RUNNERS[block.language](block, names)
        _execute(block, block.notes.get("after", ""), names)


def _run_python(block: Block, names: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        _execute(block, block.smaller, names)
    return out.getvalue()


def _execute(block: Block, code: str, names: dict[str, Any]) -> None:
    # Lines are counted as on the page, so that a traceback names the right one.
    exec(compile("\n" * (block.line - 1) + code, str(block), "exec"), names)


def _run_shell(block: Block, names: dict[str, Any]) -> str:
    lines = [
        words for line in block.smaller.replace("\\\n", " ").splitlines() if (words := shlex.split(line, comments=True))
    ]
    assert all(words[0] == "evo" for words in lines), f"{block}: has other commands than evo; it cannot be run"
    printed = ""
    for arguments in block.commands:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
            status = _status(arguments)
        expected = 2 if "fails" in block.notes else 0
        assert status == expected, f"{block}: evo {shlex.join(arguments)}: {error.getvalue()}"
        printed += out.getvalue() + error.getvalue()
    return printed


def _status(arguments: Sequence[str]) -> int:
    try:
        main(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def _run_toml(block: Block, names: dict[str, Any]) -> str:
    document = tomllib.loads(block.smaller)
    document.setdefault("task", MINIMAL_TASK)
    # In this folder, where the modules that it names are.
    file = Path("block.toml")
    file.write_text(tomli_w.dumps(document))
    read_config(file)
    file.unlink()
    return ""


_RUNNERS = {"python": _run_python, "bash": _run_shell, "toml": _run_toml}
LANGUAGES = {*_RUNNERS, "text"}


def check_arguments(block: Block) -> None:
    """Parse, without running them, the `evo` commands of a block that cannot be run, and refuse unknown ones."""
    group = typer.main.get_command(app)
    for arguments in block.commands if block.language == "bash" else ():
        name = arguments[0]
        command = getattr(group, "commands", {}).get(name)
        assert command is not None, f"{block}: there is no command evo {name}"
        with command.make_context(name, list(arguments[1:])):
            pass


def pages() -> Iterator[Page]:
    """Yield every page of the project that may have code."""
    yield read(ROOT / "README.md", notes=ROOT / "tests" / "readme_notes.md")
    for path in (
        ROOT / "CONTRIBUTING.md",
        ROOT / "examples" / "cluster" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ):
        if "_build" not in path.parts:
            yield read(path)
