"""Every verdict of the committed experiments, computed again from the rows beside it by plain scipy; README included.

Nothing of `bm` is used: rows are chosen, averaged, tested and allowed for by a second hand.
"""

import json
import math
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean, variance

import pytest
import yaml
from scipy import stats

HOME = Path(__file__).parents[1]
EXPERIMENTS = sorted(p.parent.name for p in HOME.glob("experiments/*/measured.json") if p.parent.name != "speed")


def of(name):
    return json.loads((HOME / f"experiments/{name}/measured.json").read_text())


def chosen(which, rows):
    for setting, value in (which.get("where") or {}).items():
        rows = [row for row in rows if setting in row["settings"]]
        known = [row["settings"][setting] for row in rows]
        if not known:
            return []
        value = min(known) if value == "lowest" else max(known) if value == "highest" else value
        rows = [row for row in rows if row["settings"][setting] == value]
    orders = which.get("order")
    orders = [orders] if isinstance(orders, str) else orders

    def alike(row, field):
        wanted = which.get(field)
        return wanted is None or (row[field] != wanted[1:] if wanted[0] == "!" else row[field] == wanted)

    return [
        row for row in rows
        if row["kind"] == which["kind"] and alike(row, "method") and alike(row, "base")
        and (orders is None or row["order"] in orders) and which.get("domain") in (None, *row["domains"])
    ]  # fmt: skip


def tasks(measure, row, domains):
    every = {
        "mean": list(domains),
        "own": row["domains"],
        "others": [d for d in domains if d not in row["domains"]] if row["domains"] else [],
        "base": [row["base"]],
        "taken": [d for d in row["domains"] if d != row["base"]],
    }
    wanted = measure if isinstance(measure, list) else [measure]
    found = every.get(wanted[0]) if len(wanted) == 1 else None
    return found if found is not None else [task for task in wanted if task in row["scores"]][:1]


def one_value(claim, row, rivals, domains):
    if claim["test"] == "ratio":
        about = (lambda r: r["cost"]["seconds"]) if claim["measure"] == "cost" else (
            lambda r: fmean(s["response_tokens"] for s in r["scores"].values()))  # fmt: skip
        return fmean(about(row) / about(r) for r in rivals), 0.0
    about = tasks(claim["measure"], row, domains)
    if not about:
        return None
    mean = {id(r): fmean(r["scores"][t]["mean"] for t in about) for r in (row, *rivals)}
    if claim["against"].get("best"):
        rivals = [max(rivals, key=lambda r: mean[id(r)])]
    noise = 0.0
    for task in about:
        apart = row["scores"][task]["mean"] - fmean(r["scores"][task]["mean"] for r in rivals)
        questions = row["scores"][task]["questions"]
        share = min(abs(apart) + 1 / questions, 1 - 1 / questions)
        noise += share * (1 - share) / questions / len(about) ** 2
    return mean[id(row)] - fmean(mean[id(r)] for r in rivals), noise


def by_seed(claim, found):
    domains, seeds, cells = found["cells"][0]["domains"], defaultdict(list), defaultdict(set)
    rivals = chosen(claim["against"], found["rows"])
    for row in chosen(claim["of"], found["rows"]):
        near = [r for r in rivals if r["seed"] == row["seed"] and r["key"] != row["key"]]
        if claim["against"].get("where") is None:
            near = [r for r in near if r["settings"] == row["settings"]]
        cell = next(c for c in found["cells"] if (c["settings"], c["seed"]) == (row["settings"], row["seed"]))
        domains = cell["domains"]
        if near and (value := one_value(claim, row, near, domains)):
            seeds[row["seed"]].append((value, row["order"]))
            cells[row["seed"]].add(json.dumps(row["settings"], sort_keys=True))
    whole = set().union(*cells.values())  # a seed that lacks a cell is left out
    seeds = {s: v for s, v in seeds.items() if cells[s] == whole}
    orders = claim["of"].get("order")
    if isinstance(orders, list):
        seeds = {s: v for s, v in seeds.items() if {order for _, order in v} == set(orders)}
    pick = max if claim["of"].get("best") else None
    return [
        max(v for v, _ in values) if pick else tuple(map(fmean, zip(*(v for v, _ in values), strict=True)))
        for values in seeds.values()
    ]


