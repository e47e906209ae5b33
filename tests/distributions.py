"""Installed packages: what pip leaves of them in a folder on the path."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent


def install(
    folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], *, version: str = "1.0", **modules: str
) -> Path:
    """Write a distribution into `folder`: its metadata with entry points by group, and its modules."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module, code in modules.items():
        (folder / f"{module}.py").write_text(dedent(code))
    return folder
