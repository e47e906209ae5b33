"""run.toml: what is accepted, and what is made of it."""

import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import evo
from evo.algorithms import ECS, RandomSearch
from evo.callbacks import TensorBoard
from evo.cli.config import Config, read_config, resume_config
from evo.cli.task_source import load_weights
from evo.encodings.registry import ENCODINGS
from evo.errors import RunFolderError, SettingsError
from evo.evaluation import LocalEvaluator
from evo.fitness.base import Objective
from evo.fitness.subset_finetune import SubsetFineTune
from evo.network.zoo import lenet
from evo.run import read_settings
from evo.seeds import FromMagnitude, FromRun

GOOD = '[task]\nmodel = "parts:network"\ndata = "parts:data"\n[fitness]\nname = "parts:judged"\n'
TASK = GOOD.partition("[fitness]")[0]
LENET = '[task]\nmodel = "lenet"\ndata = "digits"\n'


pytestmark = pytest.mark.usefixtures("place")


def read(text: str, *overrides: str) -> Config:
    """Return the config of a run.toml with this text."""
    Path("run.toml").write_text(text)
    return read_config("run.toml", overrides)


def test_defaults() -> None:
    config = read(LENET + "[task.train]\n")
    assert (config.out, config.seed, config.max_evaluations) == (Path("runs/run"), 0, None)
    assert config.encoding == evo.FilterBits()
    assert config.fitness == SubsetFineTune()
    assert config.algorithm.to_dict() == ECS().to_dict()
    assert config.evaluator == LocalEvaluator()
    assert config.budget is None


def test_overrides_and_out() -> None:
    config = read(
        GOOD, "algorithm.name=random", "algorithm.batch=7", "seed = 3", "encoding.keep=[0.2, 0.4]", "out=else"
    )
    assert config.algorithm.to_dict() == RandomSearch(batch=7).to_dict()
    assert config.encoding == evo.FilterBits(keep=(0.2, 0.4))
    assert (config.seed, config.out) == (3, Path("else"))
    assert read_config("run.toml", ["out=else"], out="here").out == Path("here")


def test_rules_that_stop_a_search() -> None:
    assert (read(GOOD).max_seconds, read(GOOD).convergence) == (None, None)
    config = read(GOOD + "[convergence]\n", "max_seconds=90")
    assert (config.max_seconds, config.convergence) == (90, evo.Convergence())
    config = read(
        GOOD, "convergence.generations=3", 'convergence.objectives=["score", "macs"]', "convergence.reference.macs=7"
    )
    assert config.convergence == evo.Convergence(generations=3, objectives=("score", "macs"), reference={"macs": 7.0})


def test_parts_of_the_users_own() -> None:
    config = read(GOOD + '[encoding]\nname = "parts:Wide"\nmin_filters = 2\n')
    assert type(config.encoding).__name__ == "Wide"
    assert config.fitness.objectives == (Objective("score", True),)
    task = config.make_task()
    assert (task.network.channels, len(task.train), task.test) == (4, 20, None)


def test_a_network_and_data_that_are_values() -> None:
    config = read(GOOD.replace("parts:network", "parts:net").replace("parts:data", "parts:values"))
    task = config.make_task()
    assert task.network.channels == 4
    original = sys.modules["parts"].net.state_dict()["0.weight"]
    assert torch.equal(torch.from_numpy(task.network.tensor("0.weight")), original)


def test_an_untrained_network_is_trained_the_same_way_every_time() -> None:
    text = TASK + "[task.train]\nepochs = 2\nbatch_size = 5\n[fitness]\nname = 'parts:judged'\n"
    epochs: list[int] = []
    first = read(text).make_task(lambda report: epochs.append(report.epoch))
    torch.rand(3)
    assert first.network.digest() == read(text).make_task().network.digest()
    assert epochs == [1, 2]
    assert read(text, "seed=1").make_task().network.digest() != first.network.digest()


CASCADE = """
[[fitness.fidelities]]
name = "zero_shot"
[[fitness.fidelities]]
name = "parts:judged"
latency = { repeats = 20 }
[[fitness.fidelities]]
images = 10
epochs = 0
[fitness]
name = "cascade"
promote = [0.5, 0.3]
"""


