"""Formulas as pictures in the page, drawn by matplotlib at build time: they need no script, no font and no network.

matplotlib's mathtext knows the part of TeX that the pages use; what it does not know is an error of the build. Every formula
is an SVG in the colour of the text around it, with its source as alternative text.
"""

from typing import Any

from docutils import nodes
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.writers.html5 import HTML5Translator

SIZE = 100
"""Units of the drawing per em."""

FONT = FontProperties(size=SIZE, math_fontfamily="stix")
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


def picture(source: str) -> str:
    """Return a TeX formula as an SVG element, as large as the text around it and on its baseline.

    Raises:
        SphinxError: it is none that matplotlib can draw.
    """
    text = " ".join(source.split())
    try:
        _, _, depth, _, _ = MathTextParser("path").parse(f"${text}$", dpi=72, prop=FONT)
        path = TextPath((0, 0), f"${text}$", prop=FONT)
    except ValueError as error:
        raise SphinxError(f"formula {text}: {error}") from None
    box = path.get_extents()
    left, top, width, height = box.x0 - 3, -box.y1 - 3, box.width + 6, box.height + 6
    below = -box.y0 + 3  # from the baseline to the lower edge
    del depth
    drawn = " ".join(
        "Z" if code == Path.CLOSEPOLY else LETTERS[code] + " ".join(f"{x:.1f},{-y:.1f}" for x, y in points.reshape(-1, 2))
        for points, code in path.iter_segments(curves=True, simplify=False)
    )
    return (
        f'<svg role="img" aria-label="{nodes.unescape(_attribute(text))}" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}" '
        f'style="width:{width / SIZE:.3f}em;height:{height / SIZE:.3f}em;vertical-align:{-below / SIZE:.3f}em;max-width:100%" '
        f'fill="currentColor"><title>{_attribute(text)}</title><path d="{drawn}"/></svg>'
    )


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(picture(node.astext()))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula" style="margin:1em 2em;overflow-x:auto">{picture(node.astext())}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx draw formulas so."""
    app.add_html_math_renderer("mathtext", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("config-inited", lambda _, config: setattr(config, "html_math_renderer", "mathtext"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
