"""The site is built as `make docs` builds it, strictly: a broken link or anchor, or a page left out, ends it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from docs.generate import api
from tests.docs.blocks import HOME

pytestmark = pytest.mark.slow

LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "srcset"}
"""What a browser fetches by itself."""


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = dict(attributes)
        if tag in LOADS and of.get("rel") not in ("canonical", "next", "prev"):
            self.loaded += filter(None, [of.get(LOADS[tag])])
        if tag == "a":
            self.links += filter(None, [of.get("href")])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(HOME)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(HOME / "mkdocs.yml"), strict=True, site_dir=str(folder))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)  # strict: an Abort where anything was warned of
    return folder


def test_it_has_its_pages_and_asks_no_other_host(site: Path) -> None:
    pages = {file: Page(file.read_text()) for file in site.rglob("*.html")}
    assert len(pages) > 60
    assert not [address for page in pages.values() for address in page.loaded if re.match(r"(https?:)?//", address)]
    styles = [file.read_text() for file in site.rglob("*.css")]
    assert not [
        address for text in styles for address in re.findall(r"""url\((?!["']?data:)[^)]*""", text) if "//" in address
    ]


def test_generated_tables_lead_to_pages_that_exist(site: Path) -> None:
    """mkdocs checks the links of Markdown; these are written as HTML."""
    links = Page((site / "board.html").read_text()).links
    ours = {link.partition("#")[0] for link in links if "://" not in link} - {"", "."}
    assert ours and all((site / link).is_file() for link in ours)


def test_they_say_what_code_and_measurements_say(site: Path) -> None:
    text = {name: (site / f"{name}.html").read_text() for name in ("claims", "papers", "speed", "method/law")}
    assert "✗ refuted" in text["claims"] and "✓ supported" in text["claims"]
    assert "arxiv.org/abs/2306.01708" in text["papers"]
    assert "mergekit==0.1.5" in text["speed"] and "AMD EPYC" in text["speed"]
    assert "10 points of gain cost" in text["method/law"] and "{{" not in text["method/law"]
    settings = (site / "reference/settings.html").read_text()
    assert "branch.learning_rate" in settings and "by its content" in settings
    for name in api.PACKAGES:
        assert 'class="doc ' in (site / "api" / f"{name.replace('.', '-')}.html").read_text(), name
