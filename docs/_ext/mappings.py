"""The directive `mapping`: a dictionary of the code, from names to what they mean, as a table."""

from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Mapping(SphinxDirective):
    """`.. mapping:: evo.records.COLUMNS` shows it, with the option `headings`: two words and a comma.

    With `no-index`, references to the dictionary do not lead here.
    """

    required_arguments = 1
    option_spec = {"headings": directives.unchanged_required, "no-index": directives.flag}  # noqa: RUF012, docutils declares it so

    def run(self) -> list[nodes.Node]:
        """Return the table, which is a target of references to the dictionary."""
        module, _, name = self.arguments[0].rpartition(".")
        entries: dict[str, str] = getattr(import_module(module), name)
        body = nodes.tbody("", *(self._row(nodes.literal("", key), text) for key, text in entries.items()))
        first, second = self.options["headings"].split(",")
        head = nodes.thead("", self._row(nodes.Text(first), second.strip()))
        columns = [nodes.colspec(colwidth=width) for width in (20, 80)]
        table = nodes.table("", nodes.tgroup("", *columns, head, body, cols=2))
        if "no-index" not in self.options:
            target = self.arguments[0]
            self.env.domains.python_domain.note_object(target, "data", target, location=table)
            table["ids"].append(target)
        return [table]

    @staticmethod
    def _row(first: nodes.Node, second: str) -> nodes.row:
        texts = (first, nodes.Text(second))
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", text)) for text in texts))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("mapping", Mapping)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