def test_a_cascade_is_a_list_of_tables() -> None:
    config = read(
        TASK + CASCADE + '[algorithm]\nname = "random"\nevaluations = 6\nbatch = 3\n', "fitness.promote=[1, 1]"
    )
    assert isinstance(config.fitness, evo.Cascade)
    first, second, third = config.fitness.fidelities
    assert first == evo.ZeroShot()
    assert [objective.name for objective in second.objectives] == ["score", "latency_ms"]
    assert third == SubsetFineTune(images=10, epochs=0)
    assert config.fitness.promote == (1, 1)
    run = config.search(config.make_task())
    assert run.fidelities["evaluations"].tolist() == [(~run.history["cached"]).sum()] * 3
    resumed = resume_config(config.out)
    assert isinstance(resumed.fitness, evo.Cascade)
    assert resumed.fitness.describe() == config.fitness.describe()
    again = resumed.search(resumed.make_task())
    assert again.history.equals(run.history)


def test_a_budget() -> None:
    config = read(GOOD + "[budget]\nparams = 0.5\nmacs = 500\n", "budget.bytes=1.0")
    assert config.budget == evo.Budget(params=0.5, macs=500, bytes=1.0)


def test_weights_from_a_state_dict_and_from_save(place: Path) -> None:
    model = lenet(4, 6, 8)
    safetensors.torch.save_file(model.state_dict(), "plain.safetensors")
    evo.save(model, "saved.evo")
    for name in ("plain.safetensors", "saved.evo"):
        loaded = load_weights(lenet(4, 6, 8), place / name, "here")
        assert torch.equal(loaded.state_dict()["conv2.weight"], model.conv2.weight)
    text = f'{LENET}weights = "plain.safetensors"\nmodel_args = {{ conv1 = 4, conv2 = 6, fc1 = 8 }}\n'
    assert read(text).make_task().network.channels == 18


def test_weights_of_another_network(place: Path) -> None:
    safetensors.torch.save_file(lenet(4, 6, 8).state_dict(), "small.safetensors")
    with pytest.raises(
        SettingsError, match=r"^here: .* is of another network than LeNet \(\w+\.\w+ has shape .*, expected"
    ):
        load_weights(lenet(), place / "small.safetensors", "here")
    with pytest.raises(SettingsError, match=r"is of another network than Linear \(differs in bias\)$"):
        load_weights(nn.Linear(2, 2), place / "small.safetensors", "here")
    (place / "text.safetensors").write_text("hello")
    with pytest.raises(SettingsError, match="is not a safetensors file"):
        load_weights(lenet(), place / "text.safetensors", "here")


TINY = GOOD + "[algorithm]\ngenerations = 2\npopulation = 3\n[evaluator]\nworkers = 0\n"


def test_a_run_notes_what_it_takes_to_make_its_task_again(place: Path) -> None:
    config = read(TINY)
    run = config.search(config.make_task())
    settings = read_settings(run.folder)
    assert [settings[part]["name"] for part in ("encoding", "algorithm", "evaluator")] == [
        "filter_bits",
        "ecs",
        "local",
    ]
    assert settings["encoding"]["name"] in ENCODINGS
    assert settings["source"] == {
        "folder": str(place),
        "task": {"model": "parts:network", "data": "parts:data", "protect": [], "multiple": 1},
        "fitness": {"name": "parts:judged"},
    }
    again = resume_config(run.folder)
    assert again.algorithm.to_dict() == config.algorithm.to_dict()
    assert (again.encoding, again.evaluator) == (config.encoding, config.evaluator)
    assert again.make_task().digest() == config.make_task().digest()
    with pytest.raises(SettingsError, match=r"is the record of a run; to continue that: evo resume runs/run$"):
        read_config(run.folder / "run.toml")


def test_resuming_keeps_the_budget() -> None:
    config = read(TINY + "[budget]\nparams = 0.5\n")
    task = config.make_task()
    run = config.search(task)
    assert run.history["params"].max() <= 0.5 * task.network.cost_of(task.network.full)["params"]
    assert resume_config(run.folder).budget == evo.Budget(params=0.5)
    with pytest.raises(RunFolderError, match=r"belongs to another search \(budget\.params was 0\.5, is now 0\.4\)"):
        resume_config(run.folder, ["budget.params=0.4"]).search(task)


