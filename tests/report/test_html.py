import base64
import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evo
from evo.compare import names_of
from evo.errors import EvaluatorError, RunFolderError, SettingsError
from evo.folder import claimed
from evo.report import figures
from evo.report.comparison import comparison, differences
from evo.report.html import embedded, watch_report, write_comparison, write_report
from evo.report.look import Look
from evo.report.members import members
from evo.status import RunStatus
from evo.testing import small_task
from tests.report.pages import EVIL, Page, judged, make_unfinished, search


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return search(tmp_path_factory.mktemp("html") / "my run")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return search(tmp_path_factory.mktemp("html") / "my run", seed=1, generations=2)


@pytest.fixture(scope="module")
def page(run: evo.Run, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(run, tmp_path_factory.mktemp("page") / "new" / "report.html"))


def data_of(page: Page) -> Any:
    (content,) = [content for attributes, content in page.scripts if attributes.get("id") == "data"]
    return json.loads(content)


def unpacked(packed: Mapping[str, str]) -> Any:
    return np.frombuffer(base64.b64decode(packed["bdata"]), f"<{packed['dtype']}")


class TestSafety:
    def test_a_page_loads_nothing(self, page: Page) -> None:
        assert not page.attributes("script", "src")
        assert all(link.startswith(("#", "data:")) for tag in ("a", "link") for link in page.attributes(tag, "href"))
        assert not {"img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}

    def test_the_browser_is_told_to_run_our_two_scripts_alone(self, page: Page) -> None:
        (policy,) = [text for text in page.attributes("meta", "content") if "default-src" in text]
        assert "default-src 'none'" in policy
        run_able = [content for attributes, content in page.scripts if attributes.get("type") is None]
        digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in run_able]
        assert len(digests) == 2
        allowed = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert allowed == "script-src " + " ".join(f"'sha256-{digest}'" for digest in digests)

    def test_text_of_a_run_stays_text(self, page: Page) -> None:
        assert len(page.scripts) == 3
        assert not [value for _, attributes in page.tags for name, value in attributes.items() if name.startswith("on")]
        assert page.text.count(EVIL) >= 2, "the reason, and the log"
        failed = [failure for failure in data_of(page)["run"]["people"]["failure"] if failure]
        assert any(EVIL in failure["reason"] and EVIL in failure["log"] for failure in failed)
        assert "wi<d>th" in page.text

    def test_what_is_embedded_ends_no_script(self) -> None:
        text = embedded({"</script>": "<!-- & \u2028"})
        assert not set("<>&\u2028") & set(text)
        assert json.loads(text) == {"</script>": "<!-- & \u2028"}
        with pytest.raises(ValueError, match="JSON"):
            embedded([math.nan])


