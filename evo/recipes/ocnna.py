"""OCNNA (Balderas et al.): keep the filters whose feature maps vary most from image to image; no search, no training."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from evo.algorithms import RandomSearch
from evo.callbacks.base import Callback
from evo.encodings.filter_bits import FilterBits
from evo.errors import RunFolderError, SettingsError
from evo.evaluation import Evaluator, LocalEvaluator
from evo.fitness.base import Fitness
from evo.fitness.subset_finetune import SubsetFineTune
from evo.folder import check_same, claimed, describe_search, folder_for
from evo.importance import ocnna_scores, structures
from evo.importance.filters import FloatArray
from evo.importance.ocnna import IMAGES, VARIANCE, check_measurement
from evo.importance.percentiles import PERCENTILE, listed
from evo.recipes.compression import FINETUNING, Compression, check_tuning, expect, tune
from evo.run import Run
from evo.search import check, search
from evo.seeding import Seeds
from evo.task import Task
from evo.training import EpochReport, Recipe, error_rate

SCORES = "ocnna.safetensors"
"""The file of a run folder that holds the importance of all filters."""


@dataclass(frozen=True)
class OcnnaCompression(Compression):
    """What `ocnna` hands back: a compression whose table `tuned` has the remaining parameters ratio `rpr` (eq. 7) too.

    Attributes:
        scores: importance C_m of every channel, shape (channels,) by name of the group.
        sensitivity: one row per percentile `k` (Fig. 3): `id` in the run, `params`, `macs`, `rpr`, and `error` on the
            validation images before fine-tuning, in [0, 1].
    """

    scores: dict[str, FloatArray]
    sensitivity: pd.DataFrame

    @property
    def remarks(self) -> tuple[str, ...]:
        """What each percentile came to before fine-tuning."""
        return tuple(
            f"percentile {cut['k']:g} (id {cut['id']:.0f}): {cut['params']:,.0f} params, error {cut['error']:.2%} as cut"
            for _, cut in self.sensitivity.iterrows()
        )


def ocnna(
    task: Task,
    *,
    k: float | Sequence[float] = PERCENTILE,
    images: int = IMAGES,
    variance: float = VARIANCE,
    free: Sequence[str] = ("*",),
    tolerance: float = 0.02,
    fitness: SubsetFineTune | None = None,
    evaluator: Evaluator | None = None,
    finetuning: Recipe | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    reuse: bool = True,
    callbacks: Sequence[Callback] = (),
    on_epoch: Callable[[EpochReport], None] | None = None,
    source: Mapping[str, Any] | None = None,
) -> OcnnaCompression:
    """Compress `task`'s network: score all filters, keep those at or above the k-th percentile of their layer, fine-tune.

    With several percentiles, the structure of each is measured as it is cut, and the one with the fewest parameters among
    those whose error is at most `tolerance` above the original's is fine-tuned; if none is, the most accurate. Test images
    play no part. Scores are kept in the run's folder as `ocnna.safetensors`, and are taken from there when it is called
    again.

    Args:
        task: network and data.
        k: percentile, or several (the paper has 10 to 75, and 40 as the best), each in [0, 100].
        images, variance: see `evo.importance.ocnna_scores`.
        free: groups that may shrink, as names or patterns; the paper cuts convolutions alone.
        tolerance: error on the validation images that a smaller structure may cost before fine-tuning.
        fitness: measures the structures; default their error as they are cut, with batch normalisation recalibrated.
        evaluator: where scores and structures are computed; default all processors of this machine.
        finetuning: of the chosen structure; default ten epochs.
        out, seed, reuse, callbacks, source: see `evo.search`.
        on_epoch: of the fine-tuning, see `evo.training.train`.

    Raises:
        EvoError: what `evo.search` raises, or `evo.recipes.compression.tune`; wrong settings before any work.
        RunFolderError: the folder holds another search, or other scores, or they are damaged.
    """
    percentiles = listed(k)
    fitness, evaluator, finetuning = fitness or AS_CUT, evaluator or LocalEvaluator(), finetuning or FINETUNING
    algorithm = RandomSearch(evaluations=max(1, len(percentiles)), batch=max(1, len(percentiles)))
    check(
        task,
        encoding=FilterBits(),
        fitness=fitness,
        algorithm=algorithm,
        budget=None,
        evaluator=evaluator,
        seed=seed,
        max_evaluations=None,
        callbacks=callbacks,
    )
    check_tuning(finetuning, task=task)
    check_measurement(task.train, images, variance)
    _check_choice(task, percentiles, tolerance, fitness, free)
    folder = folder_for(out)
    begun = Seeds.of(None, folder).described()  # what it began with is compared when the scores are there
    check_same(folder, describe_search(task, FilterBits(), fitness, algorithm, None, evaluator, seed, source) | begun)
    scores = _scores(task, folder, evaluator, images, variance, seed)
    chosen = structures(task.network, scores, percentiles, free=free)
    run = search(
        task,
        encoding=FilterBits(),
        fitness=fitness,
        algorithm=algorithm,
        evaluator=evaluator,
        seeds=chosen,
        out=folder,
        seed=seed,
        reuse=reuse,
        callbacks=callbacks,
        source=source,
    )
    original = int(task.network.cost_of(task.network.full)["params"])
    sensitivity = _sensitivity(run, percentiles, original)
    before = error_rate(task.network.build(task.network.full), task.val, device=fitness.device)
    row = _smallest(sensitivity, before + tolerance)
    tuned = tune(run, task, [row], finetuning, on_epoch=on_epoch)
    table = tuned.tuned.assign(rpr=tuned.tuned["params"] / original)
    return OcnnaCompression(
        run, tuned.id, tuned.model, tuned.layers, table, tuned.original_error, scores=scores, sensitivity=sensitivity
    )


AS_CUT = SubsetFineTune(epochs=0)
"""Judges structures by the error that they have before fine-tuning."""


def _check_choice(
    task: Task, percentiles: Sequence[float], tolerance: float, fitness: Fitness, free: Sequence[str]
) -> None:
    """Raise SettingsError for structures that cannot be made or chosen."""
    expect("fitness", fitness, SubsetFineTune)
    if "error" not in {objective.name for objective in fitness.objectives}:
        raise SettingsError(
            "fitness: structures are chosen by their error, which is not among its objectives (compare_by)"
        )
    if not percentiles or tolerance < 0:
        raise SettingsError(f"k, tolerance: expected a percentile and a share ≥ 0, got {percentiles} and {tolerance}")
    structures(task.network, {group.name: range(group.size) for group in task.network.groups}, percentiles, free=free)


def _sensitivity(run: Run, percentiles: Sequence[float], original: int) -> pd.DataFrame:
    """Return the table of all percentiles; those of the same structure share its measurement."""
    rows = run.history
    measured = rows[~rows["cached"]].reset_index(names="id").set_index("key")
    found = measured.loc[rows["key"], ["id", "params", "macs", "error"]].reset_index(drop=True)
    return found.assign(k=percentiles, rpr=found["params"] / original)[["k", "id", "params", "macs", "rpr", "error"]]


def _smallest(sensitivity: pd.DataFrame, error: float) -> int:
    """Return the id of the smallest structure with at most this error, else of the most accurate, the smaller of equals.

    Raises:
        RunFolderError: none could be measured.
    """
    measured = sensitivity.dropna(subset="error").sort_values(["params", "error"])
    if measured.empty:
        raise RunFolderError("none of the structures could be measured; the run's history has the reasons")
    good = measured[measured["error"] <= error]
    return int(good["id"].iloc[0] if len(good) else measured["id"].iloc[int(measured["error"].to_numpy().argmin())])


def _scores(
    task: Task, folder: Path, evaluator: Evaluator, images: int, variance: float, seed: int
) -> dict[str, FloatArray]:
    """Return the importance of all filters, computed now or by an earlier process that got as far."""
    described = task.describe()
    made_from = {
        "network": described["network"],
        "train": described["train"],
        "images": int(images),
        "variance": float(variance),
        "seed": seed,
        "threads": evaluator.threads,
    }
    note = json.dumps(made_from, sort_keys=True)
    path = folder / SCORES
    with claimed(folder):
        if path.exists():
            return _read(path, note)
        scores = ocnna_scores(
            task.network, task.train, images=images, variance=variance, seed=seed, map_items=evaluator.map
        )
        part = path.with_suffix(".part")
        try:
            save_file(scores, part, {"made from": note})
            part.replace(path)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{folder}: cannot be written ({error}); free some space, and try again") from error
    return scores


def _read(path: Path, note: str) -> dict[str, FloatArray]:
    """Return the scores of a file that were made from what `note` says.

    Raises:
        RunFolderError: they were made from something else, or the file is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            before = (file.metadata() or {}).get("made from", "")
            scores = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no mapping
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); delete it, and the scores are computed again") from None
    if before != note:
        raise RunFolderError(f"{path}: scores of something else ({before}, now {note}); choose another folder")
    return scores