def test_seeds_come_from_sources_and_are_kept(place: Path) -> None:
    read(TINY, "out=runs/earlier").search(read(TINY).make_task())
    text = (
        TINY
        + "[[seeds]]\nfrom = 'magnitude'\nratios = [0.5]\n[[seeds]]\nfrom = 'run'\nfolder = 'runs/earlier'\nmost = 2\n"
    )
    config = read(text, "max_evaluations=4")
    assert config.seeds == [FromMagnitude(ratios=(0.5,)), FromRun(folder="runs/earlier", most=2)]
    task = config.make_task()
    run = config.search(task)
    before = run.history["key"].tolist()
    assert "seed" in run.history["operator"].to_list()
    shutil.rmtree("runs/earlier")
    assert read(text, "max_evaluations=4").search(task).history["key"].tolist() == before
    resumed = resume_config(run.folder, ["max_evaluations=1000"])
    assert resumed.seeds is None
    assert len(resumed.search(resumed.make_task()).history) > len(before)
    with pytest.raises(RunFolderError, match=r"belongs to another search \(it began with \d seeds, not with these 0\)"):
        read(TINY).search(task)
    with pytest.raises(SettingsError, match="--set seeds: a search that has begun keeps the seeds that it began with"):
        resume_config(run.folder, ["seeds=[{from='magnitude'}]"])


def test_resuming_takes_the_networks_weights_from_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    text = TINY.replace("[fitness]", "[task.train]\nepochs = 1\nbatch_size = 5\n[fitness]")
    config = read(text)
    task = config.make_task()
    run = config.search(task)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("evo.cli.task_source.train", never)
    assert resume_config(run.folder).make_task().digest() == task.digest()
    assert read(text).make_task().digest() == task.digest()
    with pytest.raises(RunFolderError, match=r"belongs to another search \(task\.train was .*; choose another folder$"):
        read(text, "task.train.epochs=2")


def test_a_run_from_python_says_how_to_go_on(task: evo.Task, folder: Path) -> None:
    evo.search(
        task,
        encoding=evo.FilterBits(),
        fitness=SubsetFineTune(epochs=0),
        algorithm=RandomSearch(evaluations=2),
        evaluator=LocalEvaluator(workers=0),
        out=folder,
    )
    with pytest.raises(RunFolderError, match=r"was started from Python, .* continues it"):
        resume_config(folder)


CALLBACKS = """
[[callbacks]]
name = "tensorboard"
flush_seconds = 5
[[callbacks]]
name = "parts:Told"
word = "class"
"""
SHORT = '[algorithm]\nname = "random"\nevaluations = 4\nbatch = 2\n[evaluator]\nworkers = 0\n'


def test_callbacks_by_name_follow_a_search_and_its_resumption() -> None:
    config = read(GOOD + SHORT + CALLBACKS, "max_evaluations=2")
    logged, told = config.callbacks
    assert logged == TensorBoard(flush_seconds=5)
    assert type(told).__name__ == "Told"
    run = config.search(config.make_task())
    assert (run.folder / "told").read_text() == "class"
    (run.folder / "told").unlink()
    again = resume_config(run.folder, ["max_evaluations=100"])
    assert [type(callback).__name__ for callback in again.callbacks] == ["TensorBoard", "Told"]
    assert len(again.search(again.make_task()).history) == 4
    assert (run.folder / "told").read_text() == "class"
    assert len(list((run.folder / "tensorboard").iterdir())) == 2
    without = resume_config(run.folder, ["callbacks=[]"])
    assert without.callbacks == ()


def test_a_callback_may_be_an_object() -> None:
    (told,) = read("callbacks = [{name = 'parts:told'}]\n" + GOOD).callbacks
    assert told is sys.modules["parts"].told


def test_a_criterion_of_ones_own_chooses_the_filters() -> None:
    config = read(GOOD + '[encoding]\nname = "channel_vector"\nselect = "parts:last"\ninitial = "random"\n' + SHORT)
    run = config.search(config.make_task())
    assert run.settings["encoding"]["select"] == "parts:last"
    for row in run.history.index:
        (mask,) = run.blueprint(row).masks.values()
        assert mask.tolist() == sorted(mask.tolist()), "the last stay"
    assert resume_config(run.folder).encoding == config.encoding
