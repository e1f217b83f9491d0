"""The README's sweep is the shipped experiment, and what it prints is what `bm report` prints of the committed rows."""

import io
import json
import re
from statistics import fmean
from typing import Any

import yaml
from rich.console import Console

from bm.report.findings.claims import claims
from bm.report.findings.published import published
from bm.report.pages.experiment import _title
from bm.report.pages.record import recorded
from bm.report.pages.tables import claimed, contested, tabled
from bm.report.pages.terminal import show_grid
from tests.docs.blocks import HOME, blocks
from tests.test_recomputed import README, of
from tests.test_recomputed import claimed as lines_of_claims

BLOCKS = {block.language: block.code for block in blocks(HOME / "README.md")}


def test_the_sweep_is_the_shipped_one() -> None:
    assert yaml.safe_load(BLOCKS["yaml"]) == yaml.safe_load((HOME / "conf/experiment/lambda.yaml").read_text())
    assert len(BLOCKS["yaml"].splitlines()) <= 12


def test_it_prints_what_the_rows_say() -> None:
    grid, paper = recorded(json.loads((HOME / "experiments/lambda/measured.json").read_text())), published("lambda")
    console = Console(width=110, record=True, file=io.StringIO())
    show_grid(_title(grid, paper), tabled(grid, paper), claimed(claims(grid, paper)), contested(grid), [], console)
    printed = [line.rstrip() for line in console.export_text().splitlines()]
    shown = BLOCKS["text"].splitlines()
    assert len(shown) > 10 and printed[: len(shown)] == shown


def gain(name: str, **settings: Any) -> float:
    """How many points the experts of a grid gain on their own tasks, on the mean of its cells with these settings."""
    rows = of(name)["rows"]
    students = [row for row in rows if row["kind"] == "student"]
    gains = []
    for row in rows:
        if row["kind"] == "expert" and settings.items() <= row["settings"].items():
            (student,) = (
                s for s in students if s["seed"] == row["seed"] and s["settings"].items() <= row["settings"].items()
            )
            gains.append(row["scores"][row["domain"]]["mean"] - student["scores"][row["domain"]]["mean"])
    return 100 * fmean(gains)


def test_the_readmes_regimes_are_what_the_experts_gain() -> None:
    measured = {"near": gain("phase", **{"branch.at": 0.25}), "middle": gain("phase", **{"branch.at": 4.0}),
                "far": gain("table2")}  # fmt: skip
    text = (HOME / "README.md").read_text()
    printed = {regime: int(n) for n, regime in re.findall(r"(\d+) points? \(\*(\w+)\*", text)}
    assert printed == {regime: round(points) for regime, points in measured.items()}
    for name, claim, words in README:
        (line,) = [line for line in lines_of_claims() if words in line]
        near = claim.startswith("short")
        assert line.split(" | ")[1] == ("far" if name != "phase" else "near" if near else "middle")


def test_smollm2_stands_where_the_readme_says() -> None:
    """What its experts gain, how far its merges are below the mixture, and what the law's line says at that gain."""
    law = json.loads((HOME / "experiments/phase/law.json").read_text())
    (line,) = (fitted for fitted in law["laws"] if fitted["method"] == "linear")
    means = {(row["seed"], row["method"] or row["kind"]): fmean(score["mean"] for score in row["scores"].values())
             for row in of("phase_smollm2")["rows"] if row["kind"] in ("merge", "mixture")}  # fmt: skip
    gains = [law["elsewhere"][f"SmolLM2, taught, seed {seed}"]["gain"] for seed in (42, 43)]
    soup, regmean = (
        [means[seed, "mixture"] - means[seed, method] for seed in (42, 43)] for method in ("linear", "regmean")
    )
    says = [-line["intercept"]["mean"] - line["slope"]["mean"] * gain for gain in gains]
    one, two, three, four = (
        " and ".join(f"{100 * value:.{digits}f}" for value in values)
        for values, digits in ((gains, 0), (soup, 1), (says, 1), (regmean, 1))
    )
    words = " ".join((HOME / "README.md").read_text().split())
    assert f"gain {one} points in two seeds, the soup is {two} below the mixture, where the law says {three}" in words
    assert f"RegMean is {four} below" in words


SPEEDS = re.compile(r"\| (\S+) s, (\S+) GB \| [^|]+: (\S+) s, (\S+) GB \| (\S+) \| (\S+) \|")
"""A row of the table of speeds: seconds and memory of ours and the peer's, and their ratios."""


def test_the_readmes_speeds_are_measured() -> None:
    rows = json.loads((HOME / "experiments/speed/measured.json").read_text())["rows"]
    measured = {(f"{row['ours']['seconds']:.1f}", f"{row['ours']['peak_rss_gb']:.2f}", f"{row['peer']['seconds']:.1f}",
                 f"{row['peer']['peak_rss_gb']:.2f}", f"{row['speedup']:.1f}", f"{row['memory_ratio']:.1f}")
                for row in rows}  # fmt: skip
    printed = SPEEDS.findall((HOME / "README.md").read_text())
    assert len(printed) == 16 and not set(printed) - measured


def test_what_grows_is_measured() -> None:
    text = (HOME / "experiments/scaling/README.md").read_text()
    rows = json.loads((HOME / "experiments/scaling/measured.json").read_text())["rows"]
    for what in {row["what"]: None for row in rows}:
        seconds = [row["cpu_seconds"] for row in rows if row["what"] == what]
        assert ", ".join(f"{s:.2f}" if s < 1 else f"{s:.1f}" for s in seconds) in text, what
