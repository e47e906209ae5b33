"""Low bits from the genome to the file: searched within a budget, written down, resumed, exported, loaded."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import evo
from evo.candidate import Candidate
from evo.export import export
from evo.network.checkpoint import describe
from evo.recipes.compression import tune
from evo.records import MEASUREMENTS
from evo.report.tables import front_table, layer_table
from evo.status import status
from evo.training import Recipe, train
from tests.integration.shell import Shell
from tests.interruptions import Stopped, stopping_after

BUDGET = evo.Budget(bytes=0.12, macs=0.7)
TUNING = Recipe(epochs=1, batch_size=50)


@evo.fitness(minimize=("error", "bytes", "macs"), version="1")
def judge(candidate: Candidate) -> Mapping[str, float]:
    model = train(candidate.build(), candidate.task.train, TUNING, candidate.rng())
    return {"error": evo.error_rate(model, candidate.task.val)}


def search(task: evo.Task, folder: Path, **changes: object) -> evo.Run:
    arguments: dict[str, object] = {
        "encoding": evo.LayerPolicy(),
        "fitness": judge,
        "algorithm": evo.NSGA2(generations=3, population=8),
        "budget": BUDGET,
        "evaluator": evo.LocalEvaluator(workers=0),
        "out": folder,
        "reuse": False,
    }
    return evo.search(task, **{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return search(digits_task, tmp_path_factory.mktemp("runs") / "run")


def lasting(run: evo.Run) -> pd.DataFrame:
    """Everything in the history but measurements."""
    structures = [run.blueprint(row).to_json() for row in run.history.index]
    return run.history.drop(columns=list(MEASUREMENTS)).assign(structure=structures)


def test_every_row_has_its_bits_and_what_they_cost(run: evo.Run, digits_task: evo.Task) -> None:
    network, frame = digits_task.network, run.history
    assert (frame["status"] == "ok").all()
    assert frame["bytes"].max() <= 0.12 * network.cost_of(network.full)["bytes"]
    depths = set()
    for row, line in frame.iterrows():
        blueprint = run.blueprint(int(str(row)))
        assert set(blueprint.bits) == set(network.quantisable)
        assert blueprint.key == line["key"]
        costs = network.cost_of(blueprint)
        assert {name: line[name] for name in costs} == costs
        depths |= set(blueprint.bits.values())
    assert len(depths) > 2
    assert frame.loc[0, "operator"] == "seed"
    assert len(run.pareto()) > 1
    found = status(run.folder).best
    assert found is not None
    assert found["bytes"] == run.best["bytes"]


def test_the_front_shows_bytes_and_what_they_save(run: evo.Run) -> None:
    shown = front_table(run, ["error", "params"])
    assert [column.header for column in shown.columns][-3:] == ["macs", "bytes", "compression"]
    line = run.pareto(["error", "params"]).iloc[0]
    before = int(run.costs.costs(run.costs.sizes)["bytes"])
    assert [next(iter(column.cells)) for column in shown.columns][-2:] == [
        f"{line['bytes']:,}",
        f"{before / line['bytes']:.1f}×",
    ]


def test_layers_show_bits_and_bytes(run: evo.Run, digits_task: evo.Task) -> None:
    blueprint, layers = run.blueprint(0), run.layers(0)
    assert layers["bits"].drop("total").to_dict() == blueprint.bits
    weights = layers["kept_weights"].drop("total")
    sizes = -(-weights * layers["bits"].drop("total").astype(int) // 8) + 4 * layers["kept_filters"].drop("total")
    assert layers["kept_bytes"].drop("total").tolist() == sizes.tolist()
    assert layers.loc["total", "kept_bytes"] == sizes.sum()
    assert layers.loc["total", "bits"] == pytest.approx(np.average(layers["bits"].drop("total"), weights=weights))
    columns = [str(column.header) for column in layer_table(layers).columns]
    assert columns[5:7] == ["bits", "kept bytes"]
    biases = sum(tensor.numel() for tensor in run.build(0).parameters() if tensor.dim() == 1)
    assert run.history.loc[0, "bytes"] == sizes.sum() + 4 * biases


def test_what_is_built_is_quantised(run: evo.Run, digits_task: evo.Task) -> None:
    model, bits = run.build(3), run.blueprint(3).bits
    for layer, count in bits.items():
        for row in model.get_parameter(f"{layer}.weight").detach().flatten(1):
            assert row.unique().numel() <= max(2, 2**count - 1)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_interrupted_search_continues_bit_for_bit(
    run: evo.Run, digits_task: evo.Task, folder: Path, after: int
) -> None:
    with pytest.raises(Stopped):
        search(digits_task, folder, callbacks=[stopping_after(after)])
    pd.testing.assert_frame_equal(lasting(search(digits_task, folder)), lasting(run), check_exact=True)


def test_another_run_takes_over_what_was_measured(run: evo.Run, digits_task: evo.Task) -> None:
    beside = search(
        digits_task, run.folder.parent / "beside", algorithm=evo.FGA(generations=1, population=4), reuse=True
    )
    first, again = run.history.iloc[0], beside.history.iloc[0]
    assert (again["key"], again["reused"], again["error"]) == (first["key"], run.folder.name, first["error"])


@pytest.mark.parametrize(
    "algorithm",
    [
        evo.ECS(generations=2, population=4),
        evo.RandomSearch(evaluations=4),
        evo.FGA(generations=1, population=4, asynchronous=True),
    ],
)
def test_every_algorithm_searches_policies(algorithm: evo.ECS, digits_task: evo.Task, folder: Path) -> None:
    fitness = evo.SubsetFineTune(epochs=0)
    frame = search(digits_task, folder, fitness=fitness, algorithm=algorithm).history
    assert (frame["status"] == "ok").all()
    assert frame["bytes"].max() <= 0.12 * digits_task.network.cost_of(digits_task.network.full)["bytes"]


def test_a_fine_tuned_individual_is_a_packed_file_that_loads_alike(
    run: evo.Run, digits_task: evo.Task, tmp_path: Path
) -> None:
    best = int(str(run.best.name))
    made = export(run, digits_task, best, tmp_path / "small.evo", finetuning=TUNING)
    assert made.costs["bytes"][1] == run.best["bytes"]
    loaded = evo.load(made.path, model=digits_task.network.build(digits_task.network.full))
    assert torch.equal(loaded(digits_task.val.x), made.model(digits_task.val.x))
    assert evo.error_rate(loaded, digits_task.val) == made.errors["val"][1]
    told = describe(made.path)
    bits = run.blueprint(best).bits
    assert {name.removesuffix(".weight"): entry["bits"] for name, entry in told["packed"].items()} == bits
    stored = {name: entry["shape"][0] for name, entry in told["tensors"].items() if entry["dtype"] == "uint8"}
    for layer, count in bits.items():
        assert stored[f"{layer}.weight"] == -(-loaded.get_parameter(f"{layer}.weight").numel() * count // 8)


def test_recipes_end_with_a_low_bit_network(run: evo.Run, digits_task: evo.Task) -> None:
    best = int(str(run.best.name))
    made = tune(run, digits_task, [best], TUNING)
    assert {name.removesuffix(".weight") for name in describe(run.folder / f"tuned-{best}.evo")["packed"]} == set(
        run.blueprint(best).bits
    )
    assert "bits" in made.layers
    again = tune(run, digits_task, [best], TUNING)
    assert torch.equal(again.model(digits_task.val.x), made.model(digits_task.val.x))


def test_from_a_run_toml_to_a_packed_file(shell: Shell, tmp_path: Path) -> None:
    """Search, look and export, as a user does it."""
    (tmp_path / "run.toml").write_text(
        'out = "run"\n[task]\nmodel = "lenet"\nmodel_args = {conv1 = 4, conv2 = 6, fc1 = 12}\ndata = "digits"\n'
        '[task.train]\nepochs = 1\n[encoding]\nname = "layer_policy"\nbits = [3, 8]\nclosed_form = {alpha = 0.3}\n'
        '[fitness]\nimages = 256\nepochs = 1\n[algorithm]\nname = "nsga2"\ngenerations = 2\npopulation = 4\n'
        "[budget]\nbytes = 0.2\n[evaluator]\nworkers = 0\n"
    )
    assert shell("search", "run.toml").status == 0
    run = evo.Run(tmp_path / "run")
    assert run.blueprint(0).bits
    assert run.settings["encoding"]["closed_form"]["alpha"] == 0.3
    assert "kept bytes" in shell("show", "run", "0").out
    assert shell("export", "run", "--id", "0", "--out", "small.evo", "--finetune", "1").status == 0
    assert set(describe(tmp_path / "small.evo")["packed"]) == {f"{layer}.weight" for layer in run.blueprint(0).bits}
    assert evo.load(tmp_path / "small.evo")(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
