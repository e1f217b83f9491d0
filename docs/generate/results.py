"""The pages of results: what `experiments/*/measured.json` and `published.yaml` say, and nothing else."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import hypot
from pathlib import Path
from statistics import fmean
from typing import Any

from bm.report.figures import numbers
from bm.report.findings.claims import Claim, claims
from bm.report.findings.grid import CONFIDENCE, Entry, Grid, said
from bm.report.findings.published import published
from bm.report.findings.regimes import regimes
from bm.report.findings.results import Results, Row
from bm.report.pages.record import FILE, recorded
from bm.report.pages.tables import TableCell, claimed
from bm.statistics import Interval, over_seeds

HOME = Path(__file__).parents[2]
NOTHING = TableCell("–", "")


def recordings() -> dict[str, dict[str, Any]]:
    """measured.json of every experiment that has one with claims, by name."""
    files = sorted((HOME / "experiments").glob(f"*/{FILE}"))
    recorded_values = {file.parent.name: json.loads(file.read_text()) for file in files}
    return {name: values for name, values in recorded_values.items() if "claims" in values}


def judged(values: Mapping[str, Any]) -> list[Claim]:
    """The claims as the rows beside them bear them out; ValueError where the file says something else."""
    judgements = claims(recorded(values), published(values["experiment"]))
    if [claim.verdict for claim in judgements] != [claim["verdict"] for claim in values["claims"]]:
        raise ValueError(
            f"{values['experiment']}: judge its rows again, python -m experiments.judge {values['experiment']}"
        )
    return judgements


def changed(file: str) -> str:
    """The day on which a file of the repository changed last; "" outside of a checkout."""
    told = subprocess.run(["git", "log", "-1", "--format=%cs", "--", file], cwd=HOME, capture_output=True, text=True)
    return told.stdout.strip()


def experiment_page(name: str, text: str, values: Mapping[str, Any]) -> str:
    """An experiment's own page, and below it its claims, how it was measured, and the figures that it does not show."""
    file = f"experiments/{name}/{FILE}"
    about = [
        f"- command: `{' '.join(word for word in values['command'].split() if not word.startswith('paths.outputs='))}`",
        f"- machine: {', '.join(f'{what} {which}' for what, which in values['hardware'].items())}",
        f"- made by: {values['commit'].replace(';', ',')}; recorded {changed(file)}",
        f"- versions: {', '.join(f'{package} {version}' for package, version in values['versions'].items())}",
        f"- models: {len(values['rows'])} in {len(values['cells'])} cells, all of them in `{file}`",
    ]
    shown = [place for place, path in _figures(name) if f"figures/{path.name}" not in text]
    more = [f"    ![{Path(place).stem.replace('-', ' ')}](figures/{Path(place).name})\n" for place in shown]
    return "\n".join([
        text, "\n## Claims and verdicts\n", claims_table(judged(values)),
        f"\n{KEY}\n", "## How it was measured\n", *about, "",
        *(["??? note \"More figures\"\n", *more] if more else []),
    ])  # fmt: skip


def _figures(name: str) -> Iterator[tuple[str, Path]]:
    for file in sorted((HOME / "experiments" / name / "figures").glob("*.svg")):
        yield str(file.relative_to(HOME)), file


def claims_page(recordings: Mapping[str, Mapping[str, Any]]) -> str:
    """Every claim of every experiment, with its verdict, its figure and its command."""
    parts = [CLAIMS]
    for name, values in recordings.items():
        title = published(name).title
        about = f"[{name}](experiments/{name}/index.md): `bm run -m experiment={name}`, {_scale(values)}."
        parts += [f"## {title[0].upper()}{title[1:]}\n", f"{about}\n", claims_table(judged(values)), ""]
    return "\n".join([*parts, KEY, ""])


def _scale(values: Mapping[str, Any]) -> str:
    seeds = len({cell["seed"] for cell in values["cells"]})
    return f"recipe `{values['recipe']}`, {seeds} seed{'s' * (seeds != 1)}"


def claims_table(judgements: Sequence[Claim]) -> str:
    table = claimed(judgements)
    return sortable([column.name for column in table.columns], [row.cells for row in table.rows], words=(0, 1))


