"""Every verdict of the committed experiments, computed again from the rows beside it by plain scipy; READMEs included.

Nothing of `bm` is used: rows are chosen, averaged, tested and allowed for by a second hand. Nothing is left out quietly
either: a seed counts for a claim if the file lists all the cells that the claim is about, and then each of them must
hold as many of the claim's models as the others.
"""

import json
import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

HOME = Path(__file__).parents[1]
EXPERIMENTS = sorted(file.parent.name for file in HOME.glob("experiments/*/published.yaml")
                     if file.with_name("measured.json").exists())  # fmt: skip
AGAIN = ["figure2", "mechanism", "table1", "table2", "table3"]
"""Those of whose READMEs every number is one of a claim."""


def of(name):
    return json.loads((HOME / f"experiments/{name}/measured.json").read_text())


def place(cell):
    return json.dumps(cell["settings"], sort_keys=True)


class Part:
    """One difference, ratio or cosine, by seed: measured, interval, p against the bound that decides, and its side."""

    def __init__(self, values, floors, claim):
        self.seeds, self.p, self.low, self.high, self.inside = len(values), None, None, None, None
        ratio = claim["test"] == "ratio"
        x = np.log(values) if ratio else np.array(values, float)
        turned = math.exp if ratio else float
        self.measured = turned(x.mean()) if len(x) else None
        error = math.sqrt(max(x.var(ddof=1), np.mean(floors)) / len(x)) if len(x) > 1 else 0.0
        if not error:
            return
        bounds = {side: math.log(claim[side]) if ratio else claim[side] for side in ("above", "below")
                  if claim.get(side) is not None}  # fmt: skip
        missed = [b for side, b in bounds.items() if (x.mean() <= b if side == "above" else x.mean() >= b)]
        ends = [2 * stats.t.sf(abs(x.mean() - b) / error, len(x) - 1)
                for b in missed or bounds.values()]  # fmt: skip
        self.inside, self.p = not missed, max(ends)
        self.low, self.high = map(turned, stats.t.interval(0.95, len(x) - 1, x.mean(), error))


def ends_of(which, cells):
    """The settings that a claim asks for, with `lowest` and `highest` of the grid by value; None: not in this grid."""
    named = {}
    for setting, value in (which.get("where") or {}).items():
        having = [setting in cell["settings"] for cell in cells]
        if not all(having):
            assert not any(having), f"{setting} is in some cells only"
            return None
        known = [cell["settings"][setting] for cell in cells]
        named[setting] = {"lowest": min, "highest": max}.get(value, lambda _, value=value: value)(known)
    return named


def meant(which, rows, cells):
    """The rows of a grid that a claim's words mean."""
    where = ends_of(which, cells)
    if where is None:
        return []
    orders = [which["order"]] if isinstance(which.get("order"), str) else which.get("order")

    def fits(row):
        for field in ("method", "base"):
            wanted = which.get(field)
            if wanted and ((row[field] in (None, wanted[1:])) if wanted[0] == "!" else row[field] != wanted):
                return False
        return (
            row["kind"] == which["kind"] and row.get("out_after") is None and which.get("name") in (None, row["name"])
            and which.get("domain") in (None, *row["domains"]) and (orders is None or row["order"] in orders)
            and all(row["settings"][setting] == value for setting, value in where.items())
        )  # fmt: skip

    return [row for row in rows if fits(row)]


def asked(measure, row, domains):
    """The tasks that a claim compares on a row."""
    own, base = row["domains"], row["base"]
    if measure == "mean":
        return list(domains.values())
    if measure in ("own", "others", "base", "taken"):
        chosen = {"own": [d for d in own if d in domains], "base": [d for d in [base] if d in domains],
                  "others": [d for d in domains if d not in own] if own else [],
                  "taken": [d for d in own if d in domains and d != base]}[measure]  # fmt: skip
        return [domains[d] for d in chosen]
    names = [domains.get(m, m) for m in ([measure] if isinstance(measure, str) else measure)]
    return [name for name in names if name in row["scores"]][:1]


def tokens(row):
    return np.mean([score["response_tokens"] for score in row["scores"].values()])


def ratio(measure, row, rival):
    if measure == "tokens":
        return tokens(row) / tokens(rival)
    unit = "gpu_hours" if row["cost"]["gpu_hours"] and rival["cost"]["gpu_hours"] else "seconds"
    return row["cost"][unit] / rival["cost"][unit]


