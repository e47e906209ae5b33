from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

import evo
from evo.candidate import Candidate
from evo.errors import SettingsError
from evo.report.plots import (
    plot_evolution,
    plot_proxies,
    plot_score_distribution,
    plot_scores,
    save_figure,
)
from evo.report.tables import fidelity_table, front_table, layer_table


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


def test_fidelity_table_says_what_every_fidelity_was_good_for(task: evo.Task, tmp_path: Path) -> None:
    untuned = evo.SubsetFineTune(images=60, epochs=0, batch_size=20)
    run = evo.search(
        task,
        encoding=evo.FilterBits(),
        fitness=evo.Cascade([evo.ZeroShot(), untuned, untuned.model_copy(update={"epochs": 1})], promote=(1, 0.7)),
        algorithm=evo.RandomSearch(evaluations=10, batch=10),
        evaluator=evo.LocalEvaluator(workers=0),
        out=tmp_path / "run",
    )
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed(fidelity_table(run)).splitlines()]
    shown = [cells for cells in lines if cells and cells[0][:1].isdigit()]
    assert [cells[:5] for cells in shown] == [
        ["1 zero_shot", "score", "10", "0", "10"],
        ["2 subset_finetune", "fitness", "10", "0", "7"],
        ["3 subset_finetune", "fitness", "7", "0", ""],
    ]
    table = run.fidelities
    for cells, (_, row) in zip(shown, table.iterrows(), strict=True):
        assert cells[5:7] == [f"{1000 * row['mean_seconds']:,.1f} ms", f"{row['share']:.0%}"]
    assert shown[0][7] == f"{table['spearman'].iloc[0]:.2f} (of 10)"
    assert shown[2][7] == ""


def test_layer_table_shows_ratios(run: evo.Run) -> None:
    layers = run.layers(int(str(run.best.name)))
    text = printed(layer_table(layers))
    assert f"{float(str(layers.loc['total', 'r_c'])):.2f}×" in text
    assert all(str(name) in text for name in layers.index)


def test_evolution_plot_draws_the_best_of_every_generation(run: evo.Run) -> None:
    drawn = plot_evolution(run, best=4).axes[0].collections[0]
    generations = np.asarray(drawn.get_array())
    assert [(generations == number).sum() for number in range(3)] == [4, 4, 4]
    first = run.history.query("generation == 0").nlargest(4, "fitness")
    assert set(np.asarray(drawn.get_offsets())[generations == 0, 1]) == set(first["error"])


@evo.fitness(minimize="distance")
def distance(candidate: Candidate) -> Mapping[str, float]:
    if candidate.blueprint.counts["0"] == 3:
        raise ValueError("three is refused")
    return {"distance": abs(candidate.costs["params"] - 1000.5)}


