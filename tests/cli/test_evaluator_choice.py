"""Which evaluator a command uses: the file's, or another one on the command line."""

from pathlib import Path

import pytest

import evo
from evo.cli.compress import read_method
from evo.cli.config import Config, read_config, resume_config
from evo.errors import SettingsError

TASK = '[task]\nmodel = "parts:network"\ndata = "parts:data"\n'
PARTS = '[fitness]\nname = "parts:judged"\n[algorithm]\nname = "random"\nevaluations = 2\n'


def read(place: Path, evaluator: str, *overrides: str, address: str | None = None) -> Config:
    (place / "run.toml").write_text(TASK + PARTS + evaluator)
    return read_config(place / "run.toml", overrides, address=address)


@pytest.mark.parametrize(
    "evaluator",
    [
        "",
        "[evaluator]\nworkers = 2\n",
        '[evaluator]\nname = "local"\nworkers = 2\n',
        '[evaluator]\nname = "ray"\naddress = "elsewhere:1"\n',
    ],
)
def test_an_address_is_short_for_ray(place: Path, evaluator: str) -> None:
    config = read(place, evaluator, address="head:6379")
    assert config.evaluator == evo.RayEvaluator(address="head:6379")


def test_what_both_evaluators_have_and_what_ray_has_is_kept(place: Path) -> None:
    local = read(place, "[evaluator]\nworkers = 2\ntimeout = 60\nretries = 1\n", address="auto")
    assert local.evaluator == evo.RayEvaluator(address="auto", timeout=60, retries=1)
    ray = read(place, '[evaluator]\nname = "ray"\nnum_gpus = 0.25\n', "evaluator.num_cpus=2", address="auto")
    assert ray.evaluator == evo.RayEvaluator(address="auto", num_gpus=0.25, num_cpus=2)


def test_an_evaluator_named_in_an_override_needs_nothing_of_the_files(place: Path) -> None:
    local = '[evaluator]\nname = "ray"\naddress = "auto"\nnum_cpus = 4\ntimeout = 9\n'
    assert read(place, local, "evaluator.name=local").evaluator == evo.LocalEvaluator(timeout=9)
    assert read(place, "[evaluator]\nworkers = 2\n", "evaluator.name=ray").evaluator == evo.RayEvaluator()


def test_contradictions_and_slips_are_refused(place: Path) -> None:
    with pytest.raises(SettingsError, match=r"evaluator.workers: unknown setting 'workers'"):
        read(place, "", "evaluator.workers=2", address="auto")
    with pytest.raises(SettingsError, match=r"evaluator.worker: unknown setting 'worker'; did you mean"):
        read(place, "[evaluator]\nworker = 2\n", "evaluator.name=local")
    with pytest.raises(SettingsError, match=r"evaluator.addres: unknown setting 'addres'; did you mean 'address'"):
        read(place, '[evaluator]\nname = "ray"\naddres = "x"\n', address="auto")


def test_compress_and_resume_take_an_address_too(place: Path) -> None:
    overrides = ["task.model=parts:network", "task.data=parts:data", "evaluator.workers=1"]
    with pytest.raises(SettingsError, match="unknown setting 'workers'"):
        read_method("ecs", None, overrides, address="auto")
    assert read_method("ecs", None, overrides[:2], address="auto")[1].evaluator == evo.RayEvaluator(address="auto")

    config = read(place, "[evaluator]\nworkers = 0\nretries = 1\n")
    run = config.search(config.make_task())
    assert resume_config(run.folder).evaluator == evo.LocalEvaluator(workers=0, retries=1)
    assert resume_config(run.folder, address="auto").evaluator == evo.RayEvaluator(address="auto", retries=1)
