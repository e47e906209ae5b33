"""Searches on real Ray clusters, against the same searches on this machine's own processes."""

import itertools
import logging
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

import evo
from evo.blueprint import Blueprint
from evo.errors import EvaluatorError
from evo.evaluation import Evaluator, Job, evaluate, ray_session
from evo.evaluation import ray as ray_module
from evo.evaluation.base import DIED
from evo.fitness import Fitness
from evo.testing import EvaluatorContract
from evo.training import Recipe, Samples, train
from tests.integration import search_digits

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("search_digits.py")

Start = Callable[..., "subprocess.Popen[str]"]
Finish = Callable[..., str]
Rows = Callable[[Path], list[dict[str, Any]]]


def blueprints(task: evo.Task, count: int) -> list[Blueprint]:
    """Return as many different structures."""
    space = evo.FilterBits().bind(task, (1.0,))
    drawn = [space.decode(individual) for individual in space.initial(2 * count, np.random.default_rng(0))]
    return list({blueprint.key: blueprint for blueprint in drawn}.values())[:count]


class TestConnecting:
    """What happens before there is a Ray; these come first."""

    @pytest.fixture(autouse=True)
    def no_ray(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray_module, "PATIENCE", 1.0)
        assert not ray.is_initialized()
        yield
        assert not ray.is_initialized()

    @pytest.fixture
    def job(self, task: evo.Task) -> Job:
        return Job(task, evo.SubsetFineTune(), 0, 1, None)

    @pytest.fixture
    def silent(self) -> Iterator[str]:
        """The address of something that accepts connections and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield f"127.0.0.1:{listener.getsockname()[1]}"

    def test_dead_address(self, job: Job, silent: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            dead = f"127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        for address in (dead, silent, f"ray://{dead}", "127.0.0.1:port"):
            with pytest.raises(
                EvaluatorError, match=rf"^RayEvaluator.address: cannot reach .* at {address} \(.*\); st"
            ):
                evo.RayEvaluator(address=address).open(job)
        assert time.monotonic() - began < 20

    def test_something_else_at_the_address(self, job: Job) -> None:
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server:
            assert server.stdout is not None
            found = re.search(r"port (\d+)", server.stdout.readline())
            assert found is not None
            with pytest.raises(EvaluatorError, match="is not the port of a Ray cluster, which is 6379"):
                evo.RayEvaluator(address=f"127.0.0.1:{found[1]}").open(job)
            server.kill()

    def test_dead_address_in_the_environment(self, job: Job, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", silent)
        for address in (None, "auto"):
            with pytest.raises(EvaluatorError, match=f"cannot reach a Ray cluster at {silent}"):
                evo.RayEvaluator(address=address).open(job)

    def test_impossible_resources(self, job: Job) -> None:
        wanted = evo.RayEvaluator(num_gpus=0.5, resources={"tpu": 2})
        with pytest.raises(EvaluatorError, match=r"^RayEvaluator: no node .* \(1 CPU, 0.5 GPU, 2 tpu\)$"):
            wanted.open(job)

    def test_own_ray(self, folder: Path, finish: Finish, rows: Rows, expected: list[dict[str, Any]]) -> None:
        """A script's search starts Ray, says nothing, and stops it."""
        assert finish(folder, "ray") == ""
        assert rows(folder) == expected


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture
def expected(undisturbed: Path, rows: Rows) -> list[dict[str, Any]]:
    """What `search_digits.py` finds without Ray."""
    if not undisturbed.exists():
        search_digits.main(str(undisturbed), "local:0")
    return rows(undisturbed)


