"""Synaptic pruning: every connection is appraised while the network learns, and those that stay inefficient go for good.

After Ahmadi and Mahboobi Esfanjani, "Structure Optimization in Deep Neural Networks with Synaptic Pruning Based on Connection
Appraisal" (2025). Of the paper only the abstract is known here; the formulas are decisions of this implementation.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.origin import annotate, origin_of
from evo.settings import Settings
from evo.training.connections import Masking, connections_of
from evo.training.dead_units import Units
from evo.training.efficiency import QUANTILES, Efficiencies

QUANTILE_NAMES = tuple(f"q{100 * q:02.0f}" for q in QUANTILES)
COLUMNS = ("step", "layer", "connections", "alive", "removed", "dead_units", *QUANTILE_NAMES)
HISTORY = (*COLUMNS, "sparsity", "epoch", "error")
FACT = "appraisal"
"""Under this name a network's file has the history of its appraisals."""
APPRAISALS = 100
"""How many there are in a training unless `every` says otherwise: what is removed then hardly depends on its length."""
NOTED = 100
"""How many appraisals it notes at least, if there are so many."""


class Appraisal(Settings):
    """Prune connections in training: what stays below a share of its layer's mean efficiency for long enough is removed.

    The efficiency of a connection is its weight's size times the mean size of what it reads, divided by the mean of that over
    the living connections of its layer; a moving average of it counts.

    The defaults removed about half of the connections of an MLP and of LeNet in short trainings on 10,000 images of MNIST,
    for 0.1 percentage points of validation error; less patience removed as many of the MLP's for 0.16.
    """

    threshold: Annotated[
        float,
        Field(
            ge=0, description="efficiency below which a connection is weak; 1 is the mean of its layer, 0 removes none"
        ),
    ] = 0.5
    patience: Annotated[
        int, Field(ge=1, description="weak at this many appraisals in a row, a connection is removed")
    ] = 20
    decay: Annotated[
        float, Field(ge=0, lt=1, description="share of the moving average that an appraisal leaves as it was")
    ] = 0.9
    every: Annotated[
        int | None,
        Field(
            ge=1, description="steps from one appraisal to the next; default so that there are 100 from start to stop"
        ),
    ] = None
    start: Annotated[float, Field(ge=0, lt=1, description="share of the training before the first appraisal")] = 0.1
    stop: Annotated[
        float, Field(gt=0, le=1, description="share of the training after which nothing more is removed")
    ] = 0.6
    layers: Annotated[
        tuple[str, ...], Field(min_length=1, description='names of the layers, or patterns such as "features.*"')
    ] = ("*",)

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: float, others: ValidationInfo) -> float:
        start = others.data.get("start")
        if start is not None and stop <= start:
            raise ValueError(f"later than start, which is {start:g}")
        return stop