def apart(claim, row, rivals, domains):
    """What a row has more than its rivals, and the least variance of it that so many questions leave."""
    if claim["test"] == "ratio":
        return np.mean([ratio(claim["measure"], row, rival) for rival in rivals]), 0.0
    about = asked(claim["measure"], row, domains)
    if not about:
        return None
    score = {r["key"]: np.array([r["scores"][task]["mean"] for task in about]) for r in (row, *rivals)}
    others = [score[r["key"]] for r in rivals]
    other = (
        max(others, key=lambda shares: round(np.mean(shares), 12))
        if claim["against"].get("best")
        else np.mean(others, axis=0)
    )
    questions = np.array([row["scores"][task]["questions"] for task in about])
    share = np.minimum(np.abs(score[row["key"]] - other) + 1 / questions, 1 - 1 / questions)
    return (score[row["key"]] - other).mean(), (share * (1 - share) / questions).sum() / len(about) ** 2


def part(claim, record):
    """A difference or a ratio over the seeds that have all the cells it is about."""
    rows, cells = meant(claim["of"], record["rows"], record["cells"]), record["cells"]
    rivals, alone = meant(claim["against"], record["rows"], record["cells"]), claim["against"].get("where") is None
    about = {place(row) for row in rows} | ({place(row) for row in rivals} if not alone else set())
    values, floors, counts = [], [], Counter()
    for seed in sorted({cell["seed"] for cell in cells}):
        if not about <= {place(cell) for cell in cells if cell["seed"] == seed}:
            continue
        here = []
        for row in (r for r in rows if r["seed"] == seed):
            near = [r for r in rivals if r["seed"] == seed and (r["key"], r["name"]) != (row["key"], row["name"])
                    and (not alone or r["settings"] == row["settings"])
                    and not (r["kind"] == row["kind"] == "expert" and r["domains"] != row["domains"])]  # fmt: skip
            (domains,) = [c["domains"] for c in cells if c["seed"] == seed and c["settings"] == row["settings"]]
            compared = apart(claim, row, near, domains) if near else None
            if compared is not None:
                here.append((*compared, row["order"], len(near)))
        counts[len(here), sum(compared[3] for compared in here)] += 1
        wanted = claim["of"].get("order")
        if not here or (isinstance(wanted, list) and {compared[2] for compared in here} != set(wanted)):
            continue
        best = max(here) if claim["of"].get("best") else None
        values.append(best[0] if best else np.mean([compared[0] for compared in here]))
        floors.append(best[1] if best else np.mean([compared[1] for compared in here]))
    assert len(counts) <= 1, f"seeds compare unlike numbers of models: {counts}"
    return Part(values, floors, claim)


def parts(claim, record):
    if claim["test"] == "cosine":
        pairs = sorted({pair for cell in record["cells"] for pair in cell["cosines"].get(claim["of"], {})})
        values = [[cell["cosines"][claim["of"]][pair] for cell in record["cells"]] for pair in pairs]
        return [Part(of_it, [0.0] * len(of_it), claim) for of_it in values]
    if claim["test"] == "order":
        steps = [
            claim | {"test": "difference", "of": a, "above": 0,
                     "against": b if b.get("where") or not a.get("where") else b | {"where": a["where"]}}
            for a, b in pairwise(claim["of"])
        ]  # fmt: skip
        return [part(step, record) for step in steps]
    return [part(claim, record)]


def alone(of_it):
    """The p of a whole claim and what it says: true where every part is, false where any is."""
    outside = [piece.p for piece in of_it if piece.p is not None and not piece.inside]
    against = min(1.0, len(of_it) * min(outside)) if outside else None
    if against is not None and against < 0.05:
        return against, "refuted"
    if not of_it or not all(piece.seeds for piece in of_it):
        return None, "not tested at this scale"
    if any(piece.p is None for piece in of_it):
        return None, "undecided"
    return (against, "undecided") if outside else (max(piece.p for piece in of_it), "supported")


