"""Parts of other packages: found by name, imported when named, refused in one sentence."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evo
from evo.algorithms import ALGORITHMS
from evo.callbacks import CALLBACKS, TensorBoard
from evo.cli.app import main
from evo.cli.plugins import REGISTRIES, Listed, listing
from evo.encodings.registry import ENCODINGS
from evo.errors import SettingsError
from evo.evaluation import EVALUATORS
from evo.fitness import FITNESSES
from evo.importance import CRITERIA
from evo.network.zoo import ZOO
from evo.training.datasets import DATASETS
from tests.distributions import install

GOOD = '''
    """What a package brings."""
    from torch import nn
    import evo
    from evo.callbacks import Callback
    from evo.fitness import Fitness
    from evo.seeds import SeedSource

    class Wide(evo.FilterBits):
        """Filter bits under another name.

        More about it.
        """

    class Quick(evo.RandomSearch):
        """A search."""

    class Here(evo.LocalEvaluator):
        """A place."""

    @evo.fitness(maximize="score")
    def judged(candidate):
        """A judgement."""
        return {"score": 1.0}

    @evo.importance.criterion
    def last(material):
        """The last stay."""
        return {group.name: range(group.size) for group in material.network.groups}

    class Told(Callback):
        """A listener."""

    class Whole(SeedSource):
        """Everything to begin with."""

        def check(self, task):
            pass

        def structures(self, task, **_):
            return [task.network.full]

    class Abstract(Fitness):
        pass

    def net(width=3):
        """A network."""
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(36 * width, 10))

    def images():
        """Data."""

    def plain(candidate):
        return {"score": 1.0}
'''
GOOD_NAMES = {
    "evo.encodings": {"wide": "good_parts:Wide"},
    "evo.fitness": {"judged": "good_parts:judged"},
    "evo.algorithms": {"quick": "good_parts:Quick", "ecs": "good_parts:Quick"},
    "evo.importance": {"last": "good_parts:last"},
    "evo.seeds": {"whole": "good_parts:Whole"},
    "evo.evaluators": {"here": "good_parts:Here"},
    "evo.networks": {"net": "good_parts:net"},
    "evo.datasets": {"images": "good_parts:images"},
    "evo.callbacks": {"told": "good_parts:Told [extra]"},
}
BAD_NAMES = {
    "evo.algorithms": {
        "raises": "raising_parts:Quick",
        "leaves": "leaving_parts:Quick",
        "nowhere": "nowhere_parts:Quick",
        "needy": "needy_parts:Quick",
        "missing": "odd_parts:Missing",
        "module": "odd_parts",
        "number": "odd_parts:number",
        "encoding": "odd_parts:Encoding",
    },
    "evo.fitness": {"undecorated": "odd_parts:function", "abstract": "odd_parts:Abstract"},
    "evo.importance": {"undecorated": "odd_parts:function"},
}


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Modules of the packages are imported anew by every test."""
    yield
    for name in [name for name in sys.modules if name.endswith("_parts")]:
        del sys.modules[name]


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> Path:
    install(tmp_path, "good-parts", GOOD_NAMES, version="2.1", good_parts=GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    install(
        tmp_path / "bad",
        "bad-parts",
        BAD_NAMES,
        raising_parts="raise ValueError('two\\nlines')",
        leaving_parts="import sys; sys.exit('no')",
        needy_parts="import a_package_that_nobody_has",
        odd_parts="""
            from evo.fitness import Fitness
            from evo import FilterBits as Encoding
            number = 3
            def function(x): ...
            class Abstract(Fitness): ...
        """,
    )
    monkeypatch.syspath_prepend(tmp_path / "bad")


@pytest.mark.usefixtures("good")
def test_every_kind_is_found_by_its_name_and_imported_only_then() -> None:
    for registry in REGISTRIES:
        names = {plugin.name for plugin in registry.plugins()} - {"ecs"}
        assert names == GOOD_NAMES[registry.group].keys() - {"ecs"}
    assert "good_parts" not in sys.modules
    quick = ALGORITHMS.find("quick", "here")
    import good_parts  # type: ignore[import-not-found]

    assert quick is good_parts.Quick
    assert ENCODINGS.find("wide", "here") is good_parts.Wide
    assert FITNESSES.find("judged", "here") is good_parts.judged
    assert CRITERIA.find("last", "here") is good_parts.last
    assert EVALUATORS.find("here", "here") is good_parts.Here
    assert ZOO.find("net", "here") is good_parts.net
    assert DATASETS.find("images", "here") is good_parts.images
    assert CALLBACKS.find("told", "here") is good_parts.Told


def test_built_in_names_and_references_are_found_too() -> None:
    assert ALGORITHMS.find("ecs", "here") is evo.ECS
    assert CALLBACKS.find("evo.callbacks:TensorBoard", "here") is TensorBoard
    assert ALGORITHMS.name_of(evo.ECS) == "ecs"
    assert CRITERIA.name_of(CRITERIA["random"]) == "random"


@pytest.mark.usefixtures("good")
def test_a_plug_in_never_takes_the_place_of_a_built_in_part() -> None:
    assert ALGORITHMS.find("ecs", "here") is evo.ECS
    assert "good_parts" not in sys.modules


@pytest.mark.usefixtures("good")
def test_an_unknown_name_offers_plug_ins() -> None:
    with pytest.raises(SettingsError, match=r"^here: unknown algorithm 'quik'; did you mean 'quick'\? \(your own"):
        ALGORITHMS.find("quik", "here")
    with pytest.raises(SettingsError, match=r"known are: .*, last, ocnna, random"):
        CRITERIA.find("zzzzzzz", "here")


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("raises", r"importing 'raising_parts' raised ValueError: two lines \(raising_parts\.py, line 1\)$"),
        ("leaves", r"importing 'leaving_parts' raised SystemExit: no"),
        ("nowhere", r"there is no module 'nowhere_parts'; install the package again$"),
        ("needy", r"module 'needy_parts' imports 'a_package_that_nobody_has', which is not installed$"),
        ("missing", r"module 'odd_parts' has no 'Missing'$"),
        ("module", r"expected module:attribute, got 'odd_parts'$"),
        ("number", r"odd_parts:number is an int; expected a subclass of evo\.algorithms\.base\.Algorithm$"),
        ("encoding", r"odd_parts:Encoding is the class FilterBits; expected a subclass of evo\.algorithms\.base"),
    ],
)
def test_a_plug_in_that_does_not_work_is_one_sentence_that_names_its_package(name: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=rf"^run\.toml: algorithm\.name: '{name}' of bad-parts 1\.0: {sentence}"):
        ALGORITHMS.find(name, "run.toml: algorithm.name")


