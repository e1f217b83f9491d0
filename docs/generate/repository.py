"""The repository's own pages in the site: the same text, with links to what the site has, and without the others."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

HOME = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FIGURE = re.compile(r"^( *)(!\[[^\]]*\]\(([^)\s]+\.svg)\))$", re.MULTILINE)
CAPTION = re.compile(r"<desc>(.*?)</desc>", re.DOTALL)
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "NOTICE": "licences.md",
    "experiments/tinyr1/PLANS.md": "experiments/tinyr1/plans.md",
    **{
        str(file.relative_to(HOME)): f"experiments/{file.parent.name}/index.md"
        for file in sorted((HOME / "experiments").glob("*/README.md"))
    },
}
"""Where each file of the repository is in the site."""


def text(file: str) -> str:
    """A file's text as the site shows it."""
    return relinked((HOME / file).read_text(), file, PAGES[file])


def relinked(text: str, file: str, page: str) -> str:
    """`text` of the repository's `file`, with the links of the site's `page`."""

    def link(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        if target.startswith(("http", "#", "mailto:")):
            return match[0]
        path, _, anchor = target.partition("#")
        place = os.path.normpath(PurePosixPath(file).parent / path)
        there = place.removeprefix("docs/") if place.startswith("docs/") else PAGES.get(place)
        if there is None and Path(place).suffix == ".svg":
            there = place
        if there is None:
            return words
        near = os.path.relpath(there, PurePosixPath(page).parent)
        return f"{image}[{words}]({near}{'#' + anchor if anchor else ''})"

    return LINK.sub(link, text)


def captioned(text: str, page: str) -> str:
    """`text` of the site's `page`, with the caption that each figure of an experiment holds below it."""

    def caption(match: re.Match[str]) -> str:
        indent, image, target = match.groups()
        file = HOME / os.path.normpath(PurePosixPath(page).parent / target)
        told = CAPTION.search(file.read_text()) if file.is_file() else None
        if told is None:
            return match[0]
        lines = ['<figure markdown="span">', image, f"<figcaption>{told[1]}</figcaption>", "</figure>"]
        return "\n".join(f"{indent}{line}" for line in lines)

    return FIGURE.sub(caption, text)


def figures(folder: Path) -> Iterator[tuple[str, Path]]:
    """The figures of an experiment with their tables, each with its place in the site."""
    for file in sorted((folder / "figures").glob("*")):
        if file.suffix in (".svg", ".csv"):
            yield str(file.relative_to(HOME)), file


def pages() -> Mapping[str, str]:
    """The text of each page, by its place in the site."""
    return {page: text(file) for file, page in PAGES.items()}
