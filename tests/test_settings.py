import json
import pickle
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

import evo
from evo.errors import EvoError, SettingsError, unknown_name
from evo.settings import Settings


class Oven(Settings):
    """What these tests configure."""

    heat: Annotated[int, Field(ge=0, le=300, description="degrees")] = 180
    mode: Annotated[Literal["fan", "grill"], Field(description="how")] = "fan"
    minutes: Annotated[float, Field(description="how long")]
    trays: Annotated[tuple[int, int], Field(description="from, to")] = (1, 2)

    @model_validator(mode="after")
    def _check(self) -> "Oven":
        if self.mode == "grill" and self.heat < 200:
            raise ValueError("Grilling needs 200 degrees")
        return self


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"heat": 400}, "Oven.heat: got 400; input should be less than or equal to 300"),
        (
            {"heat": "hot"},
            "Oven.heat: got 'hot'; input should be a valid integer, unable to parse string as an integer",
        ),
        ({"mode": "gril"}, "Oven.mode: got 'gril'; input should be 'fan' or 'grill'"),
        ({"minute": 3}, "Oven: unknown setting 'minute'; did you mean 'minutes'?"),
        ({"colour": 3}, "Oven: unknown setting 'colour'; known are: heat, minutes, mode, trays"),
        ({"minutes": float("nan")}, "Oven.minutes: got nan; input should be a finite number"),
        ({"trays": (1, "x")}, "Oven.trays.1: got 'x'; input should be a valid integer"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Oven(**{"minutes": 5, **settings})
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


class Kitchen(Settings):
    """Settings among settings."""

    oven: Annotated[Oven, Field(description="in it")] = Oven(minutes=5)


@pytest.mark.parametrize(
    ("oven", "sentence"),
    [
        ({"heat": 400}, r"Kitchen\.oven\.heat: got 400; input should be less than"),
        ({"heat": 20}, r"Kitchen\.oven\.minutes is missing; it has no default"),
        ({"minutes": 5, "minute": 3}, r"Kitchen\.oven: unknown setting 'minute'; did you mean 'minutes'\?"),
        ({"minutes": 1, "mode": "grill"}, r"Kitchen\.oven: got .*; grilling needs 200 degrees"),
    ],
)
def test_settings_among_settings_are_named_by_their_place(oven: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^{sentence}"):
        Kitchen(oven=oven)
    with pytest.raises(SettingsError, match=f"^{sentence.replace('Kitchen', 'run.toml: kitchen')}"):
        Kitchen.parse({"oven": oven}, "run.toml: kitchen")


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^Oven\.minutes is missing; it has no default$"):
        Oven(**{"heat": 20})


def test_settings_that_contradict_each_other_say_so() -> None:
    with pytest.raises(SettingsError, match=r"^Oven: got .*; grilling needs 200 degrees$"):
        Oven(minutes=1, mode="grill")


def test_settings_cannot_be_changed() -> None:
    oven = Oven(minutes=5)
    with pytest.raises(ValueError, match="frozen"):
        oven.heat = 3  # type: ignore[misc]


def test_plain_values_make_the_same_settings_again() -> None:
    oven = Oven(minutes=5, trays=(2, 4))
    described = json.loads(json.dumps(oven.to_dict()))
    assert described == {"heat": 180, "mode": "fan", "minutes": 5.0, "trays": [2, 4]}
    assert Oven(**described) == oven


@pytest.mark.parametrize(
    "kind", [evo.ECS, evo.RandomSearch, evo.FilterBits, evo.SubsetFineTune, evo.LocalEvaluator, evo.RayEvaluator]
)
def test_every_setting_says_what_it_is(kind: type[Settings]) -> None:
    assert kind.model_fields
    assert [name for name, field in kind.model_fields.items() if not field.description] == []
    kind()


def test_errors_travel_between_processes() -> None:
    with pytest.raises(SettingsError) as caught:
        evo.ECS(generations=0)
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert (type(travelled), str(travelled)) == (type(caught.value), str(caught.value))
    assert vars(travelled) == vars(caught.value)


def test_unknown_names_offer_the_closest_or_list_all() -> None:
    assert unknown_name("part", "lenett", ["resnet", "lenet"]) == "unknown part 'lenett'; did you mean 'lenet'?"
    assert unknown_name("part", "x", ["b", "a"]) == "unknown part 'x'; known are: a, b"


def test_one_class_catches_all_of_ours() -> None:
    assert issubclass(SettingsError, EvoError)
    assert issubclass(SettingsError, ValueError)
