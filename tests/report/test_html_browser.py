"""Pages in a real browser: one browser and one small search for all tests."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import evo
from evo.folder import claimed
from evo.report.html import watch_report, write_comparison, write_report
from evo.status import RunStatus
from tests.report.pages import make_unfinished, search

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs one of the browsers {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[evo.Run]:
    folder = tmp_path_factory.mktemp("browser")
    return [search(folder / name, seed, generations=2) for seed, name in enumerate(("first", "second"))]


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """One tab for all tests; whatever a page complains about, asks the network for, or runs that it should not, fails them."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else complaints.append(asked.url),
    )
    yield page
    assert complaints == []
    context.close()


@pytest.fixture(scope="module")
def report(runs: list[evo.Run]) -> Path:
    return write_report(runs[0], runs[0].folder / "report.html")


@pytest.fixture
def page(tab: Page, report: Path) -> Page:
    """The report, opened anew if a test before has left it."""
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(color_scheme="light")
    if tab.url.partition("#")[0] != report.as_uri():
        tab.goto(report.as_uri())
    return tab


def until(page: Page, condition: str) -> None:
    """Wait for a JavaScript expression to hold; playwright's own way runs text, which the page forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def point(page: Page, row: int) -> tuple[float, float]:
    """Return where on the screen the front's point of an individual is."""
    page.locator("#plot-front").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """(row) => {
            const plot = document.getElementById("plot-front"), front = plot.data[1], index = front.customdata.indexOf(row);
            const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
            return [box.x + xaxis._offset + xaxis.d2p(front.x[index]), box.y + yaxis._offset + yaxis.d2p(front.y[index])];
        }""",
        row,
    )
    return float(x), float(y)


def rows(page: Page) -> list[int]:
    return [int(str(row.get_attribute("data-id"))) for row in page.locator("#people tbody tr").all()]


def shown_layers(page: Page) -> list[list[str]]:
    table: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#panel tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return table


def expected_layers(run: evo.Run, row: int) -> list[list[str]]:
    return [
        [
            str(name),
            f"{layer['kept_filters']:,.0f} of {layer['filters']:,.0f}",
            f"{layer['kept_weights']:,.0f} ({layer['r_c']:.1f}×)",
        ]
        for name, layer in run.layers(row).drop("total").iterrows()
    ]


def test_the_best_is_chosen_at_first(page: Page, runs: list[evo.Run]) -> None:
    best = int(str(runs[0].best.name))
    assert page.locator("#panel-title").inner_text() == f"Individual {best}"
    assert shown_layers(page) == expected_layers(runs[0], best)


def test_a_click_on_a_point_shows_its_layers(page: Page, runs: list[evo.Run]) -> None:
    page.select_option("#by", "axes")
    page.select_option("#axis-y", label="error")
    page.select_option("#axis-x", label="params")
    front = runs[0].pareto(["error", "params"]).index.tolist()
    assert page.evaluate("document.getElementById('plot-front').data[1].customdata.toSorted()") == sorted(
        front, key=str
    )
    for row in (front[0], front[-1]):
        page.mouse.click(*point(page, row))
        until(page, f"document.getElementById('panel-title').textContent === 'Individual {row}'")
        assert shown_layers(page) == expected_layers(runs[0], row)
        assert page.url.endswith(f"#id-{row}")
        ring = page.locator("#plot-front .shapelayer path").last.bounding_box()
        assert ring is not None
        x, y = point(page, row)
        assert ring["x"] + ring["width"] / 2 == pytest.approx(x, abs=2)
        assert ring["y"] + ring["height"] / 2 == pytest.approx(y, abs=2)


def test_rows_of_the_table(page: Page, runs: list[evo.Run]) -> None:
    page.select_option("#by", "all")
    front = runs[0].pareto()
    assert sorted(rows(page)) == sorted(front.index)
    row = rows(page)[1]
    page.locator(f"#people tr[data-id='{row}'] td").nth(2).click()
    assert page.locator("#panel-title").inner_text() == f"Individual {row}"
    assert shown_layers(page) == expected_layers(runs[0], row)
    assert page.locator("#people tr[aria-current]").get_attribute("data-id") == str(row)
    other = rows(page)[0]
    page.locator(f"#people tr[data-id='{other}'] button").focus()
    page.keyboard.press("Enter")
    assert page.locator("#panel-title").inner_text() == f"Individual {other}"