def judged(name):
    """By claim: its parts, its p after Holm's allowance for all that were tested, and the verdict."""
    record = of(name)
    claims = yaml.safe_load((HOME / f"experiments/{name}/published.yaml").read_text())["claims"]
    by_claim = {claim["id"]: parts(claim, record) for claim in claims}
    raw = {i: alone(of_it) for i, of_it in by_claim.items()}
    tested = sorted((p, i) for i, (p, _) in raw.items() if p is not None)
    allowed = np.maximum.accumulate([min(1.0, (len(tested) - rank) * p) for rank, (p, _) in enumerate(tested)])
    adjusted = dict(zip((i for _, i in tested), allowed, strict=True))
    return {
        i: (of_it, adjusted.get(i), raw[i][1] if adjusted.get(i, 0.0) < 0.05 else "undecided")
        for i, of_it in by_claim.items()
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_committed_claims_follow_from_the_rows_beside_them(name):
    again, claims = judged(name), of(name)["claims"]
    assert [claim["id"] for claim in claims] == list(again)
    for claim in claims:
        of_it, p, verdict = again[claim["id"]]
        assert (claim["id"], claim["verdict"]) == (claim["id"], verdict)
        assert claim["p"] == (None if p is None else pytest.approx(p, rel=1e-6)), claim["id"]
        told = claim["parts"] or [claim]
        if verdict != "not tested at this scale":
            assert len(told) == len(of_it)
            for recorded, mine in zip(told, of_it, strict=True):
                assert recorded["seeds"] == mine.seeds
                for value in ("measured", "low", "high"):
                    ours = getattr(mine, value)
                    assert recorded[value] == (None if ours is None else pytest.approx(ours, rel=1e-6, abs=1e-12))
            assert any(claim["measured"] == recorded["measured"] for recorded in told)


def test_a_model_that_is_missing_is_not_passed_over():
    record = of("figure2")
    claims = yaml.safe_load((HOME / "experiments/figure2/published.yaml").read_text())["claims"]
    (claim,) = [claim for claim in claims if claim["id"] == "soup-dare-linear-science"]
    assert part(claim, record).seeds == 6
    for method in ("linear", "dare_linear"):
        gone = next(row for row in record["rows"] if row["method"] == method)
        with pytest.raises(AssertionError, match="unlike numbers"):
            part(claim, record | {"rows": [row for row in record["rows"] if row is not gone]})


def points(value):
    return f"{100 * value:+.1f}".replace("-", "−")


SIGNS = {"supported": "✓ supported", "refuted": "✗ refuted", "undecided": "≈ undecided"}
README = [
    ("phase", "short-fusion", "A merge matches the data mixture"),
    ("phase", "short", "… the soup | near"),
    ("phase", "long", "… the soup is below the mixture"),
    ("table2", "match", "Arcee Fusion matches the mixture"),
    ("table2", "best", "… nor does the best"),
    ("table2", "cost", "… at less than"),
    ("table2", "order-coding", "trade coding"),
    ("table2", "order-math", "… and better at mathematics"),
    ("figure2", "fusion-soup-base-science-on-science", "Arcee Fusion beats the soup"),
    ("figure2", "fusion-soup-base-math-on-math", "… with mathematics as base and asked"),
    ("figure2", "fusion-soup-base-science-on-math", "… on the other domain: science as base"),
    ("figure2", "fusion-soup-base-math-on-science", "… mathematics as base, science asked"),
    ("figure2", "fusion-soup", "… on the mean of both domains, over both bases"),
    ("figure2", "soup-dare-linear-science", "The soup beats DARE-linear"),
    ("figure2", "dare-linear-dare-ties-science", "DARE-linear beats DARE-TIES"),
    ("mechanism", "gradients", "Gradients of different domains conflict"),
    ("mechanism", "updates", "Updates of experts are nearly orthogonal"),
    ("table3", "experts-forget", "Experts lose elsewhere"),
]


def claimed():
    """The lines of README's table of claims, without links."""
    _, _, table = (HOME / "README.md").read_text().partition("| claim | regime |")
    return [re.sub(r"[\[\]]", "", line) for line in table.partition("\n\n")[0].splitlines()[2:]]


def test_every_line_of_the_readmes_table_is_checked():
    assert len(claimed()) == len(README)
    assert [words for _, _, words in README if not any(words in line for line in claimed())] == []


@pytest.mark.parametrize(("name", "claim", "words"), README, ids=[f"{n}-{c}" for n, c, _ in README])
def test_the_readme_prints_what_the_rows_say(name, claim, words):
    (line,) = [line for line in claimed() if words in line]
    of_it, p, verdict = judged(name)[claim]
    assert line.endswith(f"{SIGNS[verdict]} |")
    if len(of_it) > 1:
        pairs = sorted(of(name)["cells"][0]["cosines"][claim])
        told = [f"{pair} {piece.measured:+.3f}".replace("-", "−") for pair, piece in zip(pairs, of_it, strict=True)]
        assert sorted(re.findall(r"\w+ & \w+ [+−][\d.]+", line)) == sorted(told)
    elif claim == "cost":
        cost = of_it[0]
        assert f"{100 * cost.measured:.1f} % of its time ({100 * cost.low:.1f} to {100 * cost.high:.1f})" in line
    else:
        assert f"{points(of_it[0].measured)} ({points(of_it[0].low)} to {points(of_it[0].high)})" in line
    assert re.findall(r"Holm p = ([\d.]+)", line) in ([], [f"{p:.3f}"])
    if verdict == "undecided" and alone(of_it)[0] is not None and alone(of_it)[0] < 0.05:
        assert "Holm p" in line  # an interval beyond the bound, and no verdict: the line says why


NUMBER = r"([+−]?\d+\.\d+)"
INTERVAL = re.compile(rf"{NUMBER}[^()\d]{{0,40}}?\(?,? ?\(?{NUMBER} to {NUMBER}")
"""As prose has it: `+4.4, 2.6 to 6.3` or `17.8 points below it (14.3 to 21.2)`."""


def sizes(name):
    """What may be printed of claims and their parts: (measured, low, high) without sign, in points or as they are."""
    known = [piece for of_it, _, _ in judged(name).values() for piece in of_it if piece.low is not None]
    return {
        (f"{abs(piece.measured) * scale + 1e-9:.{digits}f}",
         *sorted((f"{abs(end) * scale + 1e-9:.{digits}f}" for end in (piece.low, piece.high)), key=float))
        for piece in known
        for scale, digits in ((100, 1), (1, 2), (1, 3))
    }  # fmt: skip


def of_the_law(name):
    """The same of law.json, if there is one: what 10 points of gain cost, where lines cross, correlations."""
    file = HOME / f"experiments/{name}/law.json"
    law = json.loads(file.read_text()) if file.exists() else {"laws": [], "explained": {}}
    told = [(fit["slope"], 10, 1) for fit in law["laws"]] + [(fit["crossing"], 100, 1) for fit in law["laws"]]
    told += [(measure, 1, 2) for measures in law["explained"].values() for measure in measures.values()]
    return {
        (f"{abs(i['mean']) * scale + 1e-9:.{digits}f}",
         *sorted((f"{abs(i[end]) * scale + 1e-9:.{digits}f}" for end in ("low", "high")), key=float))
        for i, scale, digits in told
    }  # fmt: skip


ARMS = {
    "soup": ("merge", "linear"), "RegMean": ("merge", "regmean"), "together": ("ensemble", "ensemble"),
    "then on-policy": ("consolidated", "opd"), "from the student": ("consolidated", "opd_student"),
    "soup, then labels": ("consolidated", "sft"), "then an epoch": ("consolidated", "sft"),
    "mixture": ("mixture", "mixture"), "mixture, an epoch more": ("consolidated", "sft_mixture"),
}  # fmt: skip
"""Words of the first column of the tables of arms, those that say more last."""


def arm(of_it, against, student, record):
    """What one model of experiment=arms has more than another, by seed."""
    pair = [{"kind": kind, "name": name, "where": {"student.branch.at": student}} for kind, name in (of_it, against)]
    return part({"test": "difference", "of": pair[0], "against": pair[1], "measure": "mean", "above": 0}, record)


@pytest.mark.parametrize("file", ["README.md", "experiments/arms/README.md"])
def test_tables_of_arms_are_those_of_the_rows(file):
    _, _, text = (HOME / file).read_text().partition("operations, 10¹²")
    record = of("arms")
    lines = [line for line in text.partition("\n\n")[0].splitlines()[2:] if " to " in line]
    assert len(lines) >= 6
    for line in lines:
        label = line.split("|")[1]
        model = ARMS[[words for words in ARMS if words in label][-1]]
        told = [arm(model, ("mixture", "mixture"), student, record) for student in (2.5, 5.5)]
        assert re.findall(r"[+−][\d.]+ \([+−][\d.]+ to [+−][\d.]+\)", line) == [
            f"{points(piece.measured)} ({points(piece.low)} to {points(piece.high)})" for piece in told
        ]


def of_arms(name):
    """The same of every two models of experiment=arms."""
    models, record = set(ARMS.values()) if name == "arms" else set(), of(name)
    told = [arm(a, b, student, record) for a in models for b in models if a != b for student in (2.5, 5.5)]
    return {
        (f"{abs(100 * piece.measured):.1f}",
         *sorted((f"{abs(100 * end):.1f}" for end in (piece.low, piece.high)), key=float))
        for piece in told
    }  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_interval_in_an_experiments_readme_is_that_of_a_claim(name):
    """By size, as "17.8 below" is −17.8; or of the law, or of two arms."""
    known = sizes(name) | of_the_law(name) | of_arms(name)
    text = (HOME / f"experiments/{name}/README.md").read_text()
    text = re.sub(r"## SmolLM2.*?(?=\n## )", "", text, flags=re.DOTALL)  # recomputed by report/test_abilities.py
    for printed in INTERVAL.finditer(text.replace("\n", " ")):
        m, low, high = (group.lstrip("+−") for group in printed.groups())
        assert (m, *sorted((low, high), key=float)) in known, printed[0]


@pytest.mark.parametrize("name", AGAIN)
def test_every_number_that_came_out_is_that_of_a_claim(name):
    _, heading, text = (HOME / f"experiments/{name}/README.md").read_text().partition("## Results")
    assert heading
    known = {number for triple in sizes(name) for number in triple}
    adjusted = {f"{p:.{digits}f}" for _, p, _ in judged(name).values() if p is not None for digits in (2, 3)}
    for p in re.findall(r"p = ([\d.]+\d)", text):
        assert p in adjusted
    rest = re.sub(r"p = [\d.]+\d", "", text)
    assert [number for number in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", rest) if number not in known] == []
