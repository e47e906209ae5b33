"""What a search had found by when: against all pairs and whole hypervolumes, computed anew at every step."""

import moocore
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

import evo
from evo.convergence import _hypervolumes, convergence, worst
from evo.errors import RunFolderError, SettingsError
from evo.run import Run
from tests.searches import search


@settings(max_examples=50)
@given(
    st.integers(1, 4).flatmap(
        lambda count: arrays.arrays(
            float,
            st.tuples(st.integers(0, 12), st.just(count)),
            elements=st.one_of(st.integers(0, 4).map(float), st.just(np.nan)),
        )
    )
)
def test_hypervolumes_equal_measuring_every_front_anew(values: NDArray[np.float64]) -> None:
    reference = np.full(values.shape[1], 3.5)
    found = _hypervolumes(values, reference)
    for count in range(1, len(values) + 1):
        measured = values[:count][~np.isnan(values[:count]).any(1)]
        expected = moocore.hypervolume(measured, ref=reference) if len(measured) else 0.0
        assert found[count - 1] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert (np.diff(found) >= 0).all()


def test_an_evaluation_is_a_row(ecs_run: Run) -> None:
    frame = convergence(ecs_run, ["score", "params"])
    rows = ecs_run.history.query("not cached")
    assert frame["id"].tolist() == rows.index.tolist()
    assert frame["evaluations"].tolist() == list(range(1, len(rows) + 1))
    assert frame["generation"].tolist() == rows["generation"].tolist()
    assert frame["best_score"].iloc[-1] == ecs_run.best["score"]
    ok = rows["status"] == "ok"
    assert frame["best_params"].iloc[-1] == rows.loc[ok, "params"].min(), "failures have costs, but do not count"
    assert set(frame.columns) == set(frame.attrs["columns"])
    assert frame.attrs["columns"]["best_score"] == "largest score so far"


def test_the_default_reference_is_the_worst_that_was_measured(ecs_run: Run) -> None:
    reference = worst([ecs_run.history], ecs_run.maximized(["score", "error"]), "run")
    ok = ecs_run.history.query("status == 'ok'")
    assert reference == {"score": ok["score"].min(), "error": ok["error"].max()}
    pd.testing.assert_frame_equal(
        convergence(ecs_run, ["score", "error"]), convergence(ecs_run, ["score", "error"], reference)
    )


def test_an_asynchronous_search_is_in_the_order_of_its_turns(tmp_path_factory: pytest.TempPathFactory) -> None:
    algorithm = evo.ECS(generations=3, population=8, asynchronous=True)
    run = search(tmp_path_factory.mktemp("steady") / "run", algorithm=algorithm)
    rows = run.history.query("not cached").sort_values("turn")
    assert convergence(run)["id"].tolist() == rows.index.tolist()


def test_what_is_refused(ecs_run: Run, failed_run: Run) -> None:
    with pytest.raises(SettingsError, match=r"^reference: expected a number for 'params', got None$"):
        convergence(ecs_run, ["error", "params"], {"error": 1.0})
    with pytest.raises(SettingsError, match=r"^reference: unknown objective 'eror'; did you mean 'error'\?$"):
        convergence(ecs_run, ["error", "params"], {"eror": 1.0})
    with pytest.raises(SettingsError, match="reference: expected a number for 'error', got nan"):
        convergence(ecs_run, "error", {"error": float("nan")})
    with pytest.raises(RunFolderError, match=r"failed: no evaluation has succeeded yet$"):
        convergence(failed_run)


def test_with_a_reference_failures_alone_are_a_table_too(failed_run: Run) -> None:
    frame = convergence(failed_run, reference={"error": 1.0, "params": 9.0})
    assert len(frame) == len(failed_run.history)
    assert frame["best_error"].isna().all()
    assert frame["hypervolume"].tolist() == [0.0] * len(frame)