def held(claim, values):
    """Measured, low, high, p and whether it is inside the claim's bounds."""
    if not values:
        return None
    scale, back = (math.log, math.exp) if claim["test"] == "ratio" else (float, float)
    x, n = [scale(v) for v, _ in values], len(values)
    mean = fmean(x)
    if n < 2:
        return back(mean), None, None, None, None
    error = math.sqrt(max(variance(x), fmean(noise for _, noise in values)) / n)
    above, below = (None if claim.get(b) is None else scale(claim[b]) for b in ("above", "below"))
    inside = (above is None or mean > above) and (below is None or mean < below)
    crossed = [b for b in (above, below) if b is not None]
    if not inside:
        crossed = [above] if above is not None and mean <= above else [below]
    p = max(2 * stats.t.sf(abs(mean - b) / error, n - 1) for b in crossed)
    low, high = stats.t.interval(0.95, n - 1, mean, error)
    return back(mean), back(low), back(high), p, inside


def parts(claim, found):
    if claim["test"] == "cosine":
        pairs = defaultdict(list)
        for cell in found["cells"]:
            for pair, cosine in cell["cosines"].get(claim["of"], {}).items():
                pairs[pair].append((cosine, 0.0))
        return [held(claim, values) for values in pairs.values()]
    if claim["test"] == "order":
        steps = [claim | {"test": "difference", "of": a, "against": b, "above": 0} for a, b in pairwise(claim["of"])]
        return [held(step, by_seed(step, found)) for step in steps]
    return [held(claim, by_seed(claim, found))]


def judged(name):
    """By claim: the parts, the p of the whole after Holm, and the verdict."""
    found = of(name)
    stated = yaml.safe_load((HOME / f"experiments/{name}/published.yaml").read_text())["claims"]
    raw = {}
    for claim in stated:
        of_it = parts(claim, found)
        out = [t[3] for t in of_it if t and t[3] is not None and not t[4]]
        whole = bool(of_it) and all(t and t[3] is not None for t in of_it)
        refuting = min(1.0, len(of_it) * min(out)) if out else None
        p = refuting if refuting is not None and (refuting < 0.05 or whole) else None
        if p is None and whole:
            p = max(t[3] for t in of_it)
        raw[claim["id"]] = of_it, p, bool(out)
    adjusted, largest, left = {}, 0.0, sorted((p, i) for i, (_, p, _) in raw.items() if p is not None)
    for rank, (p, i) in enumerate(left):
        largest = max(largest, min(1.0, (len(left) - rank) * p))
        adjusted[i] = largest
    said = {}
    for i, (of_it, _, out) in raw.items():
        decided = "refuted" if out else "supported"
        asked = bool(of_it) and all(of_it)
        verdict = decided if adjusted.get(i, 1) < 0.05 else "undecided" if asked else "not tested at this scale"
        said[i] = (of_it, adjusted.get(i), verdict)
    return said


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_committed_claims_follow_from_the_rows_beside_them(name):
    again = judged(name)
    for claim in of(name)["claims"]:
        of_it, p, verdict = again[claim["id"]]
        assert (claim["id"], claim["verdict"]) == (claim["id"], verdict)
        assert claim["p"] == (None if p is None else pytest.approx(p, rel=1e-6)), claim["id"]
        if claim["measured"] is not None:
            shown = [t for t in of_it if t and t[0] == pytest.approx(claim["measured"], rel=1e-9, abs=1e-12)]
            assert shown, claim["id"]
            if claim["low"] is not None:
                assert (claim["low"], claim["high"]) == pytest.approx(shown[0][1:3], rel=1e-6, abs=1e-12)


def points(value):
    return f"{100 * value:+.1f}".replace("-", "−")


