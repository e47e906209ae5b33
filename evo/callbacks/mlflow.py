"""MLflow: a search as a run of an experiment, on a tracking server or in a file."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from evo.callbacks import record
from evo.callbacks.base import Callback, Progress
from evo.run import Run
from evo.settings import Settings

NOTE = "mlflow.json"
"""File in the run's folder that says which MLflow run is its own."""

SECONDS = 5.0
"""Metrics wait so long at most before they are sent, several rows in one request."""

MOST = 900
"""Metrics that wait at most; MLflow takes 1,000 at once, and 100 parameters."""


class MLflow(Settings, Callback):
    """A run in MLflow, of a tracking server or wherever MLflow keeps them (`pip install 'evo-arch[mlflow]'`).

    Objectives, costs, seconds and failures as metrics by the id of the evaluation's row, statistics by generation, the
    settings as parameters. A search that goes on continues its MLflow run, which `mlflow.json` in the run's folder names,
    and adds what that lacks.
    """

    tracking_uri: Annotated[
        str | None,
        Field(min_length=1, description="e.g. http://host:5000; default as MLflow has it, MLFLOW_TRACKING_URI if set"),
    ] = None
    experiment: Annotated[
        str, Field(min_length=1, description="experiment that the run belongs to; made if there is none")
    ] = "evo"
    run_name: Annotated[
        str | None, Field(min_length=1, description="of the MLflow run; default the name of the run's folder")
    ] = None

    _client: Any = PrivateAttr(default=None)
    _run: str = PrivateAttr(default="")
    _waiting: list[Any] = PrivateAttr(default_factory=list)
    _sent: float = PrivateAttr(default=0.0)

    def model_post_init(self, context: Any) -> None:
        """Look for the package.

        Raises:
            SettingsError: it is not installed.
        """
        _mlflow()

    def on_start(self, run: Run) -> None:
        """Begin an MLflow run, or go on with the one of this search, and send what it lacks."""
        self._client = _mlflow().MlflowClient(tracking_uri=self.tracking_uri)
        self._waiting, self._sent = [], time.monotonic()
        self._run = self._known(run) or self._created(run)
        self._client.update_run(self._run, status="RUNNING")
        evaluated, generations = self._steps(record.FAILED), self._steps(record.ASKED)
        for row in record.recorded_rows(run):
            if row["id"] not in evaluated:
                self.on_evaluation(row)
        for statistics in record.recorded_generations(run):
            if int(statistics["generation"]) not in generations:
                self._wait(record.generation(statistics), int(statistics["generation"]), time.time())
        self._send()

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        """Send what was evaluated, with others."""
        self._wait(record.evaluation(row), row["id"], record.seconds_of(row))

    def on_generation(self, statistics: Mapping[str, float], progress: Progress) -> None:
        """Send the statistics, and what waits."""
        self._wait(record.generation(statistics), int(statistics["generation"]), time.time())
        self._send()

    def on_end(self, run: Run) -> None:
        """Send what waits, and end the MLflow run."""
        self._end("FINISHED")

    def on_exception(self, error: BaseException) -> None:
        """Send what waits, and end the MLflow run as killed or failed."""
        self._end("FAILED" if isinstance(error, Exception) else "KILLED")

    def _known(self, run: Run) -> str | None:
        """Return the MLflow run that an earlier process of this search has begun; None if there is none any more."""
        try:
            noted = str(json.loads((run.folder / NOTE).read_text())["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            found = self._client.get_run(noted)
        except _mlflow().exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return noted if found.info.lifecycle_stage == "active" else None

    def _created(self, run: Run) -> str:
        experiment = self._client.get_experiment_by_name(self.experiment)
        identifier = self._client.create_experiment(self.experiment) if experiment is None else experiment.experiment_id
        folder = run.folder.resolve()
        versions = {f"version.{name}": version for name, version in run.settings["versions"].items()}
        tags = {"evo.folder": str(folder), **versions}
        made = str(self._client.create_run(identifier, run_name=self.run_name or folder.name, tags=tags).info.run_id)
        entities = _mlflow().entities
        parameters = [entities.Param(name, str(value)) for name, value in record.parameters(run.settings).items()]
        for start in range(0, len(parameters), 100):
            self._client.log_batch(made, params=parameters[start : start + 100])
        _write(run.folder / NOTE, {"run_id": made, "experiment": self.experiment})
        return made

    def _steps(self, metric: str) -> set[int]:
        return {entry.step for entry in self._client.get_metric_history(self._run, metric)}

    def _wait(self, values: Mapping[str, float], step: int, when: float) -> None:
        metric = _mlflow().entities.Metric
        # MLflow knows no other signs in names.
        new = [
            metric(re.sub(r"[^\w\-. /:]", "_", name), value, int(1000 * when), step) for name, value in values.items()
        ]
        if len(self._waiting) + len(new) > MOST:
            self._send()
        self._waiting += new
        if time.monotonic() - self._sent > SECONDS:
            self._send()

    def _send(self) -> None:
        if self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting)
        self._waiting, self._sent = [], time.monotonic()

    def _end(self, status: str) -> None:
        if self._run:
            self._send()
            self._client.set_terminated(self._run, status)
            self._run = ""


def _write(path: Path, content: Mapping[str, str]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)


def _mlflow() -> Any:
    try:
        import mlflow
        import mlflow.entities
        import mlflow.exceptions
    except ImportError as error:
        raise record.missing_package("MLflow", "mlflow", error) from None
    return mlflow