@pytest.fixture(scope="module")
def seeds(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> list[evo.Run]:
    """Three searches with different seeds; some evaluations fail."""
    folder = tmp_path_factory.mktemp("seeds")

    def search(seed: int) -> evo.Run:
        return evo.search(
            digits_task,
            encoding=evo.FilterBits(),
            fitness=distance,
            algorithm=evo.FGA(generations=4, population=12, parents=4),
            evaluator=evo.LocalEvaluator(workers=0),
            out=folder / f"{seed}",
            seed=seed,
        )

    return [search(seed) for seed in range(3)]


def test_scores_plot_draws_every_candidate_of_the_generations_that_there_are(seeds: list[evo.Run]) -> None:
    figure = plot_scores(seeds[0], generations=(1, 3, 5))
    history = seeds[0].history
    (axes,) = figure.axes
    assert axes.get_ylabel() == "distance (less is better)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["generation 1", "generation 3"]
    assert (history.query("generation in (1, 3)")["status"] == "failed").any()
    for number, drawn, line in zip((1, 3), axes.collections, axes.lines, strict=True):
        asked = history[history["generation"] == number]["distance"].to_numpy()
        points = np.asarray(drawn.get_offsets())
        places = np.flatnonzero(~np.isnan(asked))
        assert points[:, 0].tolist() == places.tolist()
        assert points[:, 1].tolist() == asked[places].tolist()
        assert set(np.asarray(line.get_ydata()).tolist()) == {np.median(asked[places])}
    assert not np.array_equal(axes.collections[0].get_facecolor(), axes.collections[1].get_facecolor())


def test_scores_of_generations_that_there_are_not(seeds: list[evo.Run]) -> None:
    with pytest.raises(SettingsError, match=r"^generations: got \[5, 9\], the last that .* has results of is 4$"):
        plot_scores(seeds[0], (5, 9))


def test_distribution_plot_has_a_panel_per_run_and_a_box_per_generation(seeds: list[evo.Run]) -> None:
    figure = plot_score_distribution(seeds)
    assert [axes.get_title() for axes in figure.axes] == ["seed 0", "seed 1", "seed 2"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["distance (less is better)", "", "distance (less is better)"]
    for run, axes in zip(seeds, figure.axes, strict=True):
        scores = [part["distance"].dropna() for _, part in run.history.groupby("generation")]
        assert len(axes.patches) == 5
        for box, part in zip(axes.patches, scores, strict=True):
            heights = np.asarray(box.get_path().vertices)[:, 1]
            assert (heights.min(), heights.max()) == pytest.approx((part.quantile(0.25), part.quantile(0.75)))
        best = next(line for line in axes.lines if line.get_label() == "best so far")
        expected = np.minimum.accumulate([part.min() for part in scores])
        assert np.asarray(best.get_xdata()).tolist() == [0, 1, 2, 3, 4]
        assert np.asarray(best.get_ydata()).tolist() == expected.tolist()


def test_distribution_of_one_run_and_of_runs_that_do_not_belong_together(seeds: list[evo.Run], run: evo.Run) -> None:
    assert len(plot_score_distribution(run).axes) == 1
    twice = plot_score_distribution([seeds[0], seeds[1], seeds[0]])
    assert [axes.get_title() for axes in twice.axes] == ["0", "seed 1", "0"], "equal seeds are told apart by folder"
    with pytest.raises(SettingsError, match=r"^runs: expected runs with one first objective, got distance, fitness$"):
        plot_score_distribution([seeds[0], run])
    with pytest.raises(SettingsError, match="got no run"):
        plot_score_distribution([])


def test_proxies_plot_tells_rank_correlations() -> None:
    frame = pd.DataFrame(
        {"accuracy": [1.0, 2.0, 3.0, 4.0, np.nan], "macs": [1, 8, 27, 64, 5], "noise": [2.0, 1.0, 4.0, 3.0, 0.0]}
    )
    figure = plot_proxies(frame, "accuracy", ["macs", "noise"])
    titles = [axes.get_title() for axes in figure.axes]
    # Two of six pairs of `noise` are in the wrong order; the squared differences of ranks add up to 4.
    assert titles == ["macs\nSpearman 1.00, Kendall 1.00", "noise\nSpearman 0.60, Kendall 0.33"]
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert points.tolist() == [[1, 1], [8, 2], [27, 3], [64, 4]]
    with pytest.raises(SettingsError, match="unknown column 'mac'; did you mean 'macs'"):
        plot_proxies(frame, "accuracy", ["mac"])
    with pytest.raises(SettingsError, match="proxies: expected names of columns, got none"):
        plot_proxies(frame, "accuracy", [])


def test_figures_are_written_as_png(run: evo.Run, seeds: list[evo.Run], tmp_path: Path) -> None:
    for figure in (plot_evolution(run), plot_scores(run, (0, 1)), plot_score_distribution(seeds)):
        path = save_figure(figure, tmp_path / "figure.png")
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300


def test_a_file_that_is_no_picture(run: evo.Run, tmp_path: Path) -> None:
    figure = plot_evolution(run)
    with pytest.raises(SettingsError, match=r"figure\.doc: a picture ends in .*\.pdf, .*\.png"):
        save_figure(figure, tmp_path / "figure.doc")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"figure\.png: cannot be written"):
        save_figure(figure, tmp_path / "file" / "figure.png")
