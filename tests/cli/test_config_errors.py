"""run.toml: every mistake is one clear sentence, before anything is written."""

from pathlib import Path

import pytest

import evo
from evo.cli.config import Config, read_config
from evo.errors import RunFolderError, SettingsError

GOOD = '[task]\nmodel = "parts:network"\ndata = "parts:data"\n[fitness]\nname = "parts:judged"\n'
TASK = GOOD.partition("[fitness]")[0]
LENET = '[task]\nmodel = "lenet"\ndata = "digits"\n'


pytestmark = pytest.mark.usefixtures("place")


def read(text: str, *overrides: str) -> Config:
    """Return the config of a run.toml with this text."""
    Path("run.toml").write_text(text)
    return read_config("run.toml", overrides)


CASCADE = TASK + '[fitness]\nname = "cascade"\n'
BAD = {
    "cascade without fidelities": (CASCADE, "run.toml: fitness.fidelities is missing; it has no default"),
    "fidelities are no tables": (
        CASCADE + 'fidelities = ["zero_shot"]\npromote = [0.5]\n',
        "run.toml: fitness.fidelities: got ['zero_shot']; expected tables, e.g. [{name = \"zero_shot\"}, …]",
    ),
    "a setting of a fidelity": (
        CASCADE + 'fidelities = [{name = "zero_shot"}, {images = 1}]\npromote = [0.5]\n',
        "run.toml: fitness.fidelities.1.images: got 1; input should be greater than or equal to 2",
    ),
    "an unknown fidelity": (
        CASCADE + 'fidelities = [{name = "zero_shoot"}, {}]\npromote = [0.5]\n',
        "run.toml: fitness.fidelities.0.name: unknown fitness 'zero_shoot'; did you mean 'zero_shot'? "
        "(your own is named as module:attribute)",
    ),
    "a fidelity without a name in words": (
        CASCADE + "fidelities = [{name = 3}, {}]\npromote = [0.5]\n",
        "run.toml: fitness.fidelities.0.name: got 3; expected a name or module:attribute",
    ),
    "a share too few": (
        CASCADE + 'fidelities = [{name = "zero_shot"}, {images = 30}, {}]\npromote = [0.5]\n',
        "promote takes one share per fidelity but the last: 2 for 3 fidelities, got 1",
    ),
    "a share of nothing": (
        CASCADE + 'fidelities = [{name = "zero_shot"}, {}]\npromote = [0]\n',
        "run.toml: fitness.promote.0: got 0; input should be greater than 0",
    ),
    "latency of a cascade": (
        CASCADE + 'fidelities = [{name = "zero_shot"}, {}]\npromote = [0.5]\nlatency = {}\n',
        "run.toml: fitness.latency: WithLatency: a Cascade is not measured as a whole; give its last fidelity the latency",
    ),
    "not TOML": ("seed = \n", "run.toml: not valid TOML: invalid value (at line 1, column 8)"),
    "unknown key": ("sede = 1\n" + GOOD, "run.toml: sede: unknown setting 'sede'; did you mean 'seed'?"),
    "unknown table": (
        GOOD + "[algoritm]\nname = 'ecs'\n",
        "run.toml: algoritm: unknown setting 'algoritm'; did you mean 'algorithm'?",
    ),
    "unknown callback": (
        "callbacks = [{name = 'tensorbord'}]\n" + GOOD,
        "run.toml: callbacks[0].name: unknown callback 'tensorbord'; did you mean 'tensorboard'?",
    ),
    "no callback": (
        "callbacks = [{name = 'tensorboard'}, {name = 'parts:Wide'}]\n" + GOOD,
        "run.toml: callbacks[1].name: parts:Wide is the class Wide; expected a subclass of evo.callbacks.base.Callback, or",
    ),
    "callback without a name": (
        "callbacks = [{log_dir = 'here'}]\n" + GOOD,
        "run.toml: callbacks[0].name: got None; expected a name or module:attribute",
    ),
    "setting of a callback": (
        "callbacks = [{name = 'tensorboard', logdir = 'here'}]\n" + GOOD,
        "run.toml: callbacks[0].logdir: unknown setting 'logdir'; did you mean 'log_dir'?",
    ),
    "setting of a callback of one's own": (
        "callbacks = [{name = 'parts:Told', words = 'here'}]\n" + GOOD,
        "run.toml: callbacks[0]: parts:Told raised TypeError: ",
    ),
    "setting of an object": (
        "callbacks = [{name = 'parts:told', word = 'here'}]\n" + GOOD,
        "run.toml: callbacks[0].word: parts:told is complete as it is and takes no settings",
    ),
    "callbacks of another kind": (
        "callbacks = ['tensorboard']\n" + GOOD,
        "run.toml: callbacks.0: got 'tensorboard'; input should be a valid dictionary",
    ),
    "unknown setting": (
        GOOD + "[algorithm]\npopulaton = 5\n",
        "run.toml: algorithm.populaton: unknown setting 'populaton'; did you mean 'population'?",
    ),
    "empty budget": (
        GOOD + "[budget]\n",
        "run.toml: budget: got {}; name at least one cost to limit, e.g. params = 0.3",
    ),
    "wrong budget": (
        GOOD + "[budget]\nparams = 1\n",
        "run.toml: budget.params: got 1; expected a share of the original in (0, 1], such as 0.5, or a whole number ≥ 2; "
        "all of the original is 1.0",
    ),
    "unknown cost": (
        GOOD + "[budget]\nparam = 0.3\n",
        "run.toml: budget.param: unknown setting 'param'; did you mean 'params'?",
    ),
    "budget is a number": ("budget = 0.3\n" + GOOD, "run.toml: budget: got 0.3; input should be a valid dictionary"),
    "seeds are no tables": (
        'seeds = ["ocnna"]\n' + GOOD,
        "run.toml: seeds.0: got 'ocnna'; input should be a valid dictionary",
    ),
    "seeds from nowhere": (
        GOOD + "[[seeds]]\nk = [20]\n",
        "run.toml: seeds[0]: expected from = …, one of: importance_matrix, ocnna, magnitude, run; got None",
    ),
    "seeds from something unknown": (
        GOOD + '[[seeds]]\nfrom = "ocnna"\n[[seeds]]\nfrom = "magnitud"\n',
        "run.toml: seeds[1].from: unknown source of seeds 'magnitud'; did you mean 'magnitude'?",
    ),
    "seeds from no source": (
        GOOD + '[[seeds]]\nfrom = "parts:network"\n',
        "run.toml: seeds[0].from: parts:network is a function; expected a subclass of evo.seeds.SeedSource",
    ),
    "setting of seeds": (
        GOOD + '[[seeds]]\nfrom = "magnitude"\nratio = 0.5\n',
        "run.toml: seeds[0].ratio: unknown setting 'ratio'; did you mean 'ratios'?",
    ),
    "value of seeds": (
        'seeds = [{ from = "importance_matrix", gammas = [0.3, 1.5] }]\n' + GOOD,
        "run.toml: seeds[0].gammas.1: got 1.5; input should be less than 1",
    ),
    "seeds of no run": (GOOD + '[[seeds]]\nfrom = "run"\n', "run.toml: seeds[0].folder is missing; it has no default"),
    "no time": (
        "max_seconds = 0\n" + GOOD,
        "run.toml: max_seconds: got 0; input should be greater than 0",
    ),
    "wrong convergence": (
        GOOD + "[convergence]\ntolerance = 0\n",
        "run.toml: convergence.tolerance: got 0; input should be greater than 0",
    ),
    "convergence of what is not there": (
        GOOD + "[convergence]\nobjectives = ['scor']\n",
        "run.toml: convergence: unknown objective 'scor'; did you mean 'score'?",
    ),
    "no task": ("seed = 1\n", "run.toml: task is missing; it has no default"),
    "no data": ('[task]\nmodel = "lenet"\n', "run.toml: task.data is missing; it has no default"),
    "no table": ("task = 5\n", "run.toml: task: got 5; input should be a valid dictionary"),
    "wrong type": (
        GOOD + '[algorithm]\npopulation = "many"\n',
        "run.toml: algorithm.population: got 'many'; "
        "input should be a valid integer, unable to parse string as an integer",
    ),
    "out of range": ("seed = -1\n" + GOOD, "run.toml: seed: got -1; input should be greater than or equal to 0"),
    "shares": (
        GOOD + "[algorithm]\ncopy_share = 0.5\n",
        "copy_share + crossover_share + mutation_share must be 1, they add up to 1.3",
    ),
    "name is a number": (
        GOOD + "[encoding]\nname = 5\n",
        "run.toml: encoding.name: got 5; expected a name or module:attribute",
    ),
    "name is a list": (
        GOOD + '[evaluator]\nname = ["local"]\n',
        "run.toml: evaluator.name: got ['local']; expected a name or module:attribute",
    ),
    "unknown algorithm": (
        GOOD + '[algorithm]\nname = "esc"\n',
        "run.toml: algorithm.name: unknown algorithm 'esc'; did you mean 'ecs'? (your own is named as module:attribute)",
    ),
    "unknown encoding": (GOOD + '[encoding]\nname = "filter_bit"\n', "did you mean 'filter_bits'?"),
    "unknown evaluator": (GOOD + '[evaluator]\nname = "rya"\n', "unknown evaluator 'rya'; did you mean 'ray'?"),
    "unknown fitness": (TASK + '[fitness]\nname = "subset"\n', "unknown fitness 'subset'; did you mean"),
    "unknown network": (
        LENET.replace("lenet", "lent"),
        "run.toml: task.model: unknown network 'lent'; did you mean 'lenet'?",
    ),
    "unknown data": (
        LENET.replace("digits", "digit") + "[task.train]\n",
        "run.toml: task.data: unknown data set 'digit'; did you mean 'digits'?",
    ),
    "untrained": (
        LENET,
        "run.toml: task: lenet comes untrained; name its weights, or train it first with epochs = … in [task.train]",
    ),
    "wrong recipe": (
        LENET + "[task.train]\nepoch = 3\n",
        "run.toml: task.train.epoch: unknown setting 'epoch'; did you mean 'epochs'?",
    ),
    "no weights": (LENET + 'weights = "w.safetensors"\n', "w.safetensors: no such file"),
    "no module": (
        GOOD.replace("parts:network", "party:network"),
        "run.toml: task.model: there is no module 'party'; did you mean 'parts'?",
    ),
    "no package": (GOOD.replace("parts:network", "zzz.qqq:network"), "there is no module 'zzz'; put zzz.py into "),
    "no attribute": (
        GOOD.replace("parts:network", "parts:netwerk"),
        "run.toml: task.model: module 'parts' has no 'netwerk'; did you mean 'network'?",
    ),
    "no form": (
        GOOD.replace("parts:network", "parts:"),
        "run.toml: task.model: expected module:attribute, got 'parts:'",
    ),
    "needs a package": (
        GOOD.replace("parts:network", "hungry:network"),
        "run.toml: task.model: module 'hungry' imports 'not_installed_anywhere', which is not installed",
    ),
    "syntax error": (
        GOOD.replace("parts:network", "wrong:network"),
        "run.toml: task.model: importing 'wrong' raised SyntaxError: invalid syntax (wrong.py, line 1)",
    ),
    "import raises": (
        GOOD.replace("parts:network", "raises:network"),
        "run.toml: task.model: importing 'raises' raised OSError: no disk (raises.py, line 1)",
    ),
    "model is a number": (
        GOOD.replace("parts:network", "parts:number"),
        "run.toml: task.model: parts:number is an int; expected a torch.nn.Module or a function returning one",
    ),
    "arguments of a network": (
        GOOD.replace("parts:network", "parts:net").replace("[fitness]", "model_args = { width = 2 }\n[fitness]"),
        "run.toml: task.model_args: parts:net is a network already and takes no arguments",
    ),
    "arguments of data": (
        GOOD.replace("parts:data", "parts:values").replace("[fitness]", "data_args = { count = 2 }\n[fitness]"),
        "run.toml: task.data_args: parts:values is data already and takes no arguments",
    ),
    "undecorated fitness": (
        GOOD.replace("judged", "plain"),
        "run.toml: fitness.name: parts:plain is a function; decorate it with @evo.fitness(maximize=…)",
    ),
    "fitness is a number": (
        GOOD.replace("judged", "number"),
        "run.toml: fitness.name: parts:number is an int; expected a Fitness",
    ),
    "settings of a function": (
        GOOD + "lam = 1\n",
        "run.toml: fitness.lam: parts:judged is complete as it is and takes no settings",
    ),
    "minimising": (
        GOOD.replace("judged", "loss"),
        "run.toml: algorithm: ECS maximises one positive objective, but the fitness minimises 'loss'; "
        "let it return one to maximise, e.g. fitness = 1 − error",
    ),
    "not an algorithm": (
        GOOD + '[algorithm]\nname = "parts:network"\n',
        "run.toml: algorithm.name: parts:network is a function; expected a subclass of evo.algorithms.base.Algorithm",
    ),
}
BAD_WHEN_LOADED = {
    "budget that nothing meets": (
        GOOD + "[budget]\nmacs = 2\n",
        "budget: macs ≤ 2 (1.14 % of 176) cannot be met; even the smallest candidate has 44",
    ),
    "seeds of a run that is not there": (
        GOOD + '[[seeds]]\nfrom = "run"\nfolder = "runs/none"\n',
        "seeds: from run: runs/none: not a run folder, it has no run.toml",
    ),
    "seeds of channels that are not there": (
        GOOD + '[[seeds]]\nfrom = "magnitude"\nfree = ["conv*"]\n',
        "seeds: from magnitude: free: unknown coupling group 'conv*'; known are: 0",
    ),
    "not a network": (
        GOOD.replace("parts:network", "parts:nothing"),
        "run.toml: task.model: parts:nothing returned NoneType, expected a torch.nn.Module",
    ),
    "factory raises": (
        GOOD.replace("parts:network", "parts:broken"),
        "run.toml: task.model: parts:broken raised ZeroDivisionError: division by zero (parts.py, line 41)",
    ),
    "wrong argument": (
        GOOD.replace("[fitness]", "model_args = { depth = 2 }\n[fitness]"),
        "run.toml: task.model: parts:network raised TypeError: network() got an unexpected keyword argument 'depth'",
    ),
    "data is no pair": (
        GOOD.replace("parts:data", "parts:nothing"),
        "run.toml: task.data: parts:nothing returned NoneType, expected (train, val) or (train, val, test)",
    ),
    "data is a lone pair": (
        GOOD.replace("parts:data", "parts:one"),
        "run.toml: task.data: parts:one gives arrays, expected (train, val) with each a pair (inputs, labels)",
    ),
    "data raise": (
        GOOD.replace("parts:data", "parts:broken"),
        "run.toml: task.data: parts:broken raised ZeroDivisionError: division by zero (parts.py, line 41)",
    ),
    "network of other data": (
        GOOD.replace("parts:data", "parts:three_channels"),
        "run.toml: task: Sequential does not run on an input of shape (1, 3, 4, 4)",
    ),
    "size of digits": (
        LENET + "data_args = { size = 4 }\n[task.train]\n",
        "run.toml: task.data: digits: size is a whole number ≥ 8, got 4",
    ),
    "objective of a column": (
        GOOD.replace("judged", "taken"),
        "fitness: an objective cannot be called 'seconds', a column of the history is",
    ),
    "more than the images": (
        TASK + "[task.train]\nepochs = 1000000\n[fitness]\nepochs = 1\n",
        "SubsetFineTune: batch_size 128 is larger than the 20 images to tune on",
    ),
}


