import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymoo.indicators.hv import HV

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import RunFolderError, SettingsError
from evo.network import COSTS
from evo.run import Run, pack_structure, unpack_structure
from evo.testing import small_task


def dominated_by_any(values: NDArray[np.float64], index: int) -> bool:
    """Slow and obvious."""
    mine = values[index]
    return any((other <= mine).all() and (other < mine).any() for other in values)


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


def test_the_hypervolume_is_a_share_of_the_box_of_original_and_measured(run: Run) -> None:
    frame = run.history[lambda rows: rows["status"] == "ok"]
    original = TASK.network.cost_of(TASK.network.full)["params"]
    worst, best = frame["score"].min(), frame["score"].max()
    scaled = np.stack([(best - frame["score"]) / (best - worst), frame["params"] / original], 1)
    expected = HV(ref_point=np.ones(2))(scaled)
    assert 0 < expected < 1
    assert run.hypervolume(["score", "params"]) == pytest.approx(expected)
    assert run.hypervolume("score") == 1.0, "the best is the best measured"
    assert run.hypervolume("params") == pytest.approx(1 - frame["params"].min() / original)
    own = run.hypervolume(["score", "params"], reference={"score": 0, "params": 500}, ideal={"score": 20})
    scaled = np.stack([(20 - frame["score"]) / 20, frame["params"] / 500], 1)
    assert own == pytest.approx(HV(ref_point=np.ones(2))(scaled))


@pytest.mark.parametrize("names", [None, ("score", "macs"), "params"])
def test_the_hypervolume_grows_from_evaluation_to_evaluation(run: Run, names: tuple[str, ...] | str | None) -> None:
    grown = run.convergence(names)
    assert grown["hypervolume"].is_monotonic_increasing
    last = grown.iloc[-1]
    assert last["hypervolume"] == pytest.approx(run.hypervolume(names))
    assert last["front"] == len(run.pareto(names))


def test_of_an_asynchronous_search_it_grows_in_the_order_of_results(tmp_path: Path) -> None:
    run = evo.search(
        TASK,
        encoding=evo.FilterBits(),
        fitness=judge,
        algorithm=evo.NSGA2(generations=4, population=8, asynchronous=True),
        evaluator=evo.LocalEvaluator(workers=0),
        out=tmp_path / "run",
    )
    with closing(sqlite3.connect(tmp_path / "run" / "history.sqlite")) as database, database:
        database.execute("UPDATE evaluations SET turn = 31 - turn")  # as if they had come the other way round
    frame = run.history.query("not cached")
    assert run.convergence()["id"].tolist() == frame.sort_values("turn").index.tolist() != frame.index.tolist()


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


def test_every_column_has_its_meaning_unit_and_type(run: Run) -> None:
    layers, generations = run.layers(0).reset_index(), run.generations
    for frame in (run.history.reset_index(), run.pareto().reset_index(), generations, layers):
        text = frame.attrs["columns"]
        assert set(frame.columns) == set(text)
        assert all(text.values())
    history = run.history
    text = history.attrs["columns"]
    assert text["seconds"].endswith("[s]")
    assert text["worker_memory"].endswith("[bytes]")
    assert text["score"] == "objective; empty unless ok; maximised"
    assert text["params"] == "learnable parameters; minimised [parameters]"
    types = {name: str(dtype) for name, dtype in history.dtypes.items()}
    assert history["status"].cat.categories.tolist() == ["ok", "failed", "timeout", "screened"]
    for name in ("operator", "node", "reused", "key", "reason", "log"):
        assert types[name] == "str"
    for name in ("turn", "asked", "worker", "worker_memory"):
        assert types[name] == "Int64"
    assert types["finished"].endswith("UTC]")
    for objective in ("score", "noise"):
        assert types[objective] == "float64"
    for cost in COSTS:
        assert types[cost] == "int64"
    assert set(map(str, generations.dtypes)) <= {"int64", "Int64", "float64"}


def test_descriptions_are_of_a_copy_too(run: Run) -> None:
    run.history.attrs["columns"].clear()
    assert run.history.attrs["columns"]["id"]


def test_tables_go_to_parquet_and_back(run: Run, tmp_path: Path) -> None:
    history = run.history
    assert (history["log"] != "").any(), "a traceback has lines, quotes and more"
    for frame in (history, run.pareto(), run.generations, run.layers(1)):
        frame.to_parquet(tmp_path / "x.parquet")
        again = pd.read_parquet(tmp_path / "x.parquet")
        pd.testing.assert_frame_equal(again, frame)
        assert again.attrs == frame.attrs


def test_tables_go_to_csv(run: Run, tmp_path: Path) -> None:
    history = run.history
    history.to_csv(tmp_path / "x.csv")
    again = pd.read_csv(tmp_path / "x.csv", index_col="id", keep_default_na=False, na_values={"score": "", "noise": ""})
    for name in ("parents", "log", "key", "status", "cached", "params", "score", "noise"):
        assert again[name].tolist() == pytest.approx(history[name].tolist(), nan_ok=True)


def test_an_empty_run_has_empty_tables_of_the_same_types(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.folder, tmp_path / "run")
    with closing(sqlite3.connect(copy / "history.sqlite")) as database, database:
        database.execute("DELETE FROM evaluations")
        database.execute("DELETE FROM generations")
    empty = Run(copy)
    assert len(empty.history) == len(empty.generations) == 0
    assert empty.history.dtypes.equals(run.history.dtypes)
    assert empty.generations.dtypes.equals(run.generations.dtypes)
    for frame in (empty.history, empty.generations):
        frame.to_parquet(tmp_path / "x.parquet")
        assert pd.read_parquet(tmp_path / "x.parquet").columns.equals(frame.columns)
    with pytest.raises(RunFolderError, match="no evaluation has succeeded yet"):
        empty.pareto()
    empty.close()


def test_what_a_run_weighs(run: Run, nsga_run: Run) -> None:
    assert run.trade_off == ["score", "params"]
    assert nsga_run.trade_off == ["error", "params"]
    assert run.maximized(["score", "macs"]) == {"score": True, "macs": False}
    with pytest.raises(SettingsError, match="unknown objective 'skore'; did you mean 'score'"):
        run.maximized("skore")


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
