from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

import evo
from evo.network.zoo import lenet
from evo.report.plots import plot_evolution, plot_filters, plot_front, save_figure
from evo.report.tables import front_table, layer_table


@pytest.fixture(scope="module")
def run(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return evo.search(
        digits_task,
        encoding=evo.FilterBits(),
        fitness=evo.SubsetFineTune(images=200, batch_size=50),
        algorithm=evo.ECS(generations=3, population=12),
        evaluator=evo.LocalEvaluator(workers=0),
        out=tmp_path_factory.mktemp("report") / "run",
    )


def printed(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_front_table_lists_the_front(run: evo.Run) -> None:
    front = run.pareto(["error", "params"])
    text = printed(front_table(run, rows=100))
    original = int(run.costs.costs(run.costs.sizes)["params"])
    for number, row in front.iterrows():
        line = next(
            line for line in text.splitlines() if line.split("│")[1:2] and line.split("│")[1].strip() == str(number)
        )
        assert f"{row['error']:.4f}" in line
        assert f"{original / row['params']:.1f}×" in line


def test_a_long_front_is_thinned_to_its_ends_and_points_between(run: evo.Run) -> None:
    front = run.pareto(["error", "params"])
    assert len(front) > 2
    text = printed(front_table(run, rows=2))
    assert f"2 of {len(front)} points" in text
    first, last = (str(front.index.tolist()[end]) for end in (0, -1))
    assert f"│{first}│" in text.replace(" ", "")
    assert f"│{last}│" in text.replace(" ", "")


def test_layer_table_shows_ratios(run: evo.Run) -> None:
    layers = run.layers(int(str(run.best.name)))
    text = printed(layer_table(layers))
    assert f"{float(str(layers.loc['total', 'r_c'])):.2f}×" in text
    assert all(str(name) in text for name in layers.index)


def test_front_plot_draws_every_candidate_and_the_front(run: evo.Run) -> None:
    axes = plot_front(run).axes[0]
    points, front = (np.asarray(drawn.get_offsets()) for drawn in axes.collections)
    assert len(points) == len(run.history.query("status == 'ok' and not cached"))
    expected = run.pareto(["error", "params"])[["params", "error"]].sort_values("params").to_numpy()
    np.testing.assert_allclose(front, expected)


def test_evolution_plot_draws_the_best_of_every_generation(run: evo.Run) -> None:
    drawn = plot_evolution(run, best=4).axes[0].collections[0]
    generations = np.asarray(drawn.get_array())
    assert [(generations == number).sum() for number in range(3)] == [4, 4, 4]
    first = run.history.query("generation == 0").nlargest(4, "fitness")
    assert set(np.asarray(drawn.get_offsets())[generations == 0, 1]) == set(first["error"])


def test_filters_plot_has_three_rows_and_leaves_removed_filters_out() -> None:
    original, tuned = lenet(6, 4, 8), lenet(2, 4, 8)
    figure = plot_filters(original, [1, 4], tuned, "conv1")
    shown = [[bool(axes.images) for axes in figure.axes[row * 6 : row * 6 + 6]] for row in range(3)]
    kept = [column in (1, 4) for column in range(6)]
    assert shown == [[True] * 6, kept, kept]
    pictured = figure.axes[2 * 6 + 4].images[0].get_array()
    np.testing.assert_array_equal(pictured, tuned.conv1.weight[1, 0].detach().numpy())


def test_figures_are_written_as_png(run: evo.Run, tmp_path: Path) -> None:
    path = save_figure(plot_front(run), tmp_path / "front.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
