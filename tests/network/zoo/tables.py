"""Published tables of networks that are not part of the project."""

import os
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[3]


def published(name: str, text: str = "arch") -> pd.DataFrame:
    """Return the table `name` from the folder `EVO_DATA`, by default ../shared/data beside the repository; skip without it.

    Args:
        name: of the file.
        text: the column that is text even where it looks like a number.
    """
    path = Path(os.environ.get("EVO_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"{path} is missing; set EVO_DATA to the folder that has it")
    return pd.read_csv(path, dtype={text: str})