class TestContent:
    def test_summary(self, page: Page, run: evo.Run) -> None:
        history, best = run.history, run.best
        failed = int(((history["status"] != "ok") & ~history["cached"]).sum())
        for text in (
            "A network (96 training and 48 validation images) was searched",
            "the algorithm nsga2, with the encoding filter_bits over 26 filters in 3 coupling groups",
            "maximising wi<d>th first, of 3 objectives",
            f"{int((~history['cached']).sum())} evaluations ({failed} failed",
            f"has individual {best.name}, with an error of {best['error']:.2%}; the error of the original network is ",
            f"{failed} of {int((~history['cached']).sum())} evaluations failed",
            f"evo.Run({str(run.folder)!r}, task)",
            "The search was started from Python",
            'name = "nsga2"',
        ):
            assert text in page.text
        assert "evo export" not in page.text

    def test_the_originals_error_is_measured_if_there_is_a_task(self, run: evo.Run, tmp_path: Path) -> None:
        task = small_task()
        error = evo.error_rate(task.network.build(task.network.full), task.val)
        assert f"{error:.2%} (as it is, on the validation images)" in Page(write_report(run, tmp_path / "a.html")).text
        without = Page(write_report(evo.Run(run.folder), tmp_path / "b.html")).text
        assert "on the validation images" not in without

    def test_failures_by_reason(self, page: Page, run: evo.Run) -> None:
        history = run.history
        rows = history[(history["status"] != "ok") & ~history["cached"]]
        assert rows["reason"].nunique() == 2
        for reason, part in rows.groupby("reason"):
            assert f"{len(part)}×" in page.text
            assert str(reason) in page.text
        assert sorted(page.attributes("button", "data-choose")) == sorted(
            str(part.index[0]) for _, part in rows.groupby("reason")
        )

    def test_an_individual_has_its_layers(self, page: Page, run: evo.Run) -> None:
        found = data_of(page)["run"]
        people, count = found["people"], len(found["layers"]["names"])
        filters, weights = (unpacked(people[name]).reshape(-1, count) for name in ("filters", "weights"))
        assert people["bits"] is None
        for index, row in enumerate(people["id"]):
            table = run.layers(row).drop("total")
            assert table.index.tolist() == found["layers"]["names"]
            assert table["kept_filters"].tolist() == filters[index].tolist()
            assert table["kept_weights"].tolist() == weights[index].tolist()
            assert table["filters"].tolist() == found["layers"]["filters"]

    def test_fronts_over_any_two_columns(self, page: Page, run: evo.Run) -> None:
        found = data_of(page)["run"]
        names, ids = [axis["name"] for axis in found["axes"]], found["people"]["id"]
        assert names[:3] == found["all"] == ["wi<d>th", "error", "params"]
        for (i, first), (j, second) in combinations(enumerate(names), 2):
            shown = [ids[index] for index in found["fronts"][f"{i},{j}"]]
            assert set(shown) == set(run.pareto([first, second]).index)
        assert {ids[index] for index in found["fronts"]["all"]} == set(run.pareto(found["all"]).index)
        for name in names:
            expected = run.history.loc[ids, name].to_numpy(dtype=float)
            np.testing.assert_array_equal(unpacked(found["people"]["columns"][name]), expected)

    def test_bits(self, tmp_path: Path) -> None:
        def small(candidate: evo.Candidate) -> Mapping[str, float]:
            return {"bytes": candidate.costs["bytes"]}

        quantised = evo.search(
            small_task(),
            encoding=evo.LayerPolicy(),
            fitness=evo.fitness(minimize="bytes")(small),
            algorithm=evo.RandomSearch(evaluations=6),
            evaluator=evo.LocalEvaluator(workers=0),
            out=tmp_path / "run",
        )
        found = members(Look.at(quantised), np.arange(2), "bytes", "params")
        count = len(found["layers"]["names"])
        bits = unpacked(found["people"]["bits"]).reshape(-1, count)
        assert bits.min() < 32
        for row, mine in zip(found["people"]["id"], bits, strict=True):
            assert quantised.layers(row).drop("total")["bits"].tolist() == mine.tolist()

    def test_of_many_the_page_says_how_many_it_draws(
        self, run: evo.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured = len(run.history.query("status == 'ok' and not cached"))
        monkeypatch.setattr(figures, "CLOUD", 10)
        pages = [Page(write_report(run, tmp_path / f"{name}.html")) for name in "ab"]
        assert f"Of the {measured} measured individuals, 10 at even distances" in pages[0].text
        drawn = [data_of(page)["run"]["cloud"]["id"] for page in pages]
        assert len(drawn[0]) == 10
        assert drawn[0] == drawn[1]
        found = data_of(pages[0])["run"]
        assert len(found["fronts"]["all"]) == len(run.pareto()), "the front is of all"

    def test_a_front_of_many_is_thinned_between_its_ends(self, run: evo.Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(figures, "FRONT", 5)
        found = members(Look.at(run), np.empty(0, np.int64), "params", "error")
        front = run.pareto().index.tolist()
        assert len(front) > 5
        ids = [found["people"]["id"][index] for index in found["fronts"]["all"]]
        assert len(ids) == 5
        assert [ids[0], ids[-1]] == [front[0], front[-1]]
        assert found["sizes"]["all"] == len(front)


class TestFigures:
    def test_the_best_so_far(self, run: evo.Run) -> None:
        look = Look.at(run)
        history = run.history
        done = (~history["cached"]).cumsum()
        for objective in run.objectives:
            ok = history["status"] == "ok"
            signed = (history[objective.name] * objective.weight).where(ok)
            expected = signed.cummax()[ok & ~history["cached"]].groupby(done).last() * objective.weight
            evaluations, best = figures.best_so_far(look, objective)
            assert best.tolist() == expected[evaluations].tolist()
            assert evaluations[-1] == expected.index[-1]
            line = figures.convergence_figure(look, objective).data[-1]
            assert list(line.y) == best.tolist()

    def test_hypervolume_of_two_objectives_is_the_area_of_steps(self, run: evo.Run, other: evo.Run) -> None:
        looks = [Look.at(one, ["error", "params"]) for one in (run, other)]
        values = [
            one.history.query("status == 'ok' and not cached")[["error", "params"]].to_numpy() for one in (run, other)
        ]
        together = np.concatenate(values)
        ideal, worst = together.min(0), together.max(0)
        ideal[1], worst[1] = 0, Look.at(run).original["params"]
        for (_, volumes), mine in zip(figures.hypervolumes(looks), values, strict=True):
            unit = (mine - ideal) / (worst - ideal)
            area, y = 0.0, 1.0
            for point in unit[np.lexsort(unit.T[::-1])]:
                area += (1 - point[0]) * max(0.0, y - point[1])
                y = min(y, point[1])
            assert volumes[-1] == pytest.approx(area)
            assert (np.diff(volumes) >= 0).all()

    def test_hypervolumes_of_too_few_or_many_objectives(self, run: evo.Run) -> None:
        with pytest.raises(SettingsError, match=r"^objectives: a hypervolume takes 2 to 4 of them, got 1$"):
            figures.hypervolumes([Look.at(run, ["error"])])

    def test_widths(self, run: evo.Run) -> None:
        names, generations, shares = figures.layer_widths(Look.at(run))
        assert names == ["0", "4", "9"], "the classifier's filters stay"
        for column, generation in enumerate(generations):
            rows = run.history.query(f"generation == {generation}").index
            kept = np.array([run.counts(row) for row in rows]) / [6, 8, 12]
            np.testing.assert_allclose(shares[:, column], kept.mean(0))

    def test_the_front_as_a_figure_for_a_notebook(self, run: evo.Run) -> None:
        cloud, front = figures.front_figure(Look.at(run), "params", "error").data
        assert set(front.customdata) == set(run.pareto(["error", "params"]).index)
        assert len(cloud.x) == len(run.history.query("status == 'ok' and not cached"))

    def test_an_asynchronous_search_is_in_the_order_of_its_results(self, tmp_path: Path) -> None:
        found = evo.search(
            small_task(),
            encoding=evo.FilterBits(),
            fitness=judged,
            algorithm=evo.NSGA2(generations=3, population=6, asynchronous=True),
            evaluator=evo.LocalEvaluator(workers=0, retries=0),
            out=tmp_path / "run",
        )
        look = Look.at(found)
        assert look.frame["turn"].tolist() == sorted(found.history["turn"])
        for row, counts in zip(look.frame.index, look.counts, strict=True):
            assert found.counts(row).tolist() == counts.tolist()


class TestFewResults:
    def test_none(self, tmp_path: Path) -> None:
        @evo.fitness(minimize="error")
        def interrupted(candidate: evo.Candidate) -> Mapping[str, float]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "run", fitness=interrupted)
        text = Page(write_report(evo.Run(tmp_path / "run"), tmp_path / "a.html")).text
        assert "No evaluation has finished yet" in text
        assert "There is no result yet." in text
        assert "Nothing has been evaluated yet." in text

    def test_only_failures(self, tmp_path: Path) -> None:
        @evo.fitness(minimize="error")
        def broken(candidate: evo.Candidate) -> Mapping[str, float]:
            raise ValueError("always")

        with pytest.raises(EvaluatorError):
            search(tmp_path / "run", fitness=broken)
        page = Page(write_report(evo.Run(tmp_path / "run"), tmp_path / "a.html"))
        assert "No evaluation has succeeded, so there is no front to show." in page.text
        assert "ValueError: always" in page.text
        assert "front" not in page.attributes("section", "id")

    def test_a_single_point(self, tmp_path: Path) -> None:
        single = evo.search(
            small_task(),
            encoding=evo.FilterBits(),
            fitness=evo.fitness(minimize="loss")(lambda candidate: {"loss": 1.0}),
            algorithm=evo.RandomSearch(evaluations=1),
            evaluator=evo.LocalEvaluator(workers=0),
            out=tmp_path / "run",
        )
        page = Page(write_report(single, tmp_path / "a.html"))
        assert data_of(page)["run"]["fronts"]["all"] == [0]
        assert "1 evaluation (none failed)" in page.text


class TestWatch:
    def test_until_the_search_has_ended(self, run: evo.Run, tmp_path: Path) -> None:
        stopped = search(tmp_path / "run", generations=1).folder
        make_unfinished(stopped)
        path, seen = tmp_path / "report.html", []
        with ExitStack() as search_runs:
            search_runs.enter_context(claimed(stopped))

            def written(found: RunStatus) -> None:
                page = Page(path)
                assert page.tags[0][0] == "html"
                assert "This file is complete" in page.text
                seen.append((found.state, page.attributes("p", "data-refresh")))
                if len(seen) == 2:
                    search_runs.close()

            assert watch_report(stopped, path, 0.05, written=written) == path
        assert seen == [("running", ["0.05"]), ("running", ["0.05"]), ("stopped", [])]
        assert [entry.name for entry in tmp_path.glob("report*")] == ["report.html"]

    def test_interrupted_it_leaves_a_page_that_stays(self, tmp_path: Path) -> None:
        stopped = search(tmp_path / "run", generations=1).folder
        make_unfinished(stopped)
        path = tmp_path / "report.html"

        def interrupt(found: RunStatus) -> None:
            assert Page(path).attributes("p", "data-refresh") == ["60"]
            raise KeyboardInterrupt

        with claimed(stopped), pytest.raises(KeyboardInterrupt):
            watch_report(stopped, path, 60, written=interrupt)
        page = Page(path)
        assert not page.attributes("p", "data-refresh")
        assert "The search was running when this page was written" in page.text

    def test_of_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match="not a run folder"):
            watch_report(tmp_path, tmp_path / "a.html", 1)


