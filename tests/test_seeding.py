"""Searches that begin with what sources make."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evo
from evo.encodings.base import Encoding
from evo.errors import RunFolderError, SettingsError
from evo.importance import ImportanceMatrix
from evo.seeding import SOURCES, TAKEN
from evo.seeds import FromImportanceMatrix, FromMagnitude, FromOCNNA, FromRun, SeedSource
from evo.testing import small_task
from tests.importance.zoo import task_of
from tests.interruptions import Stopped, assert_same, stopping_after

HERE = evo.LocalEvaluator(workers=0)
A = {"0": 0.2, "4": 1.0, "9": 0.1}
ALL = [FromImportanceMatrix(), FromOCNNA(images=40), FromMagnitude(norm="l2", scope="global")]


@evo.fitness(minimize=("loss", "params"))
def judge(candidate: evo.Candidate) -> dict[str, float]:
    return {"loss": 1 / sum(candidate.blueprint.counts.values())}


def search(task: evo.Task, folder: Path, **changes: Any) -> evo.Run:
    arguments: dict[str, Any] = {
        "encoding": evo.FilterBits(),
        "fitness": judge,
        "algorithm": evo.NSGA2(generations=3, population=12),
        "evaluator": HERE,
        "out": folder,
        "seed": 3,
        "reuse": False,
    }
    return evo.search(task, **{**arguments, **changes})


def began_with(run: evo.Run) -> list[evo.Blueprint]:
    rows = run.history
    return [run.blueprint(int(row)) for row in rows[rows["operator"] == "seed"].index]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose weights have bits."""
    folder = tmp_path_factory.mktemp("runs") / "earlier"
    search(small_task(), folder, encoding=evo.LayerPolicy(contributions=A))
    return folder


def test_sources_make_structures_and_say_how_many(task: evo.Task, folder: Path) -> None:
    sources = [*ALL, FromMagnitude(norm="l2", ratios=(0.7, 0.9), scope="global")]
    run = search(task, folder, seeds=sources)
    expected = [structure for source in sources for structure in source.structures(task, seed=3)]
    distinct = list(dict.fromkeys(expected))
    assert len(distinct) < len(expected)
    assert began_with(run) == distinct
    assert run.settings[TAKEN] == [*[{"made": 3, "taken": 3}] * 3, {"made": 2, "taken": 1}]
    assert [entry["from"] for entry in run.settings[SOURCES]] == [
        "importance_matrix",
        "ocnna",
        "magnitude",
        "magnitude",
    ]
    assert run.settings[SOURCES][1] == {
        **FromOCNNA(images=40).to_dict(),
        "from": "ocnna",
        "k": [20, 40, 60],
        "free": ["*"],
    }


@pytest.mark.parametrize(
    "encoding",
    [
        evo.FilterBits(min_filters=3),
        evo.ChannelVector(free=("4", "9"), min_channels=2),
        evo.LayerPolicy(contributions=A, bits=(3, 6), free=("0", "9"), closed_form={"b_min": 3, "b_max": 6}),
    ],
)
@pytest.mark.parametrize("budget", [None, evo.Budget(params=0.7), evo.Budget(bytes=0.15)])
def test_every_encoding_expresses_what_it_can(
    encoding: Encoding, budget: evo.Budget | None, task: evo.Task, folder: Path, earlier: Path
) -> None:
    if budget is not None and budget.bytes and not isinstance(encoding, evo.LayerPolicy):
        budget = evo.Budget(bytes=0.6)
    sources = [*ALL, FromRun(folder=str(earlier), most=3, shrink=True)]
    algorithm = evo.RandomSearch(evaluations=20, batch=20)
    run = search(task, folder, encoding=encoding, budget=budget, seeds=sources, algorithm=algorithm)
    assert run.history["status"].eq("ok").all()
    found = began_with(run)
    assert len(found) >= 6
    space = encoding.bind(task, (1.0,))
    for structure in found:
        assert space.decode(space.encode(structure)) == structure
        assert structure.bits.keys() == (
            set(task.network.quantisable) if isinstance(encoding, evo.LayerPolicy) else set()
        )
    if run.limits is not None:
        assert run.limits.fits(task.network.counts(found), task.network.bits(found)).all()


def test_weights_without_bits_get_the_most_that_there_are(task: evo.Task, folder: Path) -> None:
    encoding = evo.LayerPolicy(contributions=A, bits=(2, 5), closed_form={"b_max": 5})
    run = search(task, folder, encoding=encoding, seeds=[FromMagnitude(ratios=(0.5,))])
    assert began_with(run)[0].bits == dict.fromkeys(task.network.quantisable, 5)


def test_a_residual_network_within_a_budget(folder: Path) -> None:
    task = task_of("resnet20")
    budget = evo.Budget(macs=0.4)
    encoding = evo.ChannelVector(free=("layer*",), initial="random")
    source = FromImportanceMatrix(gammas=(0.1, 0.9), free=("layer*",))
    run = search(
        task, folder, encoding=encoding, budget=budget, seeds=[source], algorithm=evo.RandomSearch(evaluations=4)
    )
    limits = budget.bind(task.network.costs)
    widest = ImportanceMatrix(task.network, source.lam, source.free).fitting(lambda counts: bool(limits.fits(counts)))
    assert widest is not None
    assert run.history["operator"].tolist() == ["seed", "seed", "random", "random"]
    assert run.counts(0).tolist() == widest[1].tolist()


