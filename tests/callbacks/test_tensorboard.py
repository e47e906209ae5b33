"""The log for TensorBoard, read back as TensorBoard reads it."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import PrivateAttr

import evo
from evo.callbacks import Progress, TensorBoard
from evo.errors import SettingsError
from evo.network import COSTS
from tests.callbacks.searching import search
from tests.interruptions import Stopped, stopping_after


def read(folder: Path) -> Any:
    """What TensorBoard's own server knows of the folder."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder), size_guidance={"tensors": 0}, tensor_size_guidance={"text": 0, "scalars": 0})
    log.Reload()
    return log


def scalars(log: Any, tag: str) -> dict[int, float]:
    events = log.Tensors(tag)
    steps = [event.step for event in events]
    assert steps == sorted(set(steps)), "nothing twice, and what TensorBoard takes for a restart"
    return {event.step: float(event.tensor_proto.float_val[0]) for event in events}


def check(run: evo.Run, folder: Path) -> None:
    """The log holds exactly what the run does."""
    log = read(folder)
    measured = run.history.query("not cached")
    good = measured.query("status == 'ok'")
    for name in COSTS:
        assert scalars(log, f"costs/{name}") == pytest.approx(measured[name].to_dict(), rel=1e-6)
    for name in ("score", "50 % noise"):
        (tag,) = (tag for tag in log.Tags()["tensors"] if tag.startswith(f"objectives/{name[:2]}"))
        assert scalars(log, tag) == pytest.approx(good[name].to_dict(), rel=1e-6)
    assert scalars(log, "evaluation/failed") == (measured["status"] != "ok").astype(float).to_dict()
    assert scalars(log, "evaluation/seconds") == pytest.approx(measured["seconds"].to_dict(), rel=1e-6)
    generations = run.generations.set_index("generation")
    for name in map(str, generations):
        assert scalars(log, f"generation/{name}") == pytest.approx(generations[name].dropna().to_dict(), rel=1e-6)
    failures = log.Tensors("failures/text_summary")
    assert [event.step for event in failures] == sorted(measured.query("status != 'ok'").index)
    assert b"four is refused" in failures[0].tensor_proto.string_val[0]
    walltimes = {event.step: event.wall_time for event in log.Tensors("costs/params")}
    for row, when in measured["finished"].items():
        assert walltimes[row] == pytest.approx(when.timestamp(), abs=1e-3)


def test_a_search_is_logged_in_its_folder_with_its_settings(task: evo.Task, folder: Path) -> None:
    run = search(task, folder, TensorBoard())
    check(run, folder / "tensorboard")
    log = read(folder / "tensorboard")
    (settings,) = log.Tensors("run.toml/text_summary")
    assert b"population = 6" in settings.tensor_proto.string_val[0]
    started = log.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"algorithm.population" in started
    assert b"encoding.name" in started


@pytest.mark.parametrize("after", [0, 4, 9])
def test_a_search_that_goes_on_has_neither_gaps_nor_anything_twice(
    task: evo.Task, folder: Path, tmp_path: Path, after: int
) -> None:
    logs = tmp_path / "logs"
    with pytest.raises(Stopped):
        search(task, folder, TensorBoard(log_dir=str(logs)), stopping_after(after))
    with pytest.raises(Stopped):
        search(task, folder, stopping_after(after + 3))  # nobody logs what happens here
    run = search(task, folder, TensorBoard(log_dir=str(logs)))
    check(run, logs)
    assert len(list(logs.iterdir())) == 2


def test_rows_that_come_in_another_order_are_all_shown(task: evo.Task, folder: Path) -> None:
    class Backwards(TensorBoard):
        _waiting: list[Any] = PrivateAttr(default_factory=list)

        def on_evaluation(self, row: Mapping[str, Any]) -> None:
            self._waiting.append(row)

        def on_generation(self, statistics: Mapping[str, float], progress: Progress) -> None:
            while self._waiting:
                super().on_evaluation(self._waiting.pop())
            super().on_generation(statistics, progress)

    check(search(task, folder, Backwards()), folder / "tensorboard")


def test_without_its_package_it_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.raises(
        SettingsError, match=r"^TensorBoard needs .*; install with: pip install 'evo-arch\[tensorboard\]'$"
    ):
        TensorBoard()
    with pytest.raises(SettingsError, match=r"^run\.toml: callbacks\[0\] needs a package that is not there"):
        TensorBoard.parse({}, "run.toml: callbacks[0]")
    monkeypatch.undo()
    importlib.import_module("tensorboard")