def board_page(recordings: Mapping[str, Mapping[str, Any]]) -> str:
    """Every merge of all experts in every regime that was measured."""
    lines = [line for name, values in recordings.items() for line in _board(name, recorded(values))]
    lines.sort(key=_by_regime)
    heads = ["regime", "merge", "student", "experts gain", "score", "against the mixture", "seeds"]
    return f"{BOARD}\n{sortable(heads, lines, words=(0, 1))}\n"


def _by_regime(cells: Sequence[TableCell]) -> tuple[str, float, float, str, float]:
    """By experiment, the strongest student and the least gain first, and in each regime the best score first."""
    regime, _, strength, gain, score, *_ = cells
    numbered = (-float(strength.value or 0), float(gain.value or 0))
    return str(regime.value), *numbered, regime.small, -float(score.value or 0)


def _board(name: str, grid: Grid) -> Iterator[list[TableCell]]:
    for entry in grid.entries:
        if entry.kind != "merge" or entry.mean is None or not _whole(entry):
            continue
        known = [next(iter(regimes(results)), None) for _, results in entry.by_seed.values()]
        told = {axis: escape(f"{grid.short(axis)}={said(value)}") for axis, value in entry.apart.items()}
        own = [text for axis, text in told.items() if axis.startswith("merge.")]
        yield [
            TableCell(f'<a href="experiments/{escape(name)}/index.html">{escape(name)}</a>', name,
                 ", ".join(text for text in told.values() if text not in own)),
            TableCell(entry.name, entry.name, ", ".join(own)),
            _share([one.strength for one in known if one and one.strength is not None]),
            _points([one.gain for one in known if one and one.gain is not None]),
            TableCell(f"{100 * entry.mean.mean:.1f}", entry.mean.mean, numbers.span(entry.mean.low, entry.mean.high)),
            _gap(entry),
            TableCell(str(len(entry.by_seed)), len(entry.by_seed)),
        ]  # fmt: skip


def _whole(entry: Entry) -> bool:
    """Whether it is a merge of all the experts of its runs."""
    row, results = next(iter(entry.by_seed.values()))
    return set(row.domains) == {one.domain for one in results.rows if one.kind == "expert"} or not row.domains


def _gap(entry: Entry) -> TableCell:
    """The merge's mean less its mixture's, seed by seed."""
    pairs = [pair for row, results in entry.by_seed.values() if (pair := _and_mixture(row, results)) is not None]
    if not pairs:
        return NOTHING
    gaps = [merge.mean - mixture.mean for merge, mixture in pairs]
    of = over_seeds(gaps).interval(CONFIDENCE) if len(gaps) > 1 else _unpaired(*pairs[0])
    return TableCell(numbers.points(of.mean), of.mean, f"{numbers.points(of.low)} to {numbers.points(of.high)}")


def _and_mixture(row: Row, results: Results) -> tuple[Interval, Interval] | None:
    """The mean over tasks of a merge and of its mixture, each with its interval over questions."""
    mixtures = [mean for one in results.rows if one.kind == "mixture" and (mean := _over_questions(one, results))]
    mine = _over_questions(row, results)
    return (mine, mixtures[0]) if mine and len(mixtures) == 1 else None


def _over_questions(row: Row, results: Results) -> Interval | None:
    return Entry(row.name, row.kind, {}, {0: (row, results)}).mean


def _unpaired(first: Interval, second: Interval) -> Interval:
    """Their difference, as if each had been asked questions of its own: wider than that over the same questions."""
    difference = first.mean - second.mean
    low = hypot(first.mean - first.low, second.high - second.mean)
    high = hypot(first.high - first.mean, second.mean - second.low)
    return Interval(difference, difference - low, difference + high)


def _share(values: Sequence[float]) -> TableCell:
    return TableCell(f"{100 * fmean(values):.1f}", fmean(values)) if values else NOTHING


def _points(values: Sequence[float]) -> TableCell:
    return TableCell(numbers.points(fmean(values)), fmean(values)) if values else NOTHING


def speed_page() -> str:
    """The benchmarks, by processor."""
    values = json.loads((HOME / "experiments/speed/measured.json").read_text())
    rows = [_benchmark(row) for row in values["rows"]]
    heads = ["benchmark", "ours", "peer", "peer's", "times as fast", "peer's memory / ours", "times a copy", "machine",
             "measured", "command"]  # fmt: skip
    grown = [_grown(one) for one in values["scaling"]]
    table = sortable(heads, rows, words=(0, 2, 7, 8, 9))
    return "\n".join([SPEED, table, "\n## How a merge grows with its models\n", SCALING, *grown, ""])


