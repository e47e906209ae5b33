"""TensorBoard: a search as curves, beside other searches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field, PrivateAttr

from evo.callbacks import record
from evo.callbacks.base import Callback, Progress
from evo.run import Run
from evo.settings import Settings

LOG = "tensorboard"


class TensorBoard(Settings, Callback):
    """A log for TensorBoard: `tensorboard --logdir runs` shows all runs in "runs" (`pip install 'evo-arch[tensorboard]'`).

    Objectives, costs, seconds and failures by the id of the evaluation's row, statistics by generation, the settings as
    hyperparameters. A search that goes on writes the log anew from the run's history, and TensorBoard shows nothing that was
    in the folder before. A result is logged once all rows before it have theirs.
    """

    log_dir: Annotated[
        str | None, Field(min_length=1, description=f"folder of this run's log; default `{LOG}` in the run's folder")
    ] = None
    flush_seconds: Annotated[int, Field(ge=1, description="the log is written to disk so often")] = 30

    _writer: Any = PrivateAttr(default=None)
    # TensorBoard takes a step that is not larger than the last one for a restart, and drops what is beyond it. So rows are
    # logged in the order of their ids, which is not that in which workers come back.
    _next: int = PrivateAttr(default=0)
    _held: dict[int, Mapping[str, Any]] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        """Look for the package.

        Raises:
            SettingsError: it is not installed.
        """
        _writer_class()

    def on_start(self, run: Run) -> None:
        """Begin a log with the settings, and with what an earlier process has recorded."""
        folder = run.folder / LOG if self.log_dir is None else Path(self.log_dir)
        # The step from which on TensorBoard forgets what earlier files say: all of it. The history knows better than a log
        # whose end was lost with its process.
        self._writer = _writer_class()(str(folder), purge_step=0, flush_secs=self.flush_seconds)
        self._next, self._held = 0, {}
        self._describe(run)
        for row in record.recorded_rows(run):
            self.on_evaluation(row)
        for statistics in record.recorded_generations(run):
            self._log(record.generation(statistics), int(statistics["generation"]))
        self._writer.flush()

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        """Log what was evaluated, and why it failed if it did, up to the first row that has no result yet."""
        self._held[row["id"]] = row
        while self._next in self._held:
            self._log_row(self._held.pop(self._next))
            self._next += 1

    def _log_row(self, row: Mapping[str, Any]) -> None:
        values = record.evaluation(row)
        if not values:
            return
        when = record.seconds_of(row)
        self._log(values, row["id"], when)
        if row["status"] != "ok":
            self._writer.add_text("failures", f"id {row['id']}: {row['status']}: {row['reason']}", row["id"], when)

    def on_generation(self, statistics: Mapping[str, float], progress: Progress) -> None:
        """Log the statistics."""
        self._log(record.generation(statistics), int(statistics["generation"]))

    def on_end(self, run: Run) -> None:
        """Close the log."""
        self._close()

    def on_exception(self, error: BaseException) -> None:
        """Close the log."""
        self._close()

    def _describe(self, run: Run) -> None:
        from torch.utils.tensorboard import summary

        settings = {name: value for name, value in run.settings.items() if name != "seeds"}
        code = "\n".join(f"    {line}" for line in tomli_w.dumps(settings).splitlines())
        self._writer.add_text("run.toml", code)
        shown = dict.fromkeys((f"objectives/{objective.name}" for objective in run.objectives), 0.0)
        # Into this very log: `add_hparams` would make one of its own beside it.
        for part in summary.hparams(record.parameters(run.settings), shown):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(part)

    def _log(self, values: Mapping[str, float], step: int, when: float | None = None) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, when)

    def _close(self) -> None:
        if self._writer is not None:
            for number in sorted(self._held):
                self._log_row(self._held[number])
            self._writer.close()
            self._writer = None


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise record.missing_package("TensorBoard", "tensorboard", error) from None
    return SummaryWriter
