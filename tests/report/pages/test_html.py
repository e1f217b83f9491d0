import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from lxml import etree

from bm.report import Settings, compare, report
from bm.report.figures.drawing import DARK, LIGHT
from bm.report.figures.plots import STRONGEST
from bm.store import Store
from tests.report.conftest import RUN, SETTINGS, SKILLS, TASKS, Fixture, make

VOID = {"input", "meta", "link", "br"}
HOSTILE = 'linear </svg><script>alert(1)</script> "&" $\\frac{1}{0}$ <!-- --> {{ 7 * 7 }}'


class Outline(HTMLParser):
    """Notes unbalanced tags, ids and addresses of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "action", "data", "srcset"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write(fixture: Fixture, folder: Path, settings: Settings = SETTINGS) -> str:
    report(fixture.subjects, fixture.artefacts, settings, folder)
    return (folder / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def page(experiment: Fixture, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(experiment, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def comparison(experiment: Fixture, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    write(experiment, folder / "one")
    compare({"seed 1": folder / "one" / "results.json", "seed <2>": folder / "one" / "results.json"}, folder)
    return (folder / "index.html").read_text()


@pytest.mark.parametrize("which", ["page", "comparison"])
def test_pages_are_well_formed_and_ask_for_nothing(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    outline = Outline(text)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids)), "ids are unique, over all figures"
    assert all(address.startswith(("#", "data:,")) for address in outline.addresses)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert {address[1:] for address in outline.addresses if address.startswith("#")} <= set(outline.ids)
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        assert etree.fromstring(svg.replace("&nbsp;", " ")).tag == "svg"


def test_page_tells_the_whole_run(page: str) -> None:
    assert all(
        f'id="{section}"' in page
        for section in ("scores", "verdicts", "costs", "retention", "loss", "kept", "funnels", "lineage", "repeat")
    )
    assert all(name.replace("&", "&amp;") in page for name in (*SKILLS, *TASKS))
    assert RUN.command in page
    assert "order: all" in page
    assert page.count("<figure") == 3 + 3 + 3 + 5 + 4 + 6 + 1
    assert page.count("<caption>") == page.count("<table>") == 3


def test_same_run_gives_the_same_page(experiment: Fixture, page: str, tmp_path: Path) -> None:
    assert write(experiment, tmp_path) == page


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    skills = {"student": (0.3, 0.3, 0.3), "math": (0.6, 0.3, 0.3), HOSTILE: (0.6, 0.6, 0.6)}
    settings = Settings(HOSTILE, replace(RUN, command=HOSTILE), HOSTILE, 200, 0.95, SETTINGS.prices, {})
    text = write(make(Store(tmp_path / "store"), skills), tmp_path, settings)
    outline = Outline(text)
    assert outline.open == []
    assert "script" not in outline.tags
    assert "49" not in re.findall(r"<title>([^<]*)</title>", text)[0]
    assert "\\frac{1}{0}" in text


def test_a_run_of_only_a_student_has_a_page(tmp_path: Path) -> None:
    text = write(make(Store(tmp_path / "store"), {"student": (0.3, 0.3, 0.3)}), tmp_path)
    assert Outline(text).open == []
    assert 'id="verdicts"' not in text
    assert 'id="kept"' not in text


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_text_and_marks_stand_out(scheme: dict[str, str]) -> None:
    for name in ("ink", "muted", "student", "expert", "mixture", "merge"):
        assert contrast(scheme[name], scheme["surface"]) >= 4.5, name
    assert contrast(scheme["ink"], mixed(scheme["merge"], scheme["surface"], STRONGEST)) >= 4.5, (
        "text on the strongest cell"
    )


def contrast(colour: str, other: str) -> float:
    """WCAG 2 contrast ratio."""
    high, low = sorted((luminance(colour), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def mixed(colour: str, ground: str, share: float) -> str:
    pairs = zip(channels(colour), channels(ground), strict=True)
    return "#" + "".join(f"{round(255 * (share * c + (1 - share) * g)):02x}" for c, g in pairs)


def channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