def _benchmark(row: Mapping[str, Any]) -> list[TableCell]:
    command = TableCell(f"<code>{escape(row['command'])}</code>", row["command"])
    name, peer, machine, day = (TableCell(row[of], row[of]) for of in ("name", "peer_version", "machine", "date"))
    faster, smaller = (TableCell(f"{row[ratio]:.1f}", row[ratio]) for ratio in ("speedup", "memory_ratio"))
    copies = TableCell(f"{row['copies']:.1f}", row["copies"]) if "copies" in row else NOTHING
    return [name, _measure(row["ours"]), peer, _measure(row["peer"]), faster, smaller, copies, machine, day, command]


def _grown(one: Mapping[str, Any]) -> str:
    more = [name for name in ("times_the_seconds", "times_the_memory", "limit_gb", "copies") if name in one]
    told = [f"{one['seconds']:.1f} s", f"{one['peak_rss_gb']:.2f} GB"]
    told += [f"{name.replace('_', ' ')} {one[name]}" for name in more]
    return f"- `{one['name']}`: {', '.join(told)} ({one['machine']}, {one['date']})"


def _measure(of: Mapping[str, float]) -> TableCell:
    return TableCell(f"{of['seconds']:.1f} s", of["seconds"], f"{of['peak_rss_gb']:.2f} GB")


def sortable(heads: Sequence[str], rows: Sequence[Sequence[TableCell]], words: Sequence[int]) -> str:
    """A table that is sorted by a click on a column's head (the report's own `table.js`)."""

    def kind(place: int) -> str:
        return ' class="words"' if place in words else ""

    def cell(place: int, of: TableCell) -> str:
        small = f" <small>{of.small}</small>" if of.small else ""
        return f'<td{kind(place)} data-value="{escape(str(of.value))}">{of.text}{small}</td>'

    head = "".join(f'<th{kind(i)}><button type="button">{escape(name)}</button></th>' for i, name in enumerate(heads))
    body = "\n".join(f"<tr>{''.join(cell(i, one) for i, one in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="bm-scroll" markdown="0"><table class="sortable">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


KEY = """\
Differences are in points of pass@1, with 95 % intervals over seeds; ratios are in percent. ✓ supported, ✗ refuted
and ≈ undecided are Student's test against the claim's bound, with Holm's allowance for the number of claims that
the experiment tests; the intervals are of one claim alone. With one seed there is no interval and no verdict. What
the paper reports stands beside, at its own scale.
"""
CLAIMS = """\
# Claims and verdicts

Every claim that an experiment here tests, from `experiments/*/published.yaml`, with what was measured, from
`experiments/*/measured.json`. The build of this page judges the rows again and stops where they say something else
than the file.
"""
BOARD = """\
---
hide: [toc]
---

# Merge methods by regime

Every merge of all experts that was measured, regime by regime: in each the best mean score comes first, and the
strongest student's regimes come first in an experiment. A click on a head sorts by that column. Scores can only be
compared within a regime, because students and questions differ between regimes; how strong the student was, and how
much its experts gained on their own tasks, say which regime it was.

Scores are pass@1 in percent, means over the domains' own tasks, with 95 % intervals over seeds that are no narrower
than those over questions. Differences are in points, paired by seed; a merge without a mixture beside it has none.
With one seed, intervals are over questions, and that of a difference is too wide rather than too narrow, because it
ignores that merge and mixture answered the same questions. [The law](method/law.md) says what follows from all this.
"""
SPEED = """\
# Speed and memory

From `experiments/speed/measured.json`. Ours, the peer and, for merges, a copy of the same bytes run in turn on the same
machine: whole processes from start to exit for merges, training alone, with what it generates, for SFT and
distillation, generation alone for samples. Seconds, and the peak of the process's resident memory. Run `make bench`
for your own; `make bench-merge`, `make bench-branch`, `make bench-evaluate`, `make bench-distill` are its parts.
"""
SCALING = """\
`doubled` merges models of twice the parameters, and its factors are against the single ones; `four_billion` merges
models of four billion parameters in a process that may take no more than `limit gb` of memory.
"""
