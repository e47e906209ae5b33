"""`run.plot` and `comparison.plot`: every picture of a run by its name; all return a matplotlib `Figure` of its own."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from evo.compare import Comparison
from evo.errors import SettingsError, unknown_name
from evo.report import convergence, front, plots, policy, widths
from evo.run import Run


class RunPlots:
    """Pictures of a run. Show one in a notebook by being the last line of a cell, write it with `.savefig("front.png")`.

    Where an individual is drawn, `row` is its id; default the best by the first objective.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def front(self, x: str | None = None, y: str | None = None, chosen: int | Sequence[int] = ()) -> Figure:
        """Every candidate and the Pareto front over two objectives or costs; `chosen` individuals are marked.

        See `evo.report.front.plot_front`.
        """
        return front.plot_front(self._run, x, y, _listed(chosen))

    def parallel(
        self, columns: Sequence[str] | None = None, *, widths: bool = False, chosen: int | Sequence[int] = ()
    ) -> Figure:
        """The Pareto front in parallel coordinates: objectives and costs, or with `widths` the channels of every group.

        See `evo.report.widths.plot_parallel`.
        """
        return _parallel(self._run, columns, widths=widths, chosen=_listed(chosen))

    def convergence(self, objective: str | None = None) -> Figure:
        """An objective over the evaluations: candidates, quantiles of the generations, the best so far.

        See `evo.report.convergence.plot_convergence`.
        """
        return convergence.plot_convergence(self._run, objective)

    def hypervolume(
        self,
        objectives: str | Sequence[str] | None = None,
        reference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
    ) -> Figure:
        """The hypervolume over the evaluations; see `evo.report.convergence.plot_hypervolume`."""
        return convergence.plot_hypervolume(self._run, objectives, reference, ideal)

    def evolution(self, best: int = 30, x: str | None = None, y: str | None = None) -> Figure:
        """The best of every generation over two objectives or costs; see `evo.report.plots.plot_evolution`."""
        return plots.plot_evolution(self._run, best, x, y)

    def scores(self, generations: Sequence[int] | None = None) -> Figure:
        """The first objective of every candidate of some generations, default four; see `evo.report.plots.plot_scores`."""
        if generations is None:
            last = int(plots.best_of_generations(self._run, 1)["generation"].iloc[-1])
            generations = sorted({round(last * share) for share in (0.25, 0.5, 0.75, 1)})
        return plots.plot_scores(self._run, generations)

    def distribution(self) -> Figure:
        """The first objective as a box per generation; see `evo.report.plots.plot_score_distribution`."""
        return plots.plot_score_distribution(self._run)

    def widths(self, best: int = 10) -> Figure:
        """What the best of every generation keep of each coupling group; see `evo.report.widths.plot_widths`."""
        return widths.plot_widths(self._run, best)

    def ribbon(self, row: int | None = None) -> Figure:
        """What the layers of an individual weigh, and their pruning or bits; see `evo.report.policy.plot_ribbon`."""
        row = self._chosen(row)
        return policy.plot_ribbon(self._layers(row), f"Architecture ribbon of id {row}")

    def fingerprint(self, row: int | None = None) -> Figure:
        """A polygon per layer of an individual; see `evo.report.policy.plot_fingerprint`."""
        row = self._chosen(row)
        return policy.plot_fingerprint(self._layers(row), f"Layer fingerprints of id {row}")

    def layers(self, row: int | None = None) -> Figure:
        """The weights of every layer, before and after; see `evo.report.policy.plot_layers`."""
        row = self._chosen(row)
        return policy.plot_layers(self._layers(row), f"Weights per layer, before and after: id {row}")

    def filters(self, row: int | None = None, layer: str | None = None, tuned: nn.Module | None = None) -> Figure:
        """The filters of a convolution: all of the original, those that an individual keeps, and as fine-tuned.

        Of every filter the first input channel that is kept is drawn.

        Args:
            row: id of the individual; default the best.
            layer: dotted name of a two-dimensional convolution; default the first.
            tuned: the individual's network after fine-tuning, if there is one.

        Raises:
            RunFolderError: the run was opened without its task, or there is no individual of this id.
            SettingsError: there is no such convolution, or `tuned` is of another individual.
        """
        row = self._chosen(row)
        network, blueprint = self._run.network, self._run.blueprint(row)
        maps = network.channel_maps(blueprint)
        whole = network.build(network.full)
        convolutions = [name for name in maps if whole.get_parameter(f"{name}.weight").dim() == 4]
        if not convolutions:
            raise SettingsError("layer: the network has no two-dimensional convolutions")
        layer = layer or convolutions[0]
        if layer not in convolutions:
            raise SettingsError(unknown_name("convolution", layer, convolutions))
        kept = np.flatnonzero(maps[layer].outputs >= 0).tolist()
        channel = int(np.flatnonzero(np.atleast_2d(maps[layer].inputs)[0] >= 0)[0])
        before = whole.get_parameter(f"{layer}.weight").detach().cpu().numpy()[:, channel]
        after = None
        if tuned is not None:
            after = tuned.get_parameter(f"{layer}.weight").detach().cpu().numpy()[:, 0]
            if after.shape != (len(kept), *before.shape[1:]):
                raise SettingsError(f"tuned: its {layer} has {len(after)} filters, that of id {row} keeps {len(kept)}")
        return plots.plot_filters(before, kept, after, f"Filters of {layer}, input channel {channel}: id {row}")

    def _chosen(self, row: int | None) -> int:
        return int(str(self._run.best.name)) if row is None else int(row)

    def _layers(self, row: int) -> pd.DataFrame:
        return self._run.layers(row).iloc[:-1]


class ComparisonPlots:
    """Pictures of several runs side by side."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison

    def front(self, x: str | None = None, y: str | None = None) -> Figure:
        """The Pareto front of every run, and the joint front; see `evo.report.front.plot_fronts`."""
        return front.plot_fronts(self._comparison, x, y)

    def convergence(self, objective: str | None = None, by: str | None = None) -> Figure:
        """The best so far over the evaluations, coloured by a column of the summary if `by` names one.

        See `evo.report.convergence.compare_convergence`.
        """
        return convergence.compare_convergence(self._comparison, objective, by)

    def hypervolume(self, by: str | None = None) -> Figure:
        """The hypervolume over the evaluations; see `evo.report.convergence.compare_hypervolume`."""
        return convergence.compare_hypervolume(self._comparison, by)


_parallel = widths.plot_parallel  # of which an argument is called like its module


def _listed(rows: int | Sequence[int]) -> list[int]:
    return [int(rows)] if isinstance(rows, int | np.integer) else [int(row) for row in rows]