class TestComparison:
    def test_runs_side_by_side(self, run: evo.Run, other: evo.Run, tmp_path: Path) -> None:
        page = Page(write_comparison([run, other], tmp_path / "compare.html", objectives=["error", "params"]))
        assert "2 runs compared" in page.text
        names = names_of([run.folder, other.folder])
        assert len(set(names)) == 2, "equal names of folders are told apart by their paths"
        assert all(name in page.text for name in names)
        for one in (run, other):
            assert f"{int(one.best['params']):,} (" in page.text
        drawn = data_of(page)["figures"]["joint"]["data"]
        assert [set(unpacked(trace["customdata"]).tolist()) for trace in drawn] == [
            set(one.pareto(["error", "params"]).index) for one in (run, other)
        ]
        assert "algorithm.generations" in page.text
        assert not page.attributes("script", "src")

    def test_differences_of_settings(self, run: evo.Run, other: evo.Run) -> None:
        assert differences([run, other]) == [
            ("seed", ["0", "1"]),
            ("rounds", ["3", "2"]),
            ("algorithm.generations", ["3", "2"]),
        ]
        assert differences([run, run]) == []

    def test_joint_front_counts(self, run: evo.Run, other: evo.Run) -> None:
        rows = comparison([run, other], ["error", "params"])["summary"]
        assert [row["joint"] for row in rows] == joint_front(run, other)

    def test_runs_that_do_not_belong_together(self, run: evo.Run, tmp_path: Path) -> None:
        loss = search(tmp_path / "loss", fitness=evo.fitness(minimize="loss")(lambda candidate: {"loss": 1.0}))
        with pytest.raises(SettingsError) as refused:
            write_comparison([run, loss], tmp_path / "compare.html")
        assert str(refused.value) == (
            f"runs: {loss.folder} has other objectives (loss minimised) than {run.folder} (wi<d>th maximised, error "
            "minimised, params minimised); runs are compared by the same ones"
        )
        with pytest.raises(SettingsError, match="at least two to compare, got 1"):
            write_comparison([run], tmp_path / "compare.html")
        assert not (tmp_path / "compare.html").exists()


def joint_front(*runs: evo.Run) -> list[int]:
    """Count, the slow way, whom nobody in any run beats."""
    values = [one.history.query("status == 'ok' and not cached")[["error", "params"]].to_numpy() for one in runs]
    together = np.concatenate(values)
    return [
        sum(not ((together <= point).all(1) & (together < point).any(1)).any() for point in mine) for mine in values
    ]


@pytest.mark.parametrize("where", ["folder", "file/report.html"])
def test_places_that_cannot_be_written(run: evo.Run, tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"is a folder, expected a file name|cannot be written"):
        write_report(run, tmp_path / where)


def test_unknown_objectives(run: evo.Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown objective 'err'; did you mean 'error'"):
        write_report(run, tmp_path / "report.html", objectives=["err"])
