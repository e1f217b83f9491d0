"""The page of a folder of traces: whole, inert whatever a trace says, and of use to its reader."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.distill.traces import TRACE
from bm.errors import UserError
from bm.report import browse
from bm.report.figures.drawing import LIGHT
from bm.report.findings.traces import browse as read
from bm.store import Artefact, Store
from tests.conftest import Bm
from tests.report.pages.test_browser import EMPTY_FIGURES, browser  # noqa: F401  # a fixture
from tests.report.pages.test_html import Outline

HOSTILE = (
    '</script><script>document.title = "hacked"</script><img src=x onerror="document.title = \'hacked\'"><!-- <script>'
)
LONGEST_FIRST = r"""() => {
  const lengths = [...document.querySelectorAll('.about')]
    .map(line => Number(line.textContent.match(/([\d,]+) characters/)[1].replace(',', '')));
  return lengths.length === 10 && lengths.every((length, at) => at === 0 || length <= lengths[at - 1]);
}"""
REASONS = ("wrong answer", "unclosed reasoning", HOSTILE)


def trace(number: int, reason: str = "") -> dict[str, str]:
    domain = ("math", "coding")[number % 2]
    thought = f"{HOSTILE} step {number}, " + "and so on, " * (number % 37) + ("needle " if number == 7 else "")
    response = f"<think>\n{thought}" + (
        "" if reason == "unclosed reasoning" else f"\n</think>\n\nIt is {number}. {HOSTILE}"
    )
    about = {"id": f"{number:016x}", "domain": domain, "source": f"set <{number % 3}>", "system": ""}
    asked = {"prompt": f"What is {number}?", "answer": str(number), "verifier": "math"}
    row = about | asked | {"response": response, "metadata": json.dumps({"level": HOSTILE})}
    return row | ({"reason": reason} if reason else {})


def write(folder: Path, kept: int, rejected: int) -> dict[str, Any]:
    rows = [trace(i) for i in range(kept)]
    others = [trace(kept + i, REASONS[i % len(REASONS)]) for i in range(rejected)]
    for name, columns, of in (("traces", TRACE, rows), ("rejected", (*TRACE, "reason"), others)):
        table = pa.table({column: pa.array([row[column] for row in of], pa.string()) for column in columns})
        pq.write_table(table, folder / f"{name}.parquet")
    reasons = Counter(row["reason"] for row in others)
    return {"asked": kept + rejected, "answered": kept + rejected, "verified": kept, "kept": kept, "duplicates": 0,
            "rejected": reasons,
            "teacher": {"engine": "openai", "model": "r1", "tokens": 12345, "cost": 0.5}}  # fmt: skip


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    store = Store(tmp_path_factory.mktemp("store"))
    return store.make("distill", "math train", {}, [], [], lambda work: write(work, 150, 60))


@pytest.fixture(scope="module")
def page(artefact: Artefact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    browse(artefact.path, 1000, folder)
    return folder / "index.html"


def data(page: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(
        re.findall(r'<script[^>]*id="data">(.*?)</script>', page.read_text(), re.DOTALL)[0]
    )
    return rows


def test_the_page_holds_every_trace_as_it_is(page: Path, artefact: Artefact) -> None:
    shown = data(page)
    for verdict, name in (("kept", "traces"), ("rejected", "rejected")):
        rows = pq.read_table(artefact.path / f"{name}.parquet").to_pylist()
        assert [t for t in shown if t["verdict"] == verdict] == [
            {"reason": "", **row, "verdict": verdict} for row in rows
        ]
    text = page.read_text()
    assert "150 traces kept, 60 rejected" in text
    assert "Teacher: r1, 12,345 tokens, cost 0.50." in text


def test_nothing_in_a_trace_is_markup(page: Path) -> None:
    outline = Outline(page.read_text())
    assert outline.open == []
    assert Counter(outline.tags)["script"] == 2, "the data and the page's own"
    assert "img" not in outline.tags
    assert not re.search(
        r"https?:|@import|url\((?!#)", re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    )


def test_a_large_set_is_drawn_evenly_always_the_same_and_the_page_says_so(tmp_path: Path) -> None:
    write(tmp_path, 3000, 1000)
    some = read(tmp_path, 400)
    assert some == read(tmp_path, 400)
    assert (len(some.shown), some.total, some.funnel) == (400, 4000, None)
    kept = sum(t["verdict"] == "kept" for t in some.shown)
    assert 260 < kept < 340
    more = read(tmp_path, 800)
    assert {t["id"] for t in some.shown} < {t["id"] for t in more.shown}
    assert [t["id"] for t in some.shown] == sorted(t["id"] for t in some.shown)
    browse(tmp_path, 400, tmp_path / "page")
    text = (tmp_path / "page/index.html").read_text()
    assert "This page holds 400 of all 4,000" in text
    assert "3,000 traces kept, 1,000 rejected" in text


def test_what_is_no_folder_of_traces_is_one_line(tmp_path: Path, bm: Bm) -> None:
    said = bm("report", "traces=nowhere", cwd=tmp_path)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "nowhere holds no traces.parquet" in said.stderr
    pq.write_table(pa.table({"id": ["a"], "prompt": ["b"]}), tmp_path / "traces.parquet")
    with pytest.raises(UserError, match="no column domain, source"):
        read(tmp_path, 10)
    (tmp_path / "traces.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path, 10)


def test_the_command_writes_the_page(tmp_path: Path, bm: Bm) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine", 3, 0)
    said = bm("report", "traces=mine", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "3 traces kept, 0 rejected" in (tmp_path / "outputs/report/traces-mine/index.html").read_text()


def open_page(browser: Any, page: Path, **options: Any) -> tuple[Any, list[str]]:  # noqa: F811
    opened = browser.new_page(**options)
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request", lambda request: complaints.extend([request.url] * (not request.url.startswith(("file:", "data:"))))
    )
    opened.goto(page.as_uri())
    return opened, complaints


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_stays_inert(browser: Any, page: Path, width: int, scheme: str) -> None:  # noqa: F811
    opened, complaints = open_page(browser, page, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for summary in opened.query_selector_all("summary")[:10]:
        summary.click()
    assert complaints == []
    assert "hacked" not in opened.title()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.evaluate(EMPTY_FIGURES) == []
    assert opened.locator("article").count() == 20
    assert HOSTILE in opened.locator("article pre").nth(1).text_content()
    opened.close()


@pytest.mark.browser
def test_search_filters_and_pages_find_what_they_say(browser: Any, page: Path) -> None:  # noqa: F811
    opened, complaints = open_page(browser, page)

    def shows(line: str) -> None:
        """Waits for the page to say so: typing is answered after a pause, and a busy machine takes its time."""
        opened.wait_for_function("line => document.querySelector('#found').textContent === line", arg=line)

    shows("1 to 20 of 210")
    opened.click("#next")
    shows("21 to 40 of 210")
    opened.fill("input[name=text]", "NEEDLE")
    shows("1 to 1 of 1")
    assert opened.locator("article details").first.get_attribute("open") is not None, "the match is in the folded part"
    assert opened.locator("mark").first.text_content() == "needle"
    opened.fill("input[name=text]", "no such thing")
    shows("No trace matches.")
    opened.fill("input[name=text]", "")
    opened.select_option("select[name=verdict]", "rejected")
    shows("1 to 20 of 60")
    opened.select_option("select[name=reason]", "unclosed reasoning")
    shows("1 to 20 of 20")
    assert "never closed" in str(opened.locator("article summary").first.text_content())
    opened.select_option("select[name=domain]", "math")
    shows("1 to 10 of 10")
    opened.fill("input[name=from]", "100000")
    shows("No trace matches.")
    opened.fill("input[name=from]", "")
    shows("1 to 10 of 10")
    opened.select_option("select[name=order]", "long")
    opened.wait_for_function(LONGEST_FIRST)
    assert complaints == []
    opened.close()


@pytest.mark.browser
def test_verdicts_wear_their_colours(browser: Any, page: Path) -> None:  # noqa: F811
    opened, _ = open_page(browser, page, color_scheme="light")
    colour = opened.evaluate("getComputedStyle(document.querySelector('article.kept')).borderLeftColor")
    assert colour == "rgb({}, {}, {})".format(*(int(LIGHT["expert"][i : i + 2], 16) for i in (1, 3, 5)))
    opened.close()
