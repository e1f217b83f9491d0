"""CITATION.cff is one that readers of the format take, and says of the project what the project says of itself."""

import tomllib
from typing import Any

import yaml

import bm
from tests.docs.blocks import HOME

REQUIRED = {"cff-version", "message", "title", "authors"}
KNOWN = REQUIRED | {"abstract", "type", "version", "license", "keywords", "references"}
"""Those of the format's keys (citation-file-format 1.2.0) that are used here."""


def citation() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((HOME / "CITATION.cff").read_text())
    return read


def test_it_has_the_keys_of_its_format_and_no_others() -> None:
    cited = citation()
    assert cited.keys() >= REQUIRED and cited.keys() <= KNOWN
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    for work in (cited, *cited["references"]):
        assert work["title"] and work["authors"]
        assert all(author.keys() == {"name"} for author in work["authors"]), "an entity; a person has family-names"
    assert all({"type", "title", "authors"} <= work.keys() for work in cited["references"])
    assert len(set(cited["keywords"])) == len(cited["keywords"])


def test_it_says_what_the_package_says() -> None:
    cited, project = citation(), tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (bm.__version__, project["license"])
    assert [author["name"] for author in cited["authors"]] == ["The bm developers"]
    assert "2503.04872" in cited["references"][0]["url"] and "2503.04872" in (HOME / "README.md").read_text()