def refused(text: str, *, load: bool) -> str:
    """Return the sentence that refuses a run.toml, having checked that it is one and that nothing was written."""
    before = {path for path in Path().rglob("*") if "__pycache__" not in path.parts}
    with pytest.raises(evo.EvoError) as caught:
        read(text).make_task() if load else read(text)
    after = {path for path in Path().rglob("*") if "__pycache__" not in path.parts}
    assert after - before == {Path("run.toml")}
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_refused_in_one_sentence(case: str) -> None:
    text, sentence = BAD[case]
    assert sentence in refused(text, load=False)


@pytest.mark.parametrize("case", BAD_WHEN_LOADED)
def test_what_only_loading_shows_is_refused_before_any_training(case: str) -> None:
    text, sentence = BAD_WHEN_LOADED[case]
    assert sentence in refused(text, load=True)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed", "--set seed: expected key=value, e.g. algorithm.population=50"),
        ("=3", "--set =3: expected key=value, e.g. algorithm.population=50"),
        ("task.model.depth=3", "--set task.model.depth=3: task.model is not a table"),
        (
            'evaluator.name=["local"]',
            "run.toml: evaluator.name: got ['local']; expected a name or module:attribute",
        ),
        (
            "algorithm.populaton=3",
            "run.toml: algorithm.populaton: unknown setting 'populaton'; did you mean 'population'?",
        ),
    ],
)
def test_a_wrong_override_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(GOOD, override)
    assert str(caught.value) == sentence


def test_a_folder_that_cannot_be_is_refused_before_any_work(place: Path) -> None:
    (place / "file").write_text("mine")
    for out in ("file", "file/run", "file/more/run"):
        with pytest.raises(RunFolderError) as caught:
            read(GOOD, f"out={out}")
        assert str(caught.value) == f"{out}: cannot be written ({place / 'file'} is not a folder)"
    assert read(GOOD, "out=new/run").out == Path("new/run")
    assert not (place / "new").exists()


def test_files_that_are_none(place: Path) -> None:
    with pytest.raises(SettingsError, match=r"^nope\.toml: no such file$"):
        read_config("nope.toml")
    (place / "folder").mkdir()
    with pytest.raises(SettingsError, match=r"^folder: is a folder, expected a TOML file$"):
        read_config("folder")
    (place / "latin.toml").write_bytes(b"out = '\xe9'")
    with pytest.raises(SettingsError, match=r"^latin\.toml: not valid TOML: it is not UTF-8 text$"):
        read_config("latin.toml")
