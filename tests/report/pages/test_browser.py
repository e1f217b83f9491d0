"""The pages as a reader sees them: in headless Chromium, at desktop and phone width, light and dark."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bm.report import compare, report, report_grid
from tests.report import grids
from tests.report.conftest import SETTINGS, Fixture

pytestmark = pytest.mark.browser

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
MARKS = "path, rect, circle, use, polyline, polygon"
EMPTY_FIGURES = f"""() => [...document.querySelectorAll('figure svg')].filter(svg => {{
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('{MARKS}')].filter(m => {{
    const style = getComputedStyle(m), size = m.getBoundingClientRect();
    return !m.closest('defs') && (style.fill !== 'none' || style.stroke !== 'none') && size.width + size.height > 0;
  }});
  return box.width < 40 || box.height < 20 || marks.length < 3 || !svg.querySelector('text');
}}).map(svg => svg.getAttribute('aria-label'))"""
BARS = """() => [...document.querySelectorAll('#costs figure:nth-of-type(2) svg path')]
  .filter(p => getComputedStyle(p).fill === getComputedStyle(document.querySelector('.dot.mixture')).backgroundColor)
  .map(p => p.getBoundingClientRect().width)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(experiment: Fixture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    report(experiment.subjects, experiment.artefacts, SETTINGS, folder / "run")
    compare({"seed 1": folder / "run" / "results.json"}, folder / "all")
    grids.curve(folder)
    report_grid(folder, "lambda", None, grids.PRICES, folder / "grid", None)
    homes = {"run": folder / "run" / "report", "comparison": folder / "all", "grid": folder / "grid"}
    return {name: home / "index.html" for name, home in homes.items()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "comparison", "grid"])
def test_page_shows_whole_figures_and_never_overflows(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(pages[name].as_uri())
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.querySelectorAll('figure svg').length") > 0
    assert page.evaluate(EMPTY_FIGURES) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


OUTSIDE = """width => [...document.querySelectorAll('main *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && !e.closest('.scroll') && !e.closest('pre') && (box.right > width + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 120))"""
COLUMN = "place => [...document.querySelectorAll('#models tbody tr')].map(row => row.cells[place].dataset.value)"


@pytest.mark.parametrize("width", [1280, 390])
def test_a_grid_is_sorted_by_mouse_and_by_keyboard_and_nothing_overflows(
    browser: Any, pages: dict[str, Path], width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(pages["grid"].as_uri())
    assert page.evaluate(OUTSIDE, width) == []
    heads = page.locator("#models thead th")
    names = [text.strip() for text in heads.all_inner_texts()]
    mean, lam = names.index("mean"), names.index("lam")
    heads.nth(mean).locator("button").click()
    means = [float(value) for value in page.evaluate(COLUMN, mean)]
    assert means == sorted(means, reverse=True)
    assert heads.nth(mean).get_attribute("aria-sort") == "descending"
    heads.nth(lam).locator("button").focus()
    for way in (True, False):
        page.keyboard.press("Enter")
        shown = page.evaluate(COLUMN, lam)
        numbers = [float(value) for value in shown if value]
        assert numbers == sorted([0, 0.5, 1.5, 3, 6], reverse=way)
        assert shown[len(numbers) :] == [""] * 5, "what has no such setting comes last"
    assert heads.nth(mean).get_attribute("aria-sort") is None
    page.close()


def test_figures_follow_the_colour_scheme(browser: Any, pages: dict[str, Path]) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(pages["run"].as_uri())
        colours.add(page.evaluate("getComputedStyle(document.querySelector('#scores figure svg text')).fill"))
        assert len(page.evaluate(BARS)) == 2, "the mixture's own time and its total, in the mixture's colour"
        page.close()
    assert len(colours) == 2
