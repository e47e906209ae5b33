"""The MLflow run, read back from a store of files."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import evo
from evo.callbacks import Callback, MLflow
from evo.errors import SettingsError
from evo.network import COSTS
from tests.callbacks.searching import search
from tests.interruptions import Stopped, stopping_after


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base takes seconds to make
    return (tmp_path / "mlruns").as_uri()


def client(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


def runs(store: str, experiment: str = "evo") -> list[Any]:
    found = client(store).get_experiment_by_name(experiment)
    return list(client(store).search_runs([found.experiment_id]))


def steps(store: str, run: Any, metric: str) -> dict[int, float]:
    history = client(store).get_metric_history(run.info.run_id, metric)
    found = {entry.step: entry.value for entry in history}
    assert len(found) == len(history), "nothing twice"
    return found


def check(run: evo.Run, store: str, found: Any) -> None:
    """MLflow holds exactly what the run does."""
    measured = run.history.query("not cached")
    good = measured.query("status == 'ok'")
    for name in COSTS:
        assert steps(store, found, f"costs/{name}") == measured[name].to_dict()
    assert steps(store, found, "objectives/score") == good["score"].to_dict()
    assert steps(store, found, "objectives/50 _ noise") == good["50 % noise"].to_dict()
    assert steps(store, found, "evaluation/failed") == (measured["status"] != "ok").astype(float).to_dict()
    assert steps(store, found, "evaluation/seconds") == measured["seconds"].to_dict()
    generations = run.generations.set_index("generation")
    for name in map(str, generations):
        assert steps(store, found, f"generation/{name}") == generations[name].dropna().to_dict()


def test_a_search_is_a_run_with_parameters_and_metrics(task: evo.Task, folder: Path, store: str) -> None:
    run = search(task, folder, MLflow(tracking_uri=store, experiment="small ones"))
    (found,) = runs(store, "small ones")
    check(run, store, found)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == folder.name
    assert found.data.params["algorithm.population"] == "6"
    assert found.data.params["encoding.name"] == "filter_bits"
    assert found.data.tags["evo.folder"] == str(folder)
    assert json.loads((folder / "mlflow.json").read_text())["run_id"] == found.info.run_id


@pytest.mark.parametrize("after", [0, 4, 9])
def test_a_search_that_goes_on_continues_its_run_without_gaps(
    task: evo.Task, folder: Path, store: str, after: int
) -> None:
    with pytest.raises(Stopped):
        search(task, folder, MLflow(tracking_uri=store), stopping_after(after))
    (found,) = runs(store)
    assert found.info.status == "KILLED"
    with pytest.raises(Stopped):
        search(task, folder, stopping_after(after + 3))  # nobody hears of this
    run = search(task, folder, MLflow(tracking_uri=store))
    (found,) = runs(store)
    check(run, store, found)
    assert found.info.status == "FINISHED"


def test_what_a_dead_process_had_not_sent_is_sent_later(task: evo.Task, folder: Path, store: str) -> None:
    class Dying(MLflow):
        def on_exception(self, error: BaseException) -> None:
            """Send nothing, as a killed process does."""

    with pytest.raises(Stopped):
        search(task, folder, Dying(tracking_uri=store), stopping_after(9))
    (found,) = runs(store)
    assert len(steps(store, found, "evaluation/failed")) < 9
    run = search(task, folder, MLflow(tracking_uri=store))
    check(run, store, runs(store)[0])


def test_a_run_that_was_deleted_is_made_anew(task: evo.Task, folder: Path, store: str) -> None:
    run = search(task, folder, MLflow(tracking_uri=store))
    client(store).delete_run(runs(store)[0].info.run_id)
    search(task, folder, MLflow(tracking_uri=store, run_name="again"))
    (found,) = runs(store)
    assert found.info.run_name == "again"
    check(run, store, found)


def test_a_search_that_fails_is_a_failed_run(task: evo.Task, folder: Path, store: str) -> None:
    class Broken(Callback):
        def on_generation(self, statistics: Mapping[str, float], progress: Any) -> None:
            raise ValueError("no")

    with pytest.raises(evo.EvoError, match="Broken"):
        search(task, folder, MLflow(tracking_uri=store), Broken())
    assert runs(store)[0].info.status == "FAILED"


def test_without_its_package_it_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    with pytest.raises(SettingsError, match=r"^MLflow needs .*; install with: pip install 'evo-arch\[mlflow\]'$"):
        MLflow()
