"""`evo compress`: a whole system of the literature in one command, from the network to the fine-tuned small one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from evo.algorithms import ECS, FGA, NSGA2, RandomSearch
from evo.callbacks.base import Callback, Progress
from evo.cli.config import Config, read_config, read_overrides
from evo.encodings.channel_vector import ChannelVector
from evo.encodings.filter_bits import FilterBits
from evo.encodings.layer_policy import LayerPolicy
from evo.errors import SettingsError, unknown_name
from evo.fitness import Cascade, SubsetFineTune
from evo.recipes.adalayer import adalayer
from evo.recipes.compression import FINETUNING, Compression, check_tuning
from evo.recipes.ecs import ecs
from evo.recipes.fnp import fnp
from evo.recipes.ocnna import ocnna
from evo.recipes.synaptic import appraised, synaptic
from evo.report.progress import ProgressDisplay, TrainingDisplay
from evo.task import Task
from evo.training import EpochReport

PARTS = (
    "encoding",
    "fitness",
    "algorithm",
    "budget",
    "evaluator",
    "seeds",
    "finetuning",
    "out",
    "seed",
    "max_evaluations",
    "max_seconds",
    "convergence",
    "reuse",
    "source",
)
"""What a recipe that searches takes from a run.toml, by its names in `Config`."""

WITHOUT_SEEDS = tuple(part for part in PARTS if part != "seeds")
"""What one takes whose search begins with a structure that it compares the others to."""

WITHOUT_SEARCH = ("evaluator", "finetuning", "out", "seed", "reuse", "source")
"""What one takes that does not."""


@dataclass(frozen=True)
class Method:
    """A recipe, and what it is made of unless the file says otherwise.

    Attributes:
        recipe: takes a task and the parts.
        defaults: what the parts in run.toml are unless it names others.
        kinds: what each part has to be for the recipe; others may be anything.
        parts: what the recipe takes, by its names in `Config`; the rest of a run.toml is left alone.
    """

    recipe: Callable[..., Compression]
    defaults: Mapping[str, Mapping[str, Any]]
    kinds: Mapping[str, tuple[type, ...]]
    parts: tuple[str, ...] = PARTS


def _parts(
    encoding: str, fitness: str | Mapping[str, Any], algorithm: str | Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """Return parts of a run.toml, each by its name alone or with settings."""
    parts = {"encoding": encoding, "fitness": fitness, "algorithm": algorithm}
    return {name: {"name": part} if isinstance(part, str) else part for name, part in parts.items()}


ONE = {"name": "random", "evaluations": 1, "batch": 1}
"""No evolution: one individual, which the encoding begins with."""

AS_IT_IS = {"name": "subset_finetune", "epochs": 0}
"""No training to judge by."""

METHODS = {
    "ecs": Method(
        ecs,
        _parts("filter_bits", "subset_finetune", "ecs"),
        {"encoding": (FilterBits,), "fitness": (SubsetFineTune, Cascade), "algorithm": (ECS,)},
    ),
    "fnp": Method(
        fnp,
        _parts("channel_vector", "score_of_frame", "fga"),
        {"encoding": (ChannelVector,), "algorithm": (FGA,)},
    ),
    "ocnna": Method(ocnna, _parts("filter_bits", AS_IT_IS, ONE), {}, WITHOUT_SEARCH),
    "adalayer": Method(
        adalayer,
        _parts("layer_policy", "subset_finetune", ONE),
        {"encoding": (LayerPolicy,), "fitness": (SubsetFineTune,), "algorithm": (RandomSearch, NSGA2)},
        WITHOUT_SEEDS,
    ),
    "synaptic": Method(synaptic, _parts("filter_bits", AS_IT_IS, ONE), {}, WITHOUT_SEARCH),
}


def read_method(
    name: str,
    file: Path | None,
    overrides: Sequence[str],
    *,
    gamma: float | None = None,
    k: Sequence[float] = (),
    out: Path | None = None,
    address: str | None = None,
) -> tuple[Method, Config]:
    """Return the method of this name and the checked settings of its parts.

    Args:
        name: one of `METHODS`.
        file: a run.toml; without one, everything is in `overrides`.
        overrides: "key=value".
        gamma: of the importance matrix, in place of the key `encoding.gamma`.
        k: percentiles of OCNNA; none for its own.
        out: folder of the run, in place of the key `out`.
        address: of a Ray cluster.

    Raises:
        SettingsError: an unknown method, a wrong setting, or a part that the method does not work with.
        RunFolderError: `out` holds another search, or cannot be a folder.
    """
    if name not in METHODS:
        raise SettingsError(f"--method: {unknown_name('method', name, METHODS)}")
    method = METHODS[name]
    if gamma is not None:
        if ChannelVector not in method.kinds.get("encoding", ()):
            raise SettingsError(f"--gamma: {name} has no importance matrix; leave it out, or use --method fnp")
        overrides = [*overrides, f"encoding.gamma={gamma}"]
    if k and method.recipe is not ocnna:
        raise SettingsError(f"--k: {name} has no percentile; leave it out, or use --method ocnna")
    if k:
        method = replace(method, recipe=partial(ocnna, k=k))
    if file is None and "task" not in read_overrides(overrides):
        raise SettingsError(
            "name a run.toml, or network and data: --set task.model=… --set task.data=…, see `evo keys`"
        )
    config = read_config(file, overrides, out=out, parts=method.defaults, address=address)
    for part, kinds in method.kinds.items():
        given = getattr(config, part)
        if not isinstance(given, kinds):
            raise SettingsError(
                f"--method {name}: its {part} is {' or '.join(kind.__name__ for kind in kinds)}, got {type(given).__name__}; "
                "to combine parts freely: evo search"
            )
    if config.seeds and "seeds" not in method.parts:
        raise SettingsError(
            f"--method {name}: it begins with structures of its own and takes no [[seeds]]; leave them out, or use evo search"
        )
    check_tuning(config.finetuning or FINETUNING)
    if method.recipe is synaptic:  # so that the appraisal is checked before the network is trained
        config = replace(config, finetuning=appraised(config.finetuning or FINETUNING))
    return method, config


def compress(method: Method, config: Config, task: Task, console: Console) -> Compression:
    """Run the recipe, and show on `console` how it goes."""
    parts = {name: getattr(config, name) for name in method.parts}
    with Stages(console) as stages:
        return method.recipe(task, **parts, callbacks=[*config.callbacks, stages], on_epoch=stages.tuning)


class Stages(Callback):
    """What a recipe shows: its search while that goes on, then its fine-tuning."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self._console = console
        self._search = ProgressDisplay(console)
        self._shown: object = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def on_progress(self, progress: Progress) -> None:
        """Take in the state of the search; with its end, fine-tuning begins."""
        self._show(self._search)
        self._search.on_progress(progress)
        if progress.generation == progress.generations:
            self._show(self._tuning)

    def tuning(self, report: EpochReport) -> None:
        """Take in what an epoch came to."""
        self._show(self._tuning)
        self._tuning(report)

    @cached_property
    def _tuning(self) -> TrainingDisplay:
        """Made when fine-tuning begins: its clock runs from then."""
        return TrainingDisplay("fine-tuning", self._console)

    def _show(self, display: ProgressDisplay | TrainingDisplay) -> None:
        """Let `display` have the terminal."""
        if self._shown is not display:
            self._stack.close()
            self._stack.enter_context(display)
            self._shown = display
