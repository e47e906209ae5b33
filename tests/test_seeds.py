"""Where structures to begin a search with come from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evo
from evo.candidate import Candidate
from evo.encodings.base import Encoding
from evo.errors import EvoError, NetworkError, RunFolderError, SettingsError
from evo.importance import FilterSelection, importance_matrix, magnitude, ocnna_scores, structures
from evo.importance.magnitude import l2
from evo.importance.norm_scale import bn_scale
from evo.seeds import (
    SEED_SOURCES,
    Fits,
    FromImportanceMatrix,
    FromMagnitude,
    FromOCNNA,
    FromRun,
    SeedSource,
    evenly,
    shrunk,
)
from evo.testing import small_task
from tests.importance.zoo import network_of, task_of

HERE = evo.LocalEvaluator(workers=0)
MANY = tuple(np.linspace(0, 0.95, 20).tolist())


@evo.fitness(minimize=("error", "macs"))
def judge(candidate: Candidate) -> dict[str, float]:
    """Wider is better, with an optimum that costs alone do not tell."""
    kept = [candidate.blueprint.counts[name] / size for name, size, _ in candidate.blueprint.groups]
    return {"error": 1 - float(np.mean(np.sqrt(kept))) + 0.05 * abs(kept[0] - 0.5)}


def earlier(task: evo.Task, folder: Path, encoding: Encoding | None = None, **changes: Any) -> evo.Run:
    return evo.search(
        task,
        encoding=encoding or evo.FilterBits(),
        fitness=judge,
        algorithm=evo.NSGA2(generations=3, population=20),
        evaluator=HERE,
        out=folder,
        **changes,
    )


def within(network: evo.Network, params: int) -> Fits:
    return lambda structure: network.cost_of(structure)["params"] <= params


def params(network: evo.Network, found: list[evo.Blueprint]) -> list[int]:
    return [network.cost_of(structure)["params"] for structure in found]


class TestWithoutABudget:
    def test_importance_matrix(self) -> None:
        task = task_of("resnet20")
        network = task.network
        source = FromImportanceMatrix(gammas=(0.2, 0.6), lam=2, select="l1", free=("layer*",), min_channels=3)
        for gamma, structure in zip(source.gammas, source.structures(task), strict=True):
            counts = importance_matrix(network, gamma, 2, ("layer*",), 3)
            assert network.counts(structure).tolist() == counts.tolist()
            chosen = FilterSelection(network, "l1").masks(counts)
            assert all((structure.masks[name] == mask).all() for name, mask in chosen.items())

    def test_ocnna(self, digits_task: evo.Task) -> None:
        network = digits_task.network
        found = FromOCNNA(k=(10, 50), images=60, scope="global").structures(digits_task, seed=3)
        scores = ocnna_scores(network, digits_task.train, images=60, seed=3)
        assert found == structures(network, scores, (10, 50), scope="global")
        assert found != FromOCNNA(k=(10, 50), images=60, scope="global").structures(digits_task, seed=4)

    @pytest.mark.parametrize(("norm", "score"), [("l2", l2), ("bn_scale", bn_scale)])
    def test_magnitude(self, norm: str, score: Any) -> None:
        task = task_of("resnet20")
        low, high = FromMagnitude.parse({"ratios": [0.25, 0.75], "norm": norm}, "").structures(task)
        for group in task.network.groups:
            best = np.argsort(-score(task.network, group))
            for structure, share in ((low, 0.75), (high, 0.25)):
                kept = structure.counts[group.name]
                assert abs(kept - share * group.size) <= 1
                assert structure.masks[group.name][best[:kept]].all()

    def test_magnitude_of_layers_that_have_none(self) -> None:
        task = small_task()
        with pytest.raises(NetworkError, match="no batch normalisation follows these filters"):
            FromMagnitude(norm="bn_scale").check(task)
        convolutions = FromMagnitude(norm="bn_scale", ratios=(0.5,), free=("0", "4"))
        convolutions.check(task)
        assert convolutions.structures(task)[0].counts["9"] == 12


@pytest.mark.parametrize("name", ["resnet20", "alexnet"])
@pytest.mark.parametrize(
    "make",
    [
        lambda shares: FromImportanceMatrix(gammas=shares, select="l2"),
        lambda shares: FromOCNNA(k=tuple(100 * share for share in shares)),
        lambda shares: FromMagnitude(ratios=shares),
        lambda shares: FromMagnitude(ratios=shares, scope="global"),
    ],
)
def test_the_largest_that_meets_the_budget_takes_the_place_of_what_exceeds_it(make: Any, name: str) -> None:
    """Residual streams and grouped convolutions included."""
    task = task_of(name)
    network = task.network
    everything = make(MANY).structures(task)
    sizes = params(network, everything)
    limit = (sizes[4] + sizes[5]) // 2
    found = make(MANY).structures(task, fits=within(network, limit))
    assert found[1:] == [structure for structure, size in zip(everything, sizes, strict=True) if size <= limit]
    assert max(size for size in sizes if size <= limit) <= params(network, found)[0] <= limit
    for structure in found[:2]:
        network.build(structure)(task.train.x)
    exact = params(network, found)[0]
    assert params(network, make((0.0,)).structures(task, fits=within(network, exact))) == [exact]
    with pytest.raises(SettingsError, match="none of these structures can meet the budget"):
        make((0.5,)).structures(task, fits=lambda structure: False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return earlier(small_task(), tmp_path_factory.mktemp("earlier"))


class TestRuns:
    def test_the_front(self, run: evo.Run, task: evo.Task) -> None:
        front = run.pareto(["error", "macs"])
        everything = FromRun(folder=str(run.folder), most=1000).structures(task)
        assert everything == [run.blueprint(row) for row in front.index]
        assert len(everything) > 6
        some = FromRun(folder=str(run.folder), most=4).structures(task)
        sizes = sorted(params(task.network, everything))
        assert params(task.network, some) == [
            sizes[rank] for rank in np.rint(np.linspace(0, len(sizes) - 1, 4)).astype(int)
        ]
        alone = FromRun(folder=run.folder, objectives=("error",)).structures(task)
        assert alone == [run.blueprint(row) for row in run.pareto("error").index]

    def test_the_best(self, run: evo.Run, task: evo.Task) -> None:
        found = FromRun(folder=str(run.folder), take="best", most=5).structures(task)
        rows = run.history.query("status == 'ok' and not cached").sort_values("error", kind="stable").index[:5]
        assert found == [run.blueprint(row) for row in rows]
        assert rows[0] == run.best.name

    def test_a_budget_leaves_some_out(self, run: evo.Run, task: evo.Task) -> None:
        everything = FromRun(folder=str(run.folder), most=1000).structures(task)
        sizes = params(task.network, everything)
        limit = int(np.median(sizes))
        found = FromRun(folder=str(run.folder), most=1000).structures(task, fits=within(task.network, limit))
        assert found == [structure for structure, size in zip(everything, sizes, strict=True) if size <= limit]
        assert 0 < len(found) < len(everything)
        best = FromRun(folder=str(run.folder), most=2, take="best").structures(task, fits=within(task.network, limit))
        measured = [run.blueprint(row) for row in run.ranked().index]
        assert best == [one for one in measured if task.network.cost_of(one)["params"] <= limit][:2]

    def test_a_budget_that_all_exceed(self, run: evo.Run, task: evo.Task) -> None:
        source = FromRun(folder=str(run.folder), most=1000)
        smallest = min(params(task.network, source.structures(task)))
        fits = within(task.network, smallest - 1)
        with pytest.raises(
            SettingsError, match=r"all \d+ structures exceed the budget; shrink = true makes them smaller$"
        ):
            source.structures(task, fits=fits)
        found = source.model_copy(update={"shrink": True}).structures(task, fits=fits)
        assert all(fits(structure) for structure in found)
        with pytest.raises(SettingsError, match=r"all \d+ structures exceed the budget$"):
            source.model_copy(update={"shrink": True}).structures(task, fits=lambda structure: False)

    @pytest.mark.parametrize(
        "encoding", [evo.ChannelVector(), evo.LayerPolicy(contributions={"0": 0.2, "4": 1.0, "9": 0.1})]
    )
    def test_of_another_encoding(self, encoding: Encoding, task: evo.Task, tmp_path: Path) -> None:
        run = earlier(task, tmp_path / "other", encoding)
        for structure in FromRun(folder=str(run.folder)).structures(task):
            assert bool(structure.bits) == isinstance(encoding, evo.LayerPolicy)
            task.network.build(structure)

    def test_of_another_network(self, run: evo.Run) -> None:
        source = FromRun(folder=str(run.folder))
        sentence = r"is a run of another network \(0 has 6 channels there, none here\)$"
        with pytest.raises(RunFolderError, match=sentence):
            source.check(task_of("resnet20"))
        with pytest.raises(RunFolderError, match=sentence):
            source.structures(task_of("resnet20"))

    def test_what_is_no_run_is_refused(self, run: evo.Run, task: evo.Task, tmp_path: Path) -> None:
        for settings, sentence in (
            ({"folder": str(tmp_path / "none")}, r"none: not a run folder, it has no run\.toml$"),
            (
                {"folder": str(run.folder), "objectives": ("errors",)},
                "unknown objective 'errors'; did you mean 'error'",
            ),
        ):
            with pytest.raises(EvoError, match=sentence):
                FromRun.parse(settings, "").check(task)

    def test_a_run_that_has_measured_nothing(self, task: evo.Task, tmp_path: Path) -> None:
        @evo.fitness(maximize="score")
        def fails(candidate: Candidate) -> dict[str, float]:
            raise ValueError("never")

        with pytest.raises(EvoError):
            evo.search(
                task,
                encoding=evo.FilterBits(),
                fitness=fails,
                algorithm=evo.RandomSearch(evaluations=5, batch=5),
                evaluator=evo.LocalEvaluator(workers=0, retries=0),
                out=tmp_path / "failed",
            )
        with pytest.raises(RunFolderError, match="no evaluation has succeeded yet"):
            FromRun(folder=str(tmp_path / "failed"), take="best").check(task)


@pytest.mark.parametrize("name", ["resnet20", "alexnet"])
def test_a_structure_is_shrunk_by_the_same_share_of_every_layer(name: str) -> None:
    network = network_of(name)
    rng = np.random.default_rng(0)
    structure = network.repaired({group.name: rng.random(group.size) < 0.8 for group in network.groups})
    structure = structure.with_bits({network.quantisable[0]: 4})
    size = network.cost_of(structure)["params"]
    norms = magnitude(network)
    for limit in (size - 1, size // 2, size // 5):
        small = shrunk(network, structure, within(network, limit))
        assert small is not None
        assert small.bits == structure.bits
        assert network.cost_of(small)["params"] <= limit
        network.build(small)
        for group in network.groups:
            mask, before = small.masks[group.name], structure.masks[group.name]
            assert not (mask & ~before).any()
            for part, part_before, scores in zip(
                *(one.reshape(group.parts, -1) for one in (mask, before, norms[group.name])), strict=True
            ):
                assert scores[part].min() >= scores[part_before & ~part].max(initial=0)
        # Some share lies, for every group, between what leaves it as many channels and what leaves one more.
        kept, whole = network.counts(small), network.counts(structure)
        steps = np.array([group.step for group in network.groups])
        assert ((kept - steps + 1) / whole)[kept > network.fewest].max(initial=0) < ((kept + 1) / whole).min() + 0.001
    assert shrunk(network, structure, lambda one: False) is None


def test_more_than_enough_are_thinned_out_by_size() -> None:
    network = network_of("lenet")
    found = FromMagnitude(ratios=MANY).structures(task_of("lenet"))
    assert evenly(network, found, 20) == list(range(20))
    assert sorted(evenly(network, found, 3)) in ([0, 9, 19], [0, 10, 19])
    assert evenly(network, found, 1) == [19], "the smallest"
    assert evenly(network, found, 0) == []


@pytest.mark.parametrize(
    ("source", "settings", "sentence"),
    [
        ("importance_matrix", {"gammas": [0.5, 1.0]}, r"seeds\.gammas\.1: got 1\.0; input should be less than 1"),
        ("importance_matrix", {"gammas": []}, r"seeds\.gammas: got \[\]; "),
        ("importance_matrix", {"select": "l3"}, r"seeds\.select: got 'l3'; .*did you mean 'l"),
        ("ocnna", {"k": [101]}, r"seeds\.k\.0: got 101; input should be less than or equal to 100"),
        ("ocnna", {"images": 1}, r"seeds\.images: got 1; "),
        ("magnitude", {"norm": "l3"}, r"seeds\.norm: got 'l3'; input should be 'l1', 'l2' or 'bn_scale'"),
        ("magnitude", {"scope": "all"}, r"seeds\.scope: got 'all'; input should be 'layer' or 'global'"),
        ("magnitude", {"ratio": [0.5]}, r"unknown setting 'ratio'; did you mean 'ratios'"),
        ("run", {}, r"seeds\.folder is missing"),
        ("run", {"folder": "a", "most": 0}, r"seeds\.most: got 0; "),
        ("run", {"folder": "a", "take": "all"}, r"seeds\.take: got 'all'; input should be 'front' or 'best'"),
    ],
)
def test_wrong_settings_are_one_sentence(source: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        SEED_SOURCES[source].parse(settings, "run.toml: seeds")


@pytest.mark.parametrize(
    "source", [FromImportanceMatrix(free=("9x",)), FromOCNNA(free=("9x",)), FromMagnitude(free=("9x",))]
)
def test_patterns_that_match_nothing_are_refused(source: SeedSource, task: evo.Task) -> None:
    with pytest.raises(SettingsError, match=r"^free: unknown coupling group '9x'; did you mean '9'\?"):
        source.check(task)
