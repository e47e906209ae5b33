"""Classes of settings in the API reference: every setting with its type, default and meaning, as `evo keys` prints them."""

from typing import Any

from sphinx.application import Sphinx

from evo.cli.keys import settings_of
from evo.settings import Settings


def _is_settings(obj: object) -> bool:
    return isinstance(obj, type) and issubclass(obj, Settings) and bool(obj.model_fields)


def _signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str, str | None] | None:
    """Show settings as what they are: keywords, explained below."""
    return ("(**settings)", None) if what == "class" and _is_settings(obj) else None


def _fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add a list of all settings to the docstring of their class."""
    if what != "class" or not _is_settings(obj):
        return
    lines += ["", "Settings:"]
    for key in settings_of(obj):
        field = obj.model_fields.get(key.name)
        if field is None:  # of settings within these, which have a place of their own
            continue
        default = "required" if field.is_required() else f"default ``{field.get_default(call_default_factory=True)!r}``"
        lines.append(f"    {key.name}: {key.meaning} ({key.kind}; {default})")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect them; the list is there before napoleon reads the docstring."""
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _fields, priority=50)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
