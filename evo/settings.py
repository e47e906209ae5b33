"""The base of every part a user configures: checked on construction, refused in one sentence, immutable afterwards."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from evo.errors import SettingsError, unknown_name


def explain(error: ValidationError, owner: type[BaseModel], where: str) -> str:
    """Turn pydantic's first complaint about `owner` into one sentence that starts with `where`.

    Args:
        error: what pydantic says.
        owner: what was to be made.
        where: a class name, or a place in a file such as "run.toml:" (its top) or "run.toml: algorithm" (a table).
    """
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    place = f"{where}{' ' if where.endswith(':') else '.'}{path}" if path else where
    if first["type"] == "extra_forbidden":
        fields = {field.alias or name for name, field in owner.model_fields.items()}
        return f"{place if ':' in where else where}: {unknown_name('setting', str(first['loc'][-1]), fields)}"
    if first["type"] == "missing":
        return f"{place} is missing; it has no default"
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, NestedError):
        return place + inner.rest
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{place}: got {first['input']!r}; {message}"


class NestedError(SettingsError):
    """What is wrong with settings, which may be a part of others.

    Attributes:
        rest: the sentence after the name of their class.
    """

    def __init__(self, sentence: str, name: str) -> None:
        super().__init__(sentence)
        self.rest = sentence.removeprefix(name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel from a worker with both arguments, of which an exception keeps the first alone."""
        return NestedError, (str(self), str(self).removesuffix(self.rest))


class Settings(BaseModel):
    """Immutable, keyword-only settings; a wrong value raises SettingsError with one sentence.

    Every field carries a `description`, from which the table of `run.toml` keys is made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            name = type(self).__name__
            raise NestedError(explain(error, type(self), name), name) from None

    @classmethod
    def parse(cls, settings: Mapping[str, Any], where: str) -> Self:
        """Return one with what a file says; an error names the place, e.g. "run.toml: algorithm"."""
        part = cls.__new__(cls)
        try:
            BaseModel.__init__(part, **settings)
        except ValidationError as error:
            raise SettingsError(explain(error, cls, where)) from None
        return part

    def to_dict(self) -> dict[str, Any]:
        """Return the complete settings as plain values, defaults included."""
        return self.model_dump(mode="json")
