"""How to train, as settings."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from evo.settings import Settings
from evo.training.appraisal import Appraisal

Dtype = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "step", "cosine", "onecycle"]


class Recipe(Settings):
    """How to train: optimiser, schedule, loss, augmentation, precision, when to stop."""

    epochs: Annotated[float, Field(ge=0, description="passes over the training images; a fraction is allowed")] = 1.0
    batch_size: Annotated[int, Field(ge=2, description="images per step")] = 128
    optimizer: Annotated[Literal["sgd", "adam"], Field(description="SGD with momentum, or Adam")] = "sgd"
    lr: Annotated[float, Field(gt=0, description="highest learning rate")] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of SGD")] = 0.9
    nesterov: Annotated[bool, Field(description="Nesterov's momentum, not the plain one")] = True
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty of the optimiser")] = 5e-4
    schedule: Annotated[
        Schedule,
        Field(
            description="learning rate over the steps: constant, cosine down to final_lr, times step_factor every "
            "step_epochs, or onecycle: a rise over the first fifth and a cosine down"
        ),
    ] = "cosine"
    warmup: Annotated[
        float,
        Field(ge=0, description="epochs over which the learning rate first rises linearly from zero; part of epochs"),
    ] = 0.0
    final_lr: Annotated[float, Field(ge=0, description="learning rate at the end of cosine and onecycle")] = 0.0
    step_epochs: Annotated[float, Field(gt=0, description="epochs between two cuts of the step schedule")] = 50.0
    step_factor: Annotated[float, Field(gt=0, le=1, description="what the step schedule multiplies by")] = 0.1
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of every label that is spread evenly over all classes")
    ] = 0.0
    shift: Annotated[int, Field(ge=0, description="augmentation: random shift by up to this many pixels")] = 0
    flip: Annotated[bool, Field(description="augmentation: random horizontal flip")] = False
    distill: Annotated[
        float,
        Field(ge=0, le=1, description="share of the loss that asks for the original network's outputs, not the labels"),
    ] = 0.0
    temperature: Annotated[float, Field(gt=0, description="softens both outputs before they are compared")] = 4.0
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            description="stop after this many epochs without a lower validation error, and keep the weights of the best "
            "epoch; default never, keep the last",
        ),
    ] = None
    appraisal: Annotated[
        Appraisal | None,
        Field(
            description="a table: prune inefficient connections in training; one that is empty will do; default: none"
        ),
    ] = None
    device: Annotated[str, Field(description="torch device to train on, e.g. cpu or cuda")] = "cpu"
    dtype: Annotated[Dtype, Field(description="precision of forward and backward; bfloat16 trains mixed")] = "float32"

    def steps_per_epoch(self, images: int) -> int:
        """Return how many steps a pass over so many images is; those that do not fill a batch are left out."""
        return max(1, images // self.batch_size)

    def steps(self, images: int) -> int:
        """Return how many steps a training on so many images is."""
        return round(self.epochs * self.steps_per_epoch(images))

    @field_validator("warmup")
    @classmethod
    def _check_warmup(cls, warmup: float, others: ValidationInfo) -> float:
        epochs, schedule = others.data.get("epochs"), others.data.get("schedule")
        if warmup and schedule == "onecycle":
            raise ValueError("the schedule onecycle has a rise of its own")
        if epochs and warmup > epochs:
            raise ValueError(f"at most as many as epochs, which is {epochs:g}")
        return warmup

    @field_validator("final_lr")
    @classmethod
    def _check_final_lr(cls, final_lr: float, others: ValidationInfo) -> float:
        lr, schedule = others.data.get("lr"), others.data.get("schedule")
        if final_lr and schedule in ("constant", "step"):
            raise ValueError(f"the schedule {schedule} has none, only cosine and onecycle")
        if lr is not None and final_lr > lr:
            raise ValueError(f"at most lr, which is {lr:g}")
        return final_lr