def wait_for(address: str) -> None:
    for _ in range(600):
        try:
            ray_module._probe(address)
        except ConnectionError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the cluster does not start")


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a driver that belongs to the cluster, without its RAY_ADDRESS: that is under `address`."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as another:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        client_port = another.getsockname()[1]  # by default the same for all clusters of a machine
    # Neither an address nor a token is left behind in the places that are everybody's; socket paths have to be short.
    place = tempfile.mkdtemp(prefix="evo-", dir="/tmp")
    environment = {"RAY_TMPDIR": place, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    environment["RAY_worker_niceness"] = "0"  # or it stands still while another test runs
    ray_program = str(Path(sys.executable).with_name("ray"))
    options = ["--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    options.append(f"--ray-client-server-port={client_port}")
    head = subprocess.Popen(
        [ray_program, "start", "--head", "--block", f"--port={address.partition(':')[2]}", *options],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(address)
        yield {**environment, "address": address}
        assert head.poll() is None, "a driver has stopped the cluster"
    finally:
        head.terminate()  # `--block` then ends the processes of the cluster; `ray stop` would end everybody's
        head.wait(timeout=60)
    shutil.rmtree(place, ignore_errors=True)


class TestCluster:
    """A cluster started by `ray start`, and drivers in processes of their own."""

    @pytest.mark.slow
    def test_auto(
        self, cluster: dict[str, str], folder: Path, finish: Finish, rows: Rows, expected: list[dict[str, Any]]
    ) -> None:
        environment = dict(cluster)
        environment.pop("address")
        assert finish(folder, "ray:auto", **environment) == ""
        assert rows(folder) == expected

    @pytest.mark.slow
    def test_address_in_the_environment(
        self, cluster: dict[str, str], folder: Path, finish: Finish, rows: Rows, expected: list[dict[str, Any]]
    ) -> None:
        """As in a job submitted to the cluster."""
        environment = dict(cluster)
        environment["RAY_ADDRESS"] = environment.pop("address")
        assert finish(folder, "ray", **environment) == ""
        assert rows(folder) == expected

    @pytest.mark.slow
    def test_working_dir(self, cluster: dict[str, str], tmp_path: Path, start: Start) -> None:
        """Ray puts the checkout on the workers' path, where its `encodings` must not hide the standard library's."""
        checkout = tmp_path / "checkout"
        for name in ("evo", "encodings", "fitness"):
            shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        script = tmp_path / "script.py"
        script.write_text(
            f"""
import sys, ray
sys.path.insert(0, {str(SCRIPT.parent)!r})
import evo, search_digits

def whence(candidate):
    import encodings, evo, evo.encodings
    places = [evo.__file__, evo.encodings.__path__[0]]
    assert "checkout" not in encodings.__file__ and "working_dir" not in encodings.__file__, encodings.__file__
    return {{"inside": float(all("working_dir" in place for place in places))}}

ray.init(runtime_env={{"working_dir": {str(checkout)!r}}}, log_to_driver=False, logging_level="ERROR")
run = evo.search(search_digits.make_task(), encoding=evo.FilterBits(), fitness=evo.fitness(maximize="inside")(whence),
                 algorithm=evo.RandomSearch(evaluations=4), evaluator=evo.RayEvaluator(), out={str(tmp_path / "run")!r})
assert ray.is_initialized()
print(run.history["status"].tolist(), run.history["inside"].tolist())
"""
        )
        environment = dict(cluster)
        environment["RAY_ADDRESS"] = environment.pop("address")
        process = start(script=script, **environment)
        assert process.communicate(timeout=200)[0] == "['ok', 'ok', 'ok', 'ok'] [1.0, 1.0, 1.0, 1.0]\n"


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    """A Ray in this process, with two processors."""
    with ray_module.own_ray():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    assert ray.is_initialized(), "an evaluator has stopped a Ray that it did not start"
    ray.shutdown()


def search(task: evo.Task, folder: Path, evaluator: Evaluator) -> None:
    evo.search(
        task,
        encoding=evo.FilterBits(),
        fitness=evo.SubsetFineTune(images=100, epochs=1, batch_size=20),
        algorithm=evo.ECS(generations=3, population=8),
        evaluator=evaluator,
        out=folder,
    )


@pytest.fixture(scope="module")
def in_process(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that search without any other process."""
    folder = tmp_path_factory.mktemp("same") / "run"
    search(digits_task, folder, evo.LocalEvaluator(workers=0))
    return folder


class TestSameHistory:
    """Where work happens does not change what is found."""

    @pytest.mark.parametrize(
        ("evaluator", "chunk_seconds"),
        [
            (evo.LocalEvaluator(workers=1), None),
            (evo.LocalEvaluator(workers=2), None),
            (evo.RayEvaluator(num_cpus=2), 1e9),
            (evo.RayEvaluator(), 0.0),
            (evo.RayEvaluator(), None),
        ],
        ids=["one process", "two processes", "Ray, one slot, chunks", "Ray, two slots, no chunks", "Ray, two slots"],
    )
    def test_evaluator(
        self,
        evaluator: Evaluator,
        chunk_seconds: float | None,
        in_process: Path,
        digits_task: evo.Task,
        folder: Path,
        rows: Rows,
        here: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if chunk_seconds is not None:
            monkeypatch.setattr(ray_session, "CHUNK_SECONDS", chunk_seconds)
        search(digits_task, folder, evaluator)
        found = rows(folder)
        assert found == rows(in_process)
        assert {row["generation"] for row in found} == {0, 1, 2}


def test_a_cascade(digits_task: evo.Task, tmp_path: Path, rows: Rows, here: None) -> None:
    """Every fidelity is judged by the cluster as it is in this process, though some take no time and some take long."""
    fidelities: list[Fitness] = [
        evo.ZeroShot(),
        evo.SubsetFineTune(images=50, epochs=0),
        evo.SubsetFineTune(images=100, batch_size=20),
    ]
    runs = [
        evo.search(
            digits_task,
            encoding=evo.FilterBits(),
            fitness=evo.Cascade(fidelities, promote=(0.5, 0.4)),
            algorithm=evo.NSGA2(generations=3, population=16),
            evaluator=evaluator,
            out=tmp_path / name,
            reuse=False,
        )
        for name, evaluator in (("here", evo.LocalEvaluator(workers=0)), ("ray", evo.RayEvaluator()))
    ]
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")
    numbers = [run.screenings.set_index(["fidelity", "key"])["objectives"].sort_index() for run in runs]
    assert numbers[0].equals(numbers[1])
    assert runs[1].screenings["node"].str.startswith(socket.gethostname() + "-").all()


@pytest.mark.usefixtures("here")
class TestSteadyState:
    """Candidates that come one by one."""

    def test_asynchronous_search(self, digits_task: evo.Task, folder: Path) -> None:
        """Every individual proposed has one row, with the result that it would have anywhere."""
        fitness = evo.SubsetFineTune(images=100, epochs=1, batch_size=20)
        run = evo.search(
            digits_task,
            encoding=evo.FilterBits(),
            fitness=fitness,
            algorithm=evo.ECS(generations=4, population=16, asynchronous=True),
            evaluator=evo.RayEvaluator(),
            out=folder,
        )
        history = run.history
        assert history["status"].eq("ok").all()
        asked = history[history["turn"].notna()]
        assert sorted(asked["turn"]) == list(range(len(asked)))
        assert len(asked) >= 4 * 16
        job = Job(digits_task, fitness, 0, 1, None)
        for number in range(0, len(history), 13):
            assert evaluate(job, run.blueprint(number)).objectives["error"] == history["error"].iloc[number]

    def test_what_takes_no_time_travels_together(self, task: evo.Task, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is room for as many as keep the workers busy, but for a third of the population at most."""
        monkeypatch.setattr(ray_session, "CHUNK_SECONDS", 60.0)  # whatever else the machine does meanwhile

        def count(candidate: evo.Candidate) -> dict[str, float]:
            return {"score": candidate.costs["params"]}

        some = blueprints(task, 60)
        with evo.RayEvaluator().open(Job(task, fitness_of(count), 0, 1, None)) as session:
            assert session.room(400) == 3  # two slots, and one that waits
            session.submit(some[:2])
            assert session.room(400) == 1
            done = 0
            while done < 2:
                done += len(session.receive())
            room = session.room(400)
            assert room == math.ceil(400 / 8) * 3  # three tasks, of an eighth: two run, and one waits
            assert session.room(8) == 3
            session.submit(some[2:])
            assert session.room(400) == room - 58
            keys = []
            while received := session.receive():
                keys += [outcome.key for outcome in received]
            assert sorted(keys) == sorted(blueprint.key for blueprint in some[2:])


@pytest.mark.usefixtures("here")
class TestRayEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return evo.RayEvaluator()


@pytest.mark.usefixtures("here")
class TestWorkers:
    """What candidates and callers do to workers; what the local ones say to faults is in tests/evaluation."""

    @pytest.fixture(params=["local", "ray"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def evaluator(self, kind: str, workers: int = 2) -> Evaluator:
        return evo.RayEvaluator() if kind == "ray" else evo.LocalEvaluator(workers=workers)

    def test_misbehaviour(self, digits_task: evo.Task, folder: Path) -> None:
        """Every way to fail is a row with its reason; the others succeed and the search ends."""
        algorithm = evo.RandomSearch(evaluations=14, batch=14)

        @evo.fitness(maximize="score")
        def harmless(candidate: evo.Candidate) -> dict[str, float]:
            return {"score": candidate.costs["params"]}

        quick = evo.LocalEvaluator(workers=0)
        plain = evo.search(
            digits_task, encoding=evo.FilterBits(), fitness=harmless, algorithm=algorithm, evaluator=quick, out=folder
        )
        keys = plain.history["key"]
        assert keys.is_unique
        faults = dict(zip(keys[2:], ["raise", "nan", "exit", "sleep", "kill", "hold", "none", "leave"], strict=False))

        def misbehave(candidate: evo.Candidate) -> Any:
            fault = faults.get(candidate.blueprint.key)
            if fault == "raise":
                raise KeyError("what is\nmissing")
            if fault == "exit":
                os._exit(1)
            if fault == "leave":
                sys.exit(3)
            if fault == "sleep":
                time.sleep(1000)
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hold":
                sum(itertools.repeat(0))  # never lets go of the interpreter's lock
            if fault == "none":
                return None
            return {"score": float("nan") if fault == "nan" else candidate.costs["params"]}

        run = evo.search(
            digits_task,
            encoding=evo.FilterBits(),
            fitness=evo.fitness(maximize="score")(misbehave),
            algorithm=algorithm,
            evaluator=evo.RayEvaluator(timeout=2.0, retries=1),
            out=folder.with_name("faulty"),
        )
        history = run.history
        failed = history[history["status"] != "ok"].set_index("key")
        assert history["status"].eq("ok").sum() == 14 - len(faults)
        reasons = {fault: f"{failed.loc[key, 'status']}: {failed.loc[key, 'reason']}" for key, fault in faults.items()}
        assert re.fullmatch(
            r"failed: KeyError: 'what is\\nmissing' \(test_ray.py:\d+, in misbehave\), on each of 2 tries",
            reasons["raise"],
        )
        assert reasons["nan"].startswith("failed: objective 'score' is nan, expected a finite number")
        assert reasons["none"].startswith("failed: the fitness returned NoneType")
        assert reasons["leave"].startswith("failed: SystemExit: 3")
        assert reasons["sleep"] == reasons["hold"] == "timeout: took longer than its timeout of 2 s"
        assert reasons["exit"] == reasons["kill"] == f"failed: {DIED}, on each of 2 tries"
        assert failed["seconds"].notna().all()
        assert history.loc[history["status"] == "ok", "score"].notna().all()

    def test_base_is_not_altered(self, kind: str, digits_task: evo.Task) -> None:
        """Weights and data are shared by all workers; training candidates leaves them as they are."""
        network, val = digits_task.network.digest(), digits_task.val.digest
        training = digits_task.train.digest

        def train_and_look(candidate: evo.Candidate) -> dict[str, float]:
            task = candidate.task
            train(candidate.build(), task.train, Recipe(epochs=0.5, batch_size=50, lr=0.5), candidate.rng())
            unchanged = task.network.digest() == network
            for samples, digest in ((task.train, training), (task.val, val)):
                unchanged &= Samples(samples.x, samples.y).digest == digest
            return {"unchanged": float(unchanged)}

        job = Job(digits_task, evo.fitness(maximize="unchanged")(train_and_look), 0, 1, None)
        with self.evaluator(kind).open(job) as session:
            outcomes = list(session.run(blueprints(digits_task, 6)))
        assert [outcome.objectives for outcome in outcomes] == [{"unchanged": 1.0}] * 6
        assert digits_task.network.digest() == network

    def test_caller_that_stops_listening(self, kind: str, digits_task: evo.Task) -> None:
        """What was under way is dropped: a later call yields its own outcomes alone."""

        def wait(candidate: evo.Candidate) -> dict[str, float]:
            time.sleep(0.2)
            return {"score": candidate.costs["params"]}

        some = blueprints(digits_task, 12)
        with self.evaluator(kind, workers=1).open(Job(digits_task, fitness_of(wait), 0, 1, None)) as session:
            first = session.run(some[:6])
            assert next(first).key in {blueprint.key for blueprint in some[:6]}
            first.close()  # type: ignore[attr-defined]
            assert {outcome.key for outcome in session.run(some[6:])} == {blueprint.key for blueprint in some[6:]}
            abandoned = session.run(some)
            next(abandoned)
        session.close()  # twice is once
        del abandoned

    def test_no_machine_is_to_be_had_alone(self, task: evo.Task, monkeypatch: pytest.MonkeyPatch) -> None:
        """A candidate that ran out of memory does not wait for ever for others than this search to leave."""
        monkeypatch.setattr(ray_session, "OCCUPIED", 1.0)

        def hoard(candidate: evo.Candidate) -> dict[str, float]:
            raise MemoryError

        class Other:
            def ready(self) -> None:
                pass

        other: Any = ray.remote(Other).options(num_cpus=1).remote()
        ray.get(other.ready.remote())
        try:
            with evo.RayEvaluator().open(Job(task, fitness_of(hoard), 0, 1, None)) as session:
                outcomes = list(session.run(blueprints(task, 2)))
        finally:
            ray.kill(other)
        assert {(outcome.status, outcome.tries) for outcome in outcomes} == {("failed", 2)}

    def test_workers_have_the_priority_of_their_caller(self) -> None:
        """Ray's own default lets a search stand still beside any other busy process."""

        def niceness(shared: None, item: int) -> int:
            return os.nice(item)

        assert evo.RayEvaluator().map(niceness, None, [0]) == [os.nice(0)]

    def test_job_that_cannot_be_loaded(self, task: evo.Task) -> None:
        class Unloadable:
            def __reduce__(self) -> tuple[Any, ...]:
                return exec, ("import no_such_module",)

        strange = Unloadable()

        def judge(candidate: evo.Candidate) -> dict[str, float]:
            return {"score": float(strange is not None)}

        job = Job(task, fitness_of(judge), 0, 1, None)
        with evo.RayEvaluator().open(job) as session, pytest.raises(EvaluatorError, match="no_such_module"):
            list(session.run(blueprints(task, 2)))


@pytest.mark.slow
def test_a_crash_that_is_seen_late_is_no_timeout(here: None, digits_task: evo.Task, tmp_path: Path) -> None:
    """The caller may be away for longer than an evaluation may take."""

    def die_once(candidate: evo.Candidate) -> dict[str, float]:
        mark = tmp_path / candidate.blueprint.key
        if not mark.exists():
            mark.touch()
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"score": 1.0}

    evaluator = evo.RayEvaluator(timeout=3.0)
    quick, slow = blueprints(digits_task, 2)
    (tmp_path / quick.key).touch()
    with evaluator.open(Job(digits_task, fitness_of(die_once), 0, 1, 3.0)) as session:
        session.submit([quick, slow])
        outcomes = session.receive()
        time.sleep(8)
        while len(outcomes) < 2:
            outcomes += session.receive()
    assert {outcome.key: (outcome.status, outcome.tries) for outcome in outcomes} == {
        quick.key: ("ok", 1),
        slow.key: ("ok", 2),
    }


def fitness_of(function: Callable[[evo.Candidate], dict[str, float]]) -> Fitness:
    return evo.fitness(maximize="score")(function)
