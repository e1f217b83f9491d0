"""The paper index: every source that the code and its settings cite, what of it is here, and a command that runs it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

HOME = Path(__file__).parents[2]
ARXIV = re.compile(r"arXiv[: ]*(\d{4}\.\d{4,5})|\((\d{4}\.\d{5})\)")
NAMED = re.compile(r"\b([A-Z]\w+(?:,? (?:and|&) [A-Z]\w+| et al\.)*)\.?,? \(?((?:19|20)\d\d)\b")
"""Authors and a year, as in `Holm 1979`."""
NO_PAPER = ("August 2024", "February 2025", "AIME 2024", "SVC 2026")


def cited() -> dict[str, list[str]]:
    """Every source, with the files that cite it: an arXiv number or, where a text has none, authors and year."""
    by_source: dict[str, list[str]] = {}
    for file in sorted([*(HOME / "bm").rglob("*.py"), *(HOME / "conf").rglob("*.yaml")]):
        for source in dict.fromkeys(_sources(" ".join(file.read_text().split()))):
            by_source.setdefault(source, []).append(str(file.relative_to(HOME)))
    return by_source


def _sources(text: str) -> Iterator[str]:
    numbered = list(ARXIV.finditer(text))
    yield from (f"arXiv {match[1] or match[2]}" for match in numbered)
    for match in NAMED.finditer(text):
        followed = any(0 <= number.start() - match.end() < 6 for number in numbered)
        if not followed and (source := f"{match[1]} {match[2]}") not in NO_PAPER:
            yield source


def papers() -> Mapping[str, Mapping[str, str]]:
    """papers.yaml: by source its `name`, what of it `is` here, and the command to `run`."""
    known: Mapping[str, Mapping[str, str]] = yaml.safe_load((HOME / "docs/generate/papers.yaml").read_text())
    return known


def papers_page() -> str:
    """A line a paper. ValueError where papers.yaml and the code differ."""
    where, known = cited(), papers()
    if differ := sorted(where.keys() ^ known.keys()):
        raise ValueError(f"docs/generate/papers.yaml and the code differ in {', '.join(differ)}")
    lines = [INTRODUCTION]
    for source, paper in sorted(known.items(), key=lambda item: _when(item[0])):
        number = source.rpartition(" ")[2]
        arxiv = source.startswith("arXiv")
        named = (
            f"{paper['name']}, [{source}](https://arxiv.org/abs/{number})" if arxiv else f"{paper['name']} ({number})"
        )
        lines.append(f"| {named} | {paper['is']} | `{where[source][0]}` | `{paper['run']}` |")
    return "\n".join(lines) + "\n"


def _when(source: str) -> float:
    """The year, and the month where there is one."""
    number = source.rpartition(" ")[2]
    return 2000 + int(number[:2]) + int(number[2:4]) / 13 if source.startswith("arXiv") else float(number)


INTRODUCTION = """\
# Paper index

Every paper that a method, a loss, a statistic or a claim here comes from, oldest first, as the code itself cites
it: what of it is here, the first file that cites it, and a command that runs it. `DIR` stands for a folder with a
Hugging Face model.

| paper | what is here | in | command |
| --- | --- | --- | --- |"""