def test_more_than_there_are_places_are_thinned_out(task: evo.Task, folder: Path) -> None:
    given = [task.network.full, FromMagnitude(ratios=(0.9,)).structures(task)[0]]
    many = FromMagnitude(ratios=tuple(np.linspace(0, 0.9, 10)))
    algorithm = evo.NSGA2(generations=1, population=4)
    run = search(task, folder, seeds=[many, *given], algorithm=algorithm)
    made = [structure for structure in dict.fromkeys(many.structures(task)) if structure not in given]
    sizes = sorted((task.network.cost_of(structure)["params"] for structure in made), reverse=True)
    found = began_with(run)
    assert found[:2] == given
    assert sorted(task.network.cost_of(one)["params"] for one in found[2:]) == [sizes[-1], sizes[0]]
    assert run.settings[TAKEN] == [{"made": 10, "taken": 2}]
    with pytest.raises(SettingsError, match="got 5 structures, but NSGA2 begins with 4"):
        search(task, folder.with_name("more"), seeds=[many, *given, *given, task.network.full], algorithm=algorithm)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupted_search_goes_on_although_the_earlier_run_is_gone(
    asynchronous: bool, task: evo.Task, tmp_path: Path, earlier: Path
) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(earlier, copied)
    sources: list[evo.Blueprint | SeedSource] = [
        task.network.full,
        FromRun(folder=str(copied), most=4),
        FromOCNNA(images=40),
    ]
    algorithm = evo.NSGA2(generations=4, population=12, asynchronous=asynchronous)
    whole = search(task, tmp_path / "whole", seeds=sources, algorithm=algorithm)
    for name in ("again", "resumed"):
        with pytest.raises(Stopped):
            search(task, tmp_path / name, seeds=sources, algorithm=algorithm, callbacks=[stopping_after(3)])
    shutil.rmtree(copied)
    assert_same(search(task, tmp_path / "again", seeds=sources, algorithm=algorithm), whole)
    assert_same(search(task, tmp_path / "resumed", algorithm=algorithm), whole)
    with pytest.raises(SettingsError, match=r"^seeds: from run: .*copy: not a run folder, it has no run\.toml$"):
        search(task, tmp_path / "new", seeds=sources, algorithm=algorithm)


def test_other_sources_are_another_search(task: evo.Task, folder: Path) -> None:
    search(task, folder, seeds=[FromMagnitude()])
    for seeds, difference in (
        ([FromMagnitude(norm="l2")], r"seeds_from was \[\{'from': 'magnitude', .*'l1'.*, is now \[.*'l2'"),
        ([FromMagnitude(), FromMagnitude(norm="l2")], r"seeds_from was "),
        ([task.network.full, FromMagnitude()], r"it began with 3 seeds, not with these 3"),
        ([], r"it began with 3 seeds, not with these 0"),
        (began_with(evo.Run(folder)), r"seeds_from was .*, is now None"),
    ):
        with pytest.raises(RunFolderError, match=rf"belongs to another search \({difference}"):
            search(task, folder, seeds=seeds)


def test_what_is_wrong_is_said_before_any_work(task: evo.Task, folder: Path, earlier: Path) -> None:
    class Never(FromMagnitude):
        def structures(self, task: evo.Task, **_: Any) -> list[evo.Blueprint]:
            raise AssertionError("work began")

    for seeds, sentence, budget in (
        ([Never(), FromOCNNA(free=("conv9",))], r"^seeds: from ocnna: free: unknown coupling group 'conv9'; ", None),
        ([Never(), FromRun(folder="nowhere")], r"^seeds: from run: nowhere: not a run folder", None),
        (
            [FromRun(folder=str(earlier))],
            r"^seeds: from run: .*: all \d+ structures exceed the budget; shrink = true ",
            evo.Budget(params=int(task.network.costs.costs(task.network.fewest, ["params"])["params"])),
        ),
        (
            [FromMagnitude(free=("0",))],
            r"^seeds: from magnitude: none of these structures can meet the budget",
            evo.Budget(params=0.3),
        ),
        (FromMagnitude(), r"^seeds: expected structures .* in a list, got FromMagnitude\(", None),
    ):
        with pytest.raises(SettingsError, match=sentence):
            search(task, folder, seeds=seeds, budget=budget)
        assert not folder.exists()


def test_a_source_of_the_users_own(task: evo.Task, folder: Path) -> None:
    class Whole(SeedSource):
        def check(self, task: evo.Task) -> None:
            pass

        def structures(self, task: evo.Task, **_: Any) -> list[evo.Blueprint]:
            return [task.network.full]

    run = search(task, folder, seeds=[Whole()])
    assert began_with(run) == [task.network.full]
    assert run.settings[SOURCES][0]["from"].endswith("Whole")
    within = search(task, folder.with_name("within"), seeds=[Whole()], budget=evo.Budget(params=0.5))
    assert began_with(within) == [], "what exceeds the budget is left out"
    assert within.settings[TAKEN] == [{"made": 0, "taken": 0}]
