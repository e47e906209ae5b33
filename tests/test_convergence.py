"""What a search had found by when."""

import moocore
import pandas as pd
import pytest

import evo
from evo.errors import RunFolderError, SettingsError
from evo.run import Run
from tests.searches import search


def test_an_evaluation_is_a_row(ecs_run: Run) -> None:
    frame = ecs_run.convergence(["score", "params"])
    rows = ecs_run.history.query("not cached")
    assert frame["id"].tolist() == rows.index.tolist()
    assert frame["evaluations"].tolist() == list(range(1, len(rows) + 1))
    assert frame["generation"].tolist() == rows["generation"].tolist()
    assert frame["best_score"].iloc[-1] == ecs_run.best["score"]
    ok = rows["status"] == "ok"
    assert frame["best_params"].iloc[-1] == rows.loc[ok, "params"].min(), "failures have costs, but do not count"
    assert set(frame.columns) == set(frame.attrs["columns"])
    assert frame.attrs["columns"]["best_score"] == "largest score so far"


def test_every_row_is_that_of_a_search_that_ended_there(ecs_run: Run) -> None:
    ideal, reference = {"error": 0.1, "params": 10.0}, {"error": 1.5, "params": 2_000.0}
    frame = ecs_run.convergence(["error", "params"], reference, ideal)
    rows = ecs_run.history.query("not cached")
    for count, (volume, size) in enumerate(zip(frame["hypervolume"], frame["front"], strict=True), 1):
        values = rows[:count].query("status == 'ok'")[["error", "params"]].to_numpy(dtype=float)
        box = (1.5 - 0.1) * (2_000 - 10)
        expected = moocore.hypervolume(values, ref=[1.5, 2_000.0]) / box if len(values) else 0.0
        assert volume == pytest.approx(expected, rel=1e-12)
        assert size == (moocore.is_nondominated(values, keep_weakly=True).sum() if len(values) else 0)
    whole = ecs_run.hypervolume(["error", "params"], reference, ideal)
    assert frame["hypervolume"].iloc[-1] == pytest.approx(whole, rel=1e-12)


def test_the_default_box_is_of_the_worst_and_best_and_of_the_original(ecs_run: Run) -> None:
    ok = ecs_run.history.query("status == 'ok'")
    original = float(ecs_run.costs.costs(ecs_run.costs.sizes)["params"])
    reference = {"score": ok["score"].min(), "params": original}
    ideal = {"score": ok["score"].max(), "params": 0.0}
    names = ["score", "params"]
    pd.testing.assert_frame_equal(ecs_run.convergence(names), ecs_run.convergence(names, reference, ideal))


def test_an_asynchronous_search_is_in_the_order_of_its_turns(tmp_path_factory: pytest.TempPathFactory) -> None:
    algorithm = evo.ECS(generations=3, population=8, asynchronous=True)
    run = search(tmp_path_factory.mktemp("steady") / "run", algorithm=algorithm)
    rows = run.history.query("not cached").sort_values("turn")
    assert run.convergence()["id"].tolist() == rows.index.tolist()


def test_what_is_refused(ecs_run: Run, failed_run: Run) -> None:
    with pytest.raises(SettingsError, match=r"^reference: unknown objective 'eror'; did you mean 'error'\?$"):
        ecs_run.convergence(["error", "params"], {"eror": 1.0})
    with pytest.raises(SettingsError, match=r"^reference: expected a finite number for error, got nan$"):
        ecs_run.convergence("error", {"error": float("nan")})
    with pytest.raises(RunFolderError, match=r"failed: no evaluation has succeeded yet$"):
        failed_run.convergence()
