"""Docstrings of this project are plain text with names and code in `backticks`: what Sphinx has to know to show them so."""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

_CODE = re.compile(r"(``.*?``|`[^`]*`)")
_SPECIAL = re.compile(r"([*|]|(?<=\w)_(?!\w))")


def _as_text(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Escape what is plain text in a docstring and would be markup in reStructuredText; runs before napoleon."""
    literal = False  # inside an indented block after "::"
    for index, line in enumerate(lines):
        if literal and line.strip() and not line.startswith(" "):
            literal = False
        if not literal and not line.lstrip().startswith(">>>"):
            parts = _CODE.split(line)
            parts[::2] = [_SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
            lines[index] = "".join(parts)
        literal = literal or line.rstrip().endswith("::")


def _as_code(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """Show `code` that names nothing documented as code: not all that stands in backticks is a name."""
    return content if node.get("reftype") == "obj" and node.get("refdomain") == "py" else None


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what pydantic adds to every class."""
    return True if name in ("model_post_init", "model_config") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect them."""
    app.connect("autodoc-process-docstring", _as_text, priority=100)
    app.connect("missing-reference", _as_code)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