class ConnectionAppraisal(Masking):
    """Removes inefficient connections of convolutions and linear layers while any model learns in any loop.

    At every appraisal, for the connection from input channel i to unit j with the weights w and the inputs x of all batches
    since the last one:

        e_ij = |w_ij| · E|x_i| / mean of |w| · E|x| over the living connections of the layer
        m_ij ← decay · m_ij + (1 − decay) · e_ij, at first e_ij

    What has m < threshold for `patience` appraisals in a row is removed: its weight is 0 from then on. Of a convolution every
    tap is a connection; E|x_i| is the mean over the whole map of its channel, since all taps see that map but for its borders.
    A layer that no batch reached, or that saw nothing but zeros, is not appraised.

    A unit keeps its strongest connection, so that no layer is cut through and every output of the network goes on seeing
    something. Unless the unit is dead: nothing that has an effect on the output reads it any more. Then its inputs go too. To
    find dead units, the network is analysed when the first connection is removed; where that fails, none are found.

    Attributes:
        settings: see Appraisal.
        steps: of the whole training.
        every: steps from one appraisal to the next.
    """

    def __init__(self, settings: Appraisal, steps: int) -> None:
        """Appraise by `settings` in a training of so many steps.

        Raises:
            SettingsError: nothing could be removed in so few.
        """
        super().__init__(settings.layers)
        self.settings = settings
        self.steps = steps
        self.every = settings.every or max(1, round((settings.stop - settings.start) * steps / APPRAISALS))
        appraised = sum(map(self._due, range(steps + 1)))
        if settings.threshold and steps and appraised < settings.patience:
            raise SettingsError(
                f"appraisal: {appraised} appraisals in {steps} steps are too few for the patience of {settings.patience}; "
                "train longer, or lower every or patience"
            )
        self._records: list[Efficiencies] = []
        self._rows: list[list[float]] = []
        self._epochs: list[list[float]] = []
        self._units: Units | None = None

    def begin(self, model: nn.Module) -> None:
        """Find the connections.

        Raises:
            SettingsError: a pattern of `layers` matches no layer, or the network has none.
        """
        super().begin(model)
        self._records = [Efficiencies(entry) for entry in self.connections]
        self._units = Units(model)

    def before_forward(self) -> None:
        """Watch what the layers read, until the step is made."""
        if self._units is not None and self._active(self.step + 1):
            self._units.watch()
            for record in self._records:
                record.watch()

    def before_step(self) -> None:
        """Look away, and take the gradients of what is gone away."""
        self.close()
        super().before_step()

    def remove(self) -> None:
        """Appraise every connection, if it is time to."""
        if not self._due(self.step):
            return
        removed = [record.appraise(self.settings) for record in self._records]
        dead = [0.0] * len(self._records)
        if self._units is not None and any(entry.alive < entry.gone.numel() for entry in self.connections):
            dead = self._units.bury(self.connections)
        for index, record in enumerate(self._records):
            entry = record.connections
            counts = [self.step, index, entry.gone.numel(), entry.alive, removed[index], dead[index]]
            self._rows.append([*map(float, counts), *record.quantiles()])

    def _due(self, step: int) -> bool:
        return step % self.every == 0 and self._active(step)

    def _active(self, step: int) -> bool:
        """Whether connections may go in the time of this step, numbered from 1."""
        return self.settings.start * self.steps < step <= self.settings.stop * self.steps

    def after_epoch(self, error: float | None) -> None:
        """Note the error for the history."""
        self._epochs.append([self.step, math.nan if error is None else error])

    def close(self) -> None:
        """Watch nothing."""
        for record in self._records:
            record.close()
        if self._units is not None:
            self._units.close()

    @property
    def history(self) -> pd.DataFrame:
        """One row per appraisal and layer.

        Columns: `step`, from 1; `layer`; `connections`, of the layer at the beginning; `alive` ones after the appraisal;
        `removed` by it, for being weak; `dead_units`, output channels that nothing reads, NaN where that cannot be known;
        `q05` … `q95`, quantiles of the moving averages of the connections that were alive before; `sparsity`, the share of
        connections that are gone; `epoch`, from 1, and its `error` on the validation images: NaN where the training does not
        say.
        """
        frame = pd.DataFrame(np.array(self._rows).reshape(-1, len(COLUMNS)), columns=list(COLUMNS))
        whole = ["step", "connections", "alive", "removed"]
        frame[whole] = frame[whole].astype(np.int64)
        frame["layer"] = [self.connections[int(index)].name for index in frame["layer"]]
        frame["sparsity"] = 1 - frame["alive"] / frame["connections"]
        epochs = np.array(self._epochs).reshape(-1, 2)
        number = np.searchsorted(epochs[:, 0], frame["step"])
        known = number < len(epochs)
        frame["epoch"] = np.where(known, number + 1, np.nan)
        frame["error"] = np.append(epochs[:, 1], np.nan)[np.minimum(number, len(epochs))]
        return frame

    def tensors(self) -> dict[str, Tensor]:
        """Return the moving averages, how long each connection has been weak, what has been seen since, and the history."""
        own = {"rows": self._rows, "epochs": self._epochs}
        states = {f"{name}.{r.connections.tensor}": t for r in self._records for name, t in r.tensors().items()}
        return (
            super().tensors() | states | {name: torch.tensor(rows, dtype=torch.float64) for name, rows in own.items()}
        )

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take them back."""
        super().restore(tensors)
        self._rows, self._epochs = tensors["rows"].tolist(), tensors["epochs"].tolist()
        for record in self._records:
            for name, tensor in record.tensors().items():
                tensor.copy_(tensors[f"{name}.{record.connections.tensor}"])

    def note_on(self, model: nn.Module) -> None:
        """Note the history on `model`, whose file will then have it (see `appraisals`); of many appraisals, some `NOTED`."""
        frame = self.history
        number = frame.groupby("layer", sort=False).cumcount()
        apart = max(1, (int(number.max()) + 1 if len(frame) else 0) // NOTED)
        noted = frame[(number.max() - number) % apart == 0].round(4)
        annotate(model, **{FACT: noted.astype(object).where(noted.notna(), None).to_dict("list")})

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        return {**super().describe(), **self.settings.to_dict(), "steps": self.steps}


def check_appraisal(settings: Appraisal, model: nn.Module, steps: int, where: str) -> None:
    """Raise SettingsError, beginning with `where`, if a training of `model` in so many steps cannot be appraised like this."""
    try:
        ConnectionAppraisal(settings, steps)
        connections_of(model, settings.layers)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def appraisals(model: nn.Module) -> pd.DataFrame:
    """Return the history of the appraisals (see `ConnectionAppraisal.history`) that `model` was trained with.

    `evo.training.train` notes it on what it returns, `evo.save` writes it into the file, and `evo.load` reads it; of very many
    appraisals some `NOTED`. Without rows if it was trained without.
    """
    frame = pd.DataFrame(origin_of(model).provenance.get(FACT, {name: [] for name in HISTORY}))
    return frame.astype(dict.fromkeys(("dead_units", *QUANTILE_NAMES, "epoch", "error"), float))
