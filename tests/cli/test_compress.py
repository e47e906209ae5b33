"""`evo compress`: which parts a method is made of, what it refuses, and what it shows."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from evo.algorithms import ECS, FGA, NSGA2, RandomSearch
from evo.callbacks import Progress
from evo.cli.compress import METHODS, Stages, compress, read_method
from evo.encodings.channel_vector import ChannelVector
from evo.encodings.filter_bits import FilterBits
from evo.errors import EvoError, SettingsError
from evo.fitness import FITNESSES, ScoreOfFrame, SubsetFineTune
from evo.recipes.ocnna import OcnnaCompression
from evo.recipes.synaptic import SynapticCompression
from evo.run import read_settings
from evo.seeds import FromOCNNA
from evo.training import EpochReport

TASK = ["task.model=parts:network", "task.data=parts:data"]
PROGRESS = Progress(1, 2, 4, 0, 4, 0, 0, 0, None, "score", {}, 1.0, None)
REPORT = EpochReport(1, 2, 0.5, 0.1, 0.2, 1, 0.2, False, 1.0, 1.0)


def test_a_method_stands_for_its_parts(place: Path) -> None:
    _, fnp = read_method("fnp", None, TASK, gamma=0.25)
    assert isinstance(fnp.encoding, ChannelVector)
    assert fnp.encoding == ChannelVector(gamma=0.25)
    assert (fnp.fitness, fnp.algorithm.to_dict()) == (ScoreOfFrame(), FGA().to_dict())
    assert (fnp.finetuning, fnp.budget, fnp.out) == (None, None, Path("runs/compressed"))
    _, ecs = read_method("ecs", None, TASK, out=Path("here"))
    assert (type(ecs.encoding), type(ecs.fitness), type(ecs.algorithm)) == (FilterBits, SubsetFineTune, ECS)
    assert ecs.out == Path("here")


def test_a_file_may_say_more_about_them(place: Path) -> None:
    Path("run.toml").write_text(
        "[task]\nmodel = 'parts:network'\ndata = 'parts:data'\n"
        "[encoding]\nlam = 2\ngamma = 0.1\n[fitness]\nname = 'parts:judged'\n[algorithm]\npopulation = 6\n"
        "[budget]\nmacs = 0.5\n[[seeds]]\nfrom = 'ocnna'\n[finetuning]\nlr = 0.3\n"
    )
    method, config = read_method("fnp", Path("run.toml"), ["finetuning.shift=2"], gamma=0.6)
    assert method is METHODS["fnp"]
    assert config.encoding == ChannelVector(lam=2, gamma=0.6), "the command line wins"
    assert config.fitness.objectives[0].name == "score"
    assert isinstance(config.algorithm, FGA)
    assert config.algorithm.population == 6
    assert config.budget is not None
    assert config.budget.amounts == {"macs": 0.5}
    assert config.finetuning is not None
    assert (config.finetuning.epochs, config.finetuning.lr, config.finetuning.shift) == (10, 0.3, 2)
    assert config.source["finetuning"] == config.finetuning.to_dict()
    assert config.seeds == [FromOCNNA()]
    assert [name for name, one in METHODS.items() if "seeds" in one.parts] == ["ecs", "fnp"]


def test_every_part_that_a_method_names_is_of_the_kind_that_it_needs(place: Path) -> None:
    for name, method in METHODS.items():
        assert method.defaults.keys() == {"encoding", "fitness", "algorithm"} >= method.kinds.keys()
        assert method.defaults["fitness"]["name"] in FITNESSES
        assert read_method(name, None, TASK)[0] is method


def test_synaptic_pruning_trains_by_the_appraisal_that_the_file_says(place: Path) -> None:
    settings = ["finetuning.batch_size=2", "finetuning.epochs=6", "evaluator.workers=0"]
    settings += ["finetuning.appraisal.threshold=0.8", "finetuning.appraisal.every=1"]
    method, config = read_method("synaptic", None, [*TASK, *settings], out=Path("run"))
    screen = io.StringIO()
    made = compress(method, config, config.make_task(), Console(file=screen, width=200))
    assert isinstance(made, SynapticCompression)
    assert 0 < made.tuned["pruned"].iloc[0] < 1
    assert list(made.history["step"].unique()) == list(range(7, 37)), "of 60 steps, from 10 to 60 %"
    assert "fine-tuning: epoch 6 of 6" in screen.getvalue()
    assert read_settings(Path("run"))["source"]["finetuning"]["appraisal"]["threshold"] == 0.8


@pytest.mark.parametrize(
    ("method", "settings"),
    [("synaptic", ["finetuning.epochs=1"]), ("ecs", ["finetuning.epochs=1", "finetuning.appraisal.patience=20"])],
)
def test_an_appraisal_that_cannot_work_is_refused_before_the_network_is_trained(
    method: str, settings: list[str], place: Path
) -> None:
    untrained = ["task.model=lenet", "task.data=digits", "task.train.epochs=1"]
    _, config = read_method(method, None, [*untrained, *settings])
    reports: list[EpochReport] = []
    with pytest.raises(SettingsError, match=r"^finetuning: appraisal: \d+ appraisals in \d+ steps are too few"):
        config.make_task(reports.append)
    assert not reports


def test_layer_policies_evolve_if_the_file_names_an_algorithm(place: Path) -> None:
    _, alone = read_method("adalayer", None, TASK)
    assert alone.algorithm.to_dict() == RandomSearch(evaluations=1, batch=1).to_dict()
    _, evolved = read_method("adalayer", None, [*TASK, "algorithm.name=nsga2", "algorithm.generations=3"])
    assert evolved.algorithm.to_dict() == NSGA2(generations=3).to_dict()


def test_the_percentiles_of_ocnna_are_an_option(place: Path) -> None:
    settings = ["finetuning.batch_size=2", "finetuning.epochs=1", "evaluator.workers=0"]
    method, config = read_method("ocnna", None, [*TASK, *settings], k=(20, 60), out=Path("run"))
    made = compress(method, config, config.make_task(), Console(file=io.StringIO()))
    assert isinstance(made, OcnnaCompression)
    assert made.sensitivity["k"].tolist() == [20, 60]
    with pytest.raises(EvoError, match="--k: fnp has no percentile; leave it out, or use --method ocnna"):
        read_method("fnp", None, TASK, k=(20,))


@pytest.mark.parametrize(
    ("method", "overrides", "gamma", "sentence"),
    [
        ("fpn", TASK, None, "--method: unknown method 'fpn'; did you mean 'fnp'?"),
        ("fnp", [], None, "name a run.toml, or network and data: --set task.model=… --set task.data=…, see `evo keys`"),
        ("fnp", TASK[:1], None, "--set: task.data is missing; it has no default"),
        ("fnp", TASK, 1.5, "--set: encoding.gamma: got 1.5; input should be less than 1"),
        ("synaptic", TASK, 0.5, "--gamma: synaptic has no importance matrix; leave it out, or use --method fnp"),
        ("ecs", TASK, 0.5, "--gamma: ecs has no importance matrix; leave it out, or use --method fnp"),
        (
            "fnp",
            [*TASK, "algorithm.name=random"],
            None,
            "--method fnp: its algorithm is FGA, got RandomSearch; to combine parts freely: evo search",
        ),
        (
            "ecs",
            [*TASK, "encoding.name=channel_vector"],
            None,
            "--method ecs: its encoding is FilterBits, got ChannelVector; to combine parts freely: evo search",
        ),
        (
            "adalayer",
            [*TASK, "algorithm.name=ecs"],
            None,
            "--method adalayer: its algorithm is RandomSearch or NSGA2, got ECS; to combine parts freely: evo search",
        ),
        (
            "adalayer",
            [*TASK, 'seeds=[{from="magnitude"}]'],
            None,
            "--method adalayer: it begins with structures of its own and takes no [[seeds]]; leave them out, or use evo search",
        ),
        (
            "fnp",
            [*TASK, "finetuning.epoch=3"],
            None,
            "--set: finetuning.epoch: unknown setting 'epoch'; did you mean 'epochs'?",
        ),
        ("fnp", [*TASK, "finetuning.device=gpu"], None, "finetuning.device: 'gpu' cannot be used (RuntimeError: "),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(
    place: Path, method: str, overrides: list[str], gamma: float | None, sentence: str
) -> None:
    with pytest.raises(EvoError) as raised:
        read_method(method, None, overrides, gamma=gamma)
    assert str(raised.value).startswith(sentence)


def test_search_and_fine_tuning_have_the_terminal_one_after_the_other() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)

    def shown() -> str:
        text = screen.getvalue()
        screen.truncate(0)
        screen.seek(0)
        return text

    with Stages(console) as stages:
        stages.on_progress(PROGRESS)
        stages.on_progress(replace(PROGRESS, generation=2))
        assert "2 of 2 generations" in shown(), "its last state stays there"
        stages.tuning(REPORT)
    tuned = shown()
    assert "fine-tuning: epoch 1 of 2" in tuned
    assert "generations" not in tuned
    with Stages(console) as stages:
        stages.on_progress(replace(PROGRESS, generation=2))
    assert "fine-tuning: first epoch" in shown(), "it is under way before its first report"


def test_elsewhere_they_are_plain_lines() -> None:
    screen = io.StringIO()
    with Stages(Console(file=screen, width=200)) as stages:
        stages.tuning(REPORT)
    assert screen.getvalue().startswith("fine-tuning: epoch 1 of 2, loss 0.5000")
