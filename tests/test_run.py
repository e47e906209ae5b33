import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import RunFolderError, SettingsError
from evo.run import Run, non_dominated, pack_structure, unpack_structure
from evo.testing import small_task


def dominated_by_any(values: NDArray[np.float64], index: int) -> bool:
    """Slow and obvious."""
    mine = values[index]
    return any((other <= mine).all() and (other < mine).any() for other in values)


@given(
    arrays.arrays(
        float,
        st.tuples(st.integers(0, 25), st.integers(1, 4)),
        elements=st.one_of(st.integers(0, 3).map(float), st.floats(-1e9, 1e9)),
    )
)
def test_non_dominated_equals_comparing_all_pairs(values: NDArray[np.float64]) -> None:
    expected = [not dominated_by_any(values, index) for index in range(len(values))]
    assert non_dominated(values).tolist() == expected


def test_equal_rows_stay_together() -> None:
    values = np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 2.0], [1.0, 3.0], [0.0, 3.0]])
    assert non_dominated(values).tolist() == [True, True, True, False, True]


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=20).filter(any), min_size=1, max_size=5),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 32)),
)
def test_structures_pack_and_unpack(kept: list[list[bool]], bits: dict[str, int]) -> None:
    groups = [(f"g{index}", len(bits)) for index, bits in enumerate(kept)]
    masks = {f"g{index}": np.array(bits) for index, bits in enumerate(kept)}
    blueprint = Blueprint.from_masks(masks).with_bits(bits)
    packed = pack_structure(blueprint, groups, "abcd")
    assert len(packed) == -(-sum(size for _, size in groups) // 8) + 4 * bool(blueprint.bits)
    assert unpack_structure(packed, groups, "abcd") == blueprint


@evo.fitness(maximize="score", minimize=("params", "noise"))
def judge(candidate: Candidate) -> Mapping[str, float]:
    counts = candidate.blueprint.counts
    if counts["0"] == 3:
        raise ValueError("three is refused")
    return {"score": float(counts["4"] + counts["9"]), "noise": float(candidate.rng().random())}


TASK = small_task()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    evo.search(
        TASK,
        encoding=evo.FilterBits(),
        fitness=judge,
        algorithm=evo.ECS(generations=4, population=12),
        evaluator=evo.LocalEvaluator(workers=0),
        out=folder,
    ).close()
    return folder


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    run = Run(folder, TASK)
    yield run
    run.close()


def test_best_is_the_best_success(run: Run) -> None:
    frame = run.history
    assert (frame["status"] == "failed").any(), "this test needs failures"
    best = run.best
    assert best["score"] == frame["score"].max()
    row = int(str(best.name))
    assert frame["status"][row] == "ok"
    assert run.blueprint(row).counts["0"] != 3


@pytest.mark.parametrize(
    ("names", "signs"),
    [(None, (-1, 1, 1)), ("noise", (1,)), (("score", "macs"), (-1, 1)), (["bytes", "noise", "score"], (1, 1, -1))],
)
def test_the_front_is_what_no_row_beats(run: Run, names: str | list[str] | None, signs: tuple[int, ...]) -> None:
    listed = ["score", "params", "noise"] if names is None else [names] if isinstance(names, str) else list(names)
    frame = run.history
    frame = frame[(frame["status"] == "ok") & ~frame["cached"]]
    values = frame[listed].to_numpy(dtype=float) * signs
    expected = {row for index, row in enumerate(frame.index) if not dominated_by_any(values, index)}
    front = run.pareto(names)
    assert set(front.index) == expected
    assert front["key"].is_unique
    order = front[listed[0]].to_numpy() * signs[0]
    assert (np.diff(order) >= 0).all()


def test_an_unknown_objective_is_refused(run: Run) -> None:
    with pytest.raises(SettingsError, match="unknown objective 'param'; did you mean 'params'"):
        run.pareto("param")


def test_tables_and_networks_of_a_row_agree_with_its_costs(run: Run) -> None:
    frame = run.history
    for row in frame.index[:6]:
        model = run.build(row)
        assert sum(parameter.numel() for parameter in model.parameters()) == frame.loc[row, "params"]
        table = run.layers(row)
        assert table.loc["total", "kept_weights"] == frame.loc[row, "weights"]
        assert run.blueprint(row).key == frame.loc[row, "key"]
        kept = [run.blueprint(row).counts[name] for name in ("0", "4", "9")]
        assert run.counts(row).tolist() == kept
        assert table["kept_filters"].tolist()[:3] == kept
        with torch.no_grad():
            assert model(TASK.val.x).shape == (48, 3)


def test_generations_are_summed_up(run: Run) -> None:
    frame, generations = run.history, run.generations
    assert generations["generation"].tolist() == [0, 1, 2, 3]
    for _, line in generations.iterrows():
        rows = frame[frame["generation"] == line["generation"]]
        assert line["asked"] == len(rows)
        assert line["cached"] == rows["cached"].sum()
        assert line["failed"] == ((rows["status"] != "ok") & ~rows["cached"]).sum()
        assert line["max"] == rows["score"].max()
        assert line["mean"] == pytest.approx(rows["score"].mean())


def test_history_is_a_copy(run: Run) -> None:
    frame = run.history
    frame["score"] = 0.0
    assert run.history["score"].max() > 0


def test_settings_are_complete(run: Run) -> None:
    settings = run.settings
    assert settings["seed"] == 0
    assert settings["algorithm"]["population"] == 12
    assert settings["algorithm"]["crossover_share"] == 0.7, "defaults too"
    assert settings["encoding"]["initial"] == "sparse"
    assert settings["fitness"]["maximize"] == ["score"]
    assert set(settings["versions"]) >= {"python", "torch", "numpy", "evo-arch"}
    assert settings["task"] == TASK.describe()


def test_building_needs_the_task(folder: Path) -> None:
    run = Run(folder)
    assert len(run.history) > 12
    with pytest.raises(RunFolderError, match=r"open the run with its task: Run\(folder, task\)"):
        run.build(0)
    run.close()


def test_a_network_chosen_from_a_frame_can_be_saved(run: Run, tmp_path: Path) -> None:
    """The index of a frame holds NumPy's numbers, which JSON does not know."""
    row = run.pareto().index[0]
    assert not isinstance(row, int)
    assert evo.load(evo.save(run.build(row), tmp_path / "small.evo"), TASK.network.build(TASK.network.full))


def test_what_is_no_run_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not a run folder, it has no run\.toml"):
        Run(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "history.sqlite").unlink()
    with pytest.raises(RunFolderError, match="there is no history here"):
        Run(broken)
    (broken / "run.toml").write_text("seed = = 3")
    with pytest.raises(RunFolderError, match=r"run.toml: damaged"):
        Run(broken)


def test_an_unknown_row_is_refused(run: Run) -> None:
    with pytest.raises(RunFolderError, match="there is no row 999; ids go from 0 to"):
        run.blueprint(999)
