"""Formulas as pictures in the page, drawn by matplotlib at build time: they need no script, no font and no network.

matplotlib's mathtext knows the part of TeX that the pages use; what it does not know is an error of the build. Every formula
is an SVG in the colour of the text around it, with its source as alternative text.
"""

import html
from typing import Any

from docutils import nodes
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.writers.html5 import HTML5Translator

SIZE = 100
"""Units of the drawing per em."""

MARGIN = 3
"""Units around it."""

FONT = FontProperties(size=SIZE, math_fontfamily="stix")
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


def picture(source: str) -> str:
    """Return a TeX formula as an SVG element, as large as the text around it and on its baseline.

    Raises:
        SphinxError: it is none that matplotlib can draw.
    """
    text = " ".join(source.split())
    try:
        path = TextPath((0, 0), f"${text}$", prop=FONT)
    except ValueError as error:
        raise SphinxError(f"formula {text}: {error}") from None
    box = path.get_extents().padded(MARGIN)
    drawn = " ".join(
        "Z"
        if code == Path.CLOSEPOLY
        else LETTERS[code] + " ".join(f"{x:.1f},{-y:.1f}" for x, y in points.reshape(-1, 2))
        for points, code in path.iter_segments(curves=True, simplify=False)
    )
    size = f"width:{box.width / SIZE:.3f}em;height:{box.height / SIZE:.3f}em;vertical-align:{box.y0 / SIZE:.3f}em"
    label = html.escape(text)
    return (
        f'<svg role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" style="{size};max-width:100%" '
        f'viewBox="{box.x0:.1f} {-box.y1:.1f} {box.width:.1f} {box.height:.1f}" fill="currentColor">'
        f'<title>{label}</title><path d="{drawn}"/></svg>'
    )


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(picture(node.astext()))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    large = node.astext().replace(r"\frac", r"\dfrac")
    self.body.append(f'<div class="formula" style="margin:1em 2em;overflow-x:auto">{picture(large)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx draw formulas so."""
    app.add_html_math_renderer("mathtext", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("config-inited", lambda _, config: setattr(config, "html_math_renderer", "mathtext"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
