"""The picture of synaptic pruning shows the numbers of the history."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from evo.errors import SettingsError
from evo.report.appraisal import plot_appraisals
from evo.training import Appraisal, Recipe, Samples, appraisals, train
from tests.training.small import network


def test_it_shows_connections_dead_units_and_the_error(digits: Samples) -> None:
    some = digits.take(np.arange(160))
    recipe = Recipe(epochs=8, batch_size=16, appraisal=Appraisal(threshold=1, every=2, start=0, stop=1, patience=2))
    model = train(network(), some, recipe, np.random.default_rng(0), val=some, on_epoch=lambda _: None)
    history = appraisals(model)
    left, dead, error = plot_appraisals(history).axes
    assert [line.get_label() for line in left.lines] == ["0", "4", "7", "all"]
    total = history[history["step"] == 80][["alive", "connections"]].sum()
    assert np.asarray(left.lines[-1].get_ydata())[-1] == total["alive"] / total["connections"]
    deaths = history.groupby("layer")["dead_units"].last()
    assert [line.get_label() for line in dead.lines] == list(deaths.index[deaths > 0])
    assert [np.asarray(line.get_ydata())[-1] for line in dead.lines] == list(deaths[deaths > 0])
    assert len(dead.lines) > 0
    assert np.asarray(error.lines[0].get_ydata()).tolist() == history.groupby("epoch")["error"].last().tolist()


def test_without_dead_units_and_errors_it_can_be_drawn(digits: Samples) -> None:
    recipe = Recipe(epochs=1, batch_size=16, appraisal=Appraisal(threshold=0.1, patience=2))
    model = train(network(), digits.take(np.arange(160)), recipe, np.random.default_rng(0))
    figure = plot_appraisals(appraisals(model))
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[1].texts] == ["none"]


def test_of_many_layers_the_legend_names_some() -> None:
    steps = [{"step": step, "layer": f"layer{layer}"} for step in (10, 20) for layer in range(40)]
    history = pd.DataFrame(steps).assign(connections=100, alive=50, dead_units=3.0, epoch=1.0, error=0.5)
    left, dead, _ = plot_appraisals(history).axes
    assert len({to_hex(line.get_color()) for line in left.lines}) == 41
    for axes, names in (
        (left, ["layer0", "layer20", "layer39", "all"]),
        (dead, ["layer0", "layer20", "layer38", "layer39"]),
    ):
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == names


def test_without_appraisals_there_is_nothing_to_draw() -> None:
    with pytest.raises(SettingsError, match=r"^history: it has no appraisals"):
        plot_appraisals(appraisals(network()))
