"""The table of run.toml keys."""

from evo.algorithms import ALGORITHMS
from evo.cli.keys import markdown, sections
from evo.evaluation import EVALUATORS


def test_every_part_and_every_key_is_there_with_its_meaning() -> None:
    listed = {section.title: section for section in sections()}
    assert '[algorithm] name = "ecs", the default' in listed
    for table, registry in (("algorithm", ALGORITHMS), ("evaluator", EVALUATORS)):
        for name, kind in registry.items():
            (section,) = [
                section for title, section in listed.items() if title.startswith(f'[{table}] name = "{name}"')
            ]
            assert [key.name for key in section.keys] == list(kind.model_fields)
    for section in listed.values():
        assert section.about, section.title
        for key in section.keys:
            assert key.meaning, f"{section.title}: {key.name} has no description"


def test_types_and_defaults_are_said_in_words() -> None:
    keys = {f"{section.title}: {key.name}": key for section in sections() for key in section.keys}

    def said(name: str) -> tuple[str, str]:
        key = next(key for title, key in keys.items() if title.endswith(name))
        return key.kind, key.default

    assert said("the default: population") == ("whole number ≥ 2", "50")
    assert said(": keep") == ("[number, number]", "[0.1, 0.9]")
    assert said("[task.train] and [finetuning]: momentum") == ("number ≥ 0, < 1", "0.9")
    assert said("[task.train] and [finetuning]: flip") == ("true or false", "false")
    assert said("[task.train] and [finetuning]: optimizer") == ('"sgd", "adam"', '"sgd"')
    assert said("[task]: model") == ("text", "required")
    assert said("[task]: weights") == ("text", "")
    assert said(": resources") == ("table", "")
    assert said(": closed_form") == ("table", "")
    assert said(": closed_form.alpha") == ("number ≥ 0, ≤ 1", "0.8")
    assert said('"cascade": promote') == ("[number > 0, ≤ 1]", "required")
    assert said('"cascade": fidelities') == ("[table]", "required")
    assert said("[budget]: params") == ("whole number or number", "")


def test_the_page_is_a_well_formed_table() -> None:
    for line in markdown().splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 5