def test_sorting_by_the_keyboard_and_filtering(page: Page, runs: list[evo.Run]) -> None:
    page.select_option("#by", "all")
    front = runs[0].pareto()
    head = page.locator("#people th", has_text="params")
    for ascending in (True, False):
        head.locator("button").focus()
        page.keyboard.press("Enter")
        sizes = front.loc[rows(page), "params"].tolist()
        assert sizes == sorted(front["params"], reverse=not ascending)
        assert head.get_attribute("aria-sort") == ("ascending" if ascending else "descending")
    middle = int(front["params"].median())
    page.fill("#filter", f"params <= {middle} mutation")
    expected = front[(front["params"] <= middle) & (front["operator"].str.contains("mutation"))].index
    assert sorted(rows(page)) == sorted(expected)
    assert page.locator("#shown").inner_text() == f"{len(expected)} of {len(front)} rows"
    page.fill("#filter", "wi<d>th > 10")
    assert sorted(rows(page)) == sorted(front[front["wi<d>th"] > 10].index)
    page.fill("#filter", "")


def test_a_failed_individual_has_its_log(page: Page) -> None:
    page.locator("[data-choose]").first.click()
    assert "failed" in page.locator("#panel dl").inner_text()
    assert page.locator("#panel pre").count() == 1
    assert len(shown_layers(page)) == 4


def test_an_objective_of_the_course_is_chosen(page: Page) -> None:
    assert [element.is_visible() for element in page.locator("[data-choice]").all()] == [True, False, False]
    page.select_option("#objective", label="error")
    assert [element.is_visible() for element in page.locator("[data-choice]").all()] == [False, True, False]
    assert page.locator("#plot-convergence-1 .scatterlayer .trace").count() == 4


def test_on_a_phone_nothing_reaches_beyond_the_screen(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    until(page, "document.querySelector('#plot-front .main-svg').getBoundingClientRect().width < 390")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_dark_and_light(page: Page) -> None:
    ink = "getComputedStyle(document.querySelector('#plot-front .xtick text')).fill"
    look = f"[getComputedStyle(document.body).backgroundColor, {ink}]"
    light = page.evaluate(look)
    page.emulate_media(color_scheme="dark")
    until(page, f"{look}[1] !== {light[1]!r}")
    dark = page.evaluate(look)
    assert dark[0] != light[0]
    page.emulate_media(color_scheme="light")
    until(page, f"{look}[1] === {light[1]!r}")


def test_everything_that_can_be_used_has_a_name(page: Page) -> None:
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, select, input, [role=img], [role=region]")].filter((element) =>
            !(element.textContent.trim() || element.getAttribute("aria-label") || element.labels?.length)
        ).map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    assert page.evaluate("[...document.querySelectorAll('h1')].length") == 1


def test_comparison(tab: Page, runs: list[evo.Run], tmp_path: Path) -> None:
    tab.goto(write_comparison(runs, tmp_path / "compare.html", objectives=["error", "params"]).as_uri())
    assert tab.locator("h1").inner_text() == "2 runs compared"
    assert tab.locator("#plot-joint .scatterlayer .trace").count() == 2
    assert tab.locator("#plot-hypervolume .legendtext").all_text_contents() == ["first", "second"]
    tab.set_viewport_size({"width": 390, "height": 844})
    until(tab, "document.querySelector('#plot-joint .main-svg').getBoundingClientRect().width < 390")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_a_watched_page_loads_itself_again_and_keeps_its_state(tab: Page, tmp_path: Path) -> None:
    folder, path = search(tmp_path / "run", generations=1).folder, tmp_path / "report.html"
    make_unfinished(folder)
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.clock.install()
    seen: list[Any] = []

    def look_and_interrupt(found: RunStatus) -> None:
        tab.goto(path.as_uri())
        assert found.state == "running"
        assert "loads itself again every 30 s" in tab.locator("#watch").inner_text()
        tab.select_option("#by", "axes")
        tab.select_option("#axis-x", label="macs")
        tab.fill("#filter", "macs > 1")
        tab.locator("#people tbody tr").last.click()
        tab.locator("#h-course").evaluate("(heading) => { heading.scrollIntoView(); document.activeElement.blur(); }")
        seen.extend([tab.locator("#panel-title").inner_text(), tab.evaluate("scrollY")])
        raise KeyboardInterrupt

    with claimed(folder), pytest.raises(KeyboardInterrupt):
        watch_report(folder, path, 30, written=look_and_interrupt)
    assert tab.locator("#watch").count() == 1
    with tab.expect_navigation():
        tab.clock.fast_forward(30_500)
    title, scrolled = seen
    assert tab.locator("#watch").count() == 0
    assert tab.locator("#panel-title").inner_text() == title
    assert tab.locator("#axis-x").evaluate("(menu) => menu.selectedOptions[0].text") == "macs"
    assert tab.locator("#filter").input_value() == "macs > 1"
    until(tab, f"Math.abs(scrollY - {scrolled}) < 200")
