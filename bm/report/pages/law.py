"""The law of a grid of regimes: in words, as data for forecasts, and beside what is known of other scales."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from bm.report.figures.numbers import count, points
from bm.report.findings.forecast import NOMINAL, Fit, best, foretell, told
from bm.report.findings.law import Explained, Found, Law, explained
from bm.report.findings.published import experiments_dir
from bm.report.findings.regimes import MEASURES, Regime, of_the_paper, regimes
from bm.report.pages.record import FILE, recorded
from bm.report.pages.wording import WITHIN, foretold


def beside(method: str) -> dict[str, Regime]:
    """What was measured elsewhere: in the paper, and on SmolLM2 with the same method or else the soup."""
    found = {"TinyR1-32B, the paper": of_the_paper()}
    record = experiments_dir() / "smollm2" / FILE
    if record.is_file():
        for cell in recorded(json.loads(record.read_text())).cells:
            made = {regime.method: regime for regime in regimes(cell.results)}
            if regime := made.get(method) or made.get("linear"):
                found[f"SmolLM2, seed {cell.seed}"] = regime
    return found


def sentences(
    found: Sequence[Found], laws: Sequence[Law], fits: Sequence[Fit], others: Mapping[str, Regime]
) -> list[str]:
    """The law, a sentence each: up to which gain, at which price, what tells it, how well it is foretold."""
    if not laws:
        return []
    of = [one for one in found if one.regime.method == laws[0].method]
    return [*_law(laws), *_told(explained(of), laws[0].method), *_tried(fits), *_checked(fits, others)]


def _law(laws: Sequence[Law]) -> Iterator[str]:
    law = laws[0]
    cost = f"each 10 points more that the experts gain cost it {-10 * law.slope.mean:.1f} points"
    interval = f"({-10 * law.slope.high:.1f} to {-10 * law.slope.low:.1f})"
    start = f"{count(law.cells, 'cell')}: with experts that gain nothing the {law.method} merge is"
    apart = f"{points(law.intercept.mean)} points from the mixture of the same tokens"
    yield f"{start} {apart}, and {cost} {interval}."
    for one in laws:
        if one.safe is None:
            yield f"{one.method}: nowhere certain to be {WITHIN} the mixture."
        else:
            upto = f"where experts gain up to {100 * one.safe:.1f} points (95 %)"
            yield f"{one.method}: {WITHIN} the mixture, or above it, {upto}."


def _told(found: Sequence[Explained], method: str) -> Iterator[str]:
    said = ", ".join(f"{MEASURES[one.measure]} ({one.correlation.mean:+.2f})" for one in found[:3]).replace("-", "−")
    yield f"What goes with the gap of the {method} merge most (rank correlation): {said}."


def _tried(fits: Sequence[Fit]) -> Iterator[str]:
    for one in (one for one in fits if one.error is not None):
        yield (
            f"Forecast from {one.kind}, on strengths and seeds left out: error {100 * (one.error or 0):.1f} points, "
            f"{one.coverage or 0:.0%} of the gaps within {NOMINAL:.0%} intervals."
        )


def _checked(fits: Sequence[Fit], others: Mapping[str, Regime]) -> Iterator[str]:
    """Forecasts where the truth is known and nothing was fitted."""
    for name, regime in others.items():
        usable = [one for one in fits if regime.known(*one.measures)]
        if usable and regime.gap is not None:
            said = foretell(regime, best(usable)[0])
            yield f"{name}: {foretold(said)}; measured {points(regime.gap)}."


def as_json(
    found: Sequence[Found], laws: Sequence[Law], fits: Sequence[Fit], others: Mapping[str, Regime]
) -> dict[str, Any]:
    """law.json: what forecasts need, and the law itself."""
    methods = dict.fromkeys(one.regime.method for one in found)
    gains = [one.regime.gain or 0.0 for one in found]
    return {
        "cells": len({(one.student, one.length) for one in found}),
        "seeds": sorted({one.seed for one in found}),
        "gain": {"lowest": min(gains), "mean": fmean(gains), "highest": max(gains)},
        "laws": [{name: value for name, value in asdict(law).items() if name != "lines"} for law in laws],
        "explained": {
            m: [asdict(e) for e in explained([one for one in found if one.regime.method == m])] for m in methods
        },
        "forecasts": told(fits),
        "elsewhere": {name: asdict(regime) for name, regime in others.items()},
    }
