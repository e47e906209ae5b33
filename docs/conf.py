"""How Sphinx builds this documentation: `make docs`, into docs/_build.

Building and looking at the pages takes no network: nothing of other projects is downloaded (no intersphinx), and formulas are
drawn at build time by matplotlib, which evo needs anyway, and not by a script from elsewhere (see `_ext/formulas.py`).
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]  # this checkout, whatever is installed

import evo  # noqa: E402

project = "evo"
author = "the authors of evo"
version = release = evo.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "docstrings",
    "formulas",
    "mappings",
    "settings",
]
exclude_patterns = ["_build"]
nitpicky = True
# References to what other packages define cannot be resolved without their inventories, which would have to be downloaded.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!evo\b).*"),
    (r"py:class", r"evo\.evaluation\.base\.(Shared|Item|Result)"),  # type variables
]

# Pages are Markdown; their sections can be referred to by file and heading.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings are Google's style; types stand in the list of parameters, where there is room for them.
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Settings", "params_style")]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
default_role = "py:obj"
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"evo {release}"
html_show_copyright = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"code-font-size": "75%"},  # lines of 100 characters fit
}