SIGNS = {"supported": "✓ supported", "refuted": "✗ refuted", "undecided": "≈ undecided"}
README = [
    ("table2", "match", "A merge matches"),
    ("table2", "best", "… nor does the best"),
    ("table2", "cost", "… at less than"),
    ("table2", "order-coding", "trade coding"),
    ("table2", "order-math", "… and better at mathematics"),
    ("figure2", "fusion-soup-base-science-on-science", "Arcee Fusion beats the soup"),
    ("figure2", "fusion-soup-base-science-on-math", "… on the other domain"),
    ("figure2", "fusion-soup-base-science", "… on the mean"),
    ("figure2", "soup-dare-linear-science", "The soup beats DARE-linear"),
    ("figure2", "dare-linear-dare-ties-science", "DARE-linear beats DARE-TIES"),
    ("table3", "experts-forget", "Experts lose elsewhere"),
]


@pytest.mark.parametrize(("name", "claim", "words"), README, ids=[f"{n}-{c}" for n, c, _ in README])
def test_the_readme_prints_what_the_rows_say(name, claim, words):
    text = (HOME / "README.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("|") and words in re.sub(r"[\[\]]", "", line))
    (of_it, _, verdict) = judged(name)[claim]
    measured, low, high, _, _ = of_it[0]
    if claim == "cost":
        assert f"{100 * measured:.1f} %" in line
    else:
        assert f"{points(measured)} ({points(low)} to {points(high)})" in line
    assert SIGNS[verdict] in line


NUMBER = r"([+−]?\d+\.\d+)"
INTERVAL = re.compile(rf"{NUMBER}[^()\d]{{0,40}}?\(?,? ?\(?{NUMBER} to {NUMBER}")
"""As prose has it: `+4.4, 2.6 to 6.3` or `17.8 points below it (14.3 to 21.2)`."""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_interval_in_an_experiments_readme_is_that_of_a_claim(name):
    """By size, as "17.8 below" is −17.8; cosines too from the table of their figure."""
    ends = ("measured", "low", "high")
    parts = [part for claim in of(name)["claims"] for part in (claim, *claim["parts"]) if part["low"] is not None]
    triples = [[part[end] for end in ends] for part in parts]
    for file in HOME.glob(f"experiments/{name}/figures/cosines-*.csv"):
        triples += [[float(v) for v in line.split(",")[1:4]] for line in file.read_text().splitlines()[1:]]
    sizes = {
        (f"{abs(m) * scale:.{digits}f}", *sorted(f"{abs(end) * scale:.{digits}f}" for end in (low, high)))
        for m, low, high in triples
        for scale, digits in ((100, 1), (1, 2), (1, 3))
    }
    for found in INTERVAL.finditer((HOME / f"experiments/{name}/README.md").read_text().replace("\n", " ")):
        m, low, high = (group.lstrip("+−") for group in found.groups())
        assert (m, *sorted((low, high))) in sizes, found[0]


def test_the_readme_says_what_the_cosines_of_each_pair_are():
    """From the table of the committed figure: the mean and the interval of every pair."""
    text, refuting = (HOME / "README.md").read_text(), []
    for of_it, bounds in (("gradients", (None, 0.0)), ("updates", (-0.1, 0.1))):
        path = HOME / f"experiments/mechanism/figures/cosines-{of_it}.csv"
        outside, lines = [], [line.split(",") for line in path.read_text().splitlines()[1:]]
        for pair, mean, low, high, seeds in lines:
            error = (float(high) - float(low)) / 2 / stats.t.ppf(0.975, int(seeds) - 1)
            assert f"{pair} {float(mean):+.3f}".replace("-", "−") in text
            for bound, side in zip(bounds, (-1, 1), strict=True):
                if bound is not None and side * (float(mean) - bound) > 0:
                    outside.append(2 * stats.t.sf(abs(float(mean) - bound) / error, int(seeds) - 1))
        refuting.append(min(outside) * len(lines))
    assert 2 * min(refuting) < 0.05 and max(refuting) < 0.05  # Holm
    rows = [line for line in text.splitlines() if line.startswith("|") and "cosines: math" in line]
    assert len(rows) == 2 and all(line.endswith("✗ refuted |") for line in rows)