@pytest.mark.usefixtures("bad")
def test_undecorated_functions_and_abstract_classes_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"odd_parts:function is a function; decorate it with @evo\.fitness"):
        FITNESSES.find("undecorated", "here")
    with pytest.raises(SettingsError, match=r"odd_parts:Abstract is the class Abstract; expected a Fitness"):
        FITNESSES.find("abstract", "here")
    with pytest.raises(SettingsError, match=r"^ChannelVector\.select: .*decorate it with @evo\.importance\.criterion"):
        evo.ChannelVector(select="undecorated")


def test_a_name_that_two_packages_bring_is_refused(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = install(good / "other", "other-parts", {"evo.algorithms": {"quick": "good_parts:Quick"}})
    monkeypatch.syspath_prepend(other)
    with pytest.raises(SettingsError) as refused:
        ALGORITHMS.find("quick", "here")
    assert str(refused.value) == (
        "here: several packages bring an algorithm 'quick': good-parts 2.1 (good_parts:Quick) and other-parts 1.0 "
        "(good_parts:Quick); name it as module:attribute"
    )
    assert ALGORITHMS.find("good_parts:Quick", "here").__name__ == "Quick"
    states = {part.package: part.state for part in listing() if part.name == "quick"}
    assert set(states) == {"good-parts 2.1", "other-parts 1.0"}
    assert all(state.startswith("ambiguous") for state in states.values())


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


@pytest.mark.usefixtures("good", "bad")
def test_the_listing_has_all_parts_and_says_which_do_not_work(capsys: pytest.CaptureFixture[str]) -> None:
    run("plugins", "--json")
    parts = [Listed(**part) for part in json.loads(capsys.readouterr().out)]
    found = {(part.group, part.name, part.package): part for part in parts}
    ours = f"evo {evo.__version__}"
    for registry in REGISTRIES:
        assert {part.name for part in parts if part.group == registry.group and part.package == ours} == set(registry)
    wide = found["evo.encodings", "wide", "good-parts 2.1"]
    assert (wide.kind, wide.reference, wide.state) == ("encoding", "good_parts:Wide", "ok")
    assert wide.about == "Filter bits under another name."
    assert found["evo.fitness", "judged", "good-parts 2.1"].about == "A judgement."
    assert found["evo.importance", "last", "good-parts 2.1"].about == "The last stay."
    assert found["evo.importance", "last", "good-parts 2.1"].state == "ok"
    assert found["evo.algorithms", "ecs", "good-parts 2.1"].state.startswith("hidden: ")
    assert found["evo.algorithms", "ecs", ours].state == "ok"
    raising = found["evo.algorithms", "raises", "bad-parts 1.0"]
    assert raising.state == "importing 'raising_parts' raised ValueError: two lines (raising_parts.py, line 1)"
    run("plugins")
    shown = capsys.readouterr().out
    assert "evo.networks" in shown
    assert all(name in shown for name in ("wide", "raises", "bad-parts 1.0"))


def test_nothing_is_imported_by_evo_itself_nor_by_its_keys(good: Path) -> None:
    code = (
        "import sys, evo\nfrom evo.cli.app import main\n"
        "try:\n    main(['keys'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'good_parts' not in sys.modules\n"
    )
    path = f"{good}:{Path(__file__).parents[1]}"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
