"""What the columns of a table are: every table has one dictionary of `Column`s and carries its text in `attrs`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        meaning: what it says, without its unit.
        dtype: of the column, as pandas has it; "datetime" for times in UTC. Categories are for words that are known
            beforehand: tables of other rows have the same type.
        unit: of its values; "" if they have none.
    """

    meaning: str
    dtype: str | pd.CategoricalDtype
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.meaning} [{self.unit}]" if self.unit else self.meaning


def table(values: Mapping[str, Sequence[Any] | NDArray[Any]], columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return a table of `values`, by name, with the types and the text of `columns`, in whose order they are.

    Missing values are None. Columns that `values` leaves out are not there.
    """
    listed = {name: column for name, column in columns.items() if name in values}
    frame = pd.DataFrame({name: _typed(values[name], column.dtype) for name, column in listed.items()})
    return described(frame, listed)


def described(frame: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return `frame` with the text of `columns` in `frame.attrs["columns"]`, by name; it keeps what it has of others.

    Selections, sorted tables and Parquet files keep it; what pandas makes of several tables may not.
    """
    frame.attrs["columns"] = {**frame.attrs.get("columns", {}), **{name: str(columns[name]) for name in columns}}
    return frame


def _typed(values: Sequence[Any] | NDArray[Any], dtype: str | pd.CategoricalDtype) -> "pd.Series[Any]":
    if dtype == "datetime":
        return pd.to_datetime(pd.Series(values, dtype="str"), utc=True, format="ISO8601").dt.as_unit("us")
    return pd.Series(values, dtype=dtype)
