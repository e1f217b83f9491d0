"""The law of a grid of regimes: in words, as data for forecasts, and beside what is known of other scales."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from bm.report.figures.numbers import count, points, signed
from bm.report.findings.forecast import NOMINAL, Fit, best, predict, told
from bm.report.findings.law import Law, Observation, explained
from bm.report.findings.published import experiments_dir
from bm.report.findings.regimes import MEASURES, Regime, of_the_paper, regimes
from bm.report.pages.record import FILE, recorded
from bm.report.pages.wording import WITHIN, predicted
from bm.statistics import Interval


def beside(method: str) -> dict[str, Regime]:
    """What was measured elsewhere: in the paper, and on SmolLM2 with the same method or else the soup."""
    known = {"TinyR1-32B, the paper": of_the_paper()}
    for experiment, student in (("smollm2", "SmolLM2"), ("phase_smollm2", "SmolLM2, taught")):
        record = experiments_dir() / experiment / FILE
        for cell in recorded(json.loads(record.read_text())).cells if record.is_file() else ():
            made = {regime.method: regime for regime in regimes(cell.results)}
            if regime := made.get(method) or made.get("linear"):
                known[f"{student}, seed {cell.seed}"] = regime
    return known


def sentences(
    merges: Sequence[Observation], laws: Sequence[Law], fits: Sequence[Fit], others: Mapping[str, Regime]
) -> list[str]:
    """The law, a sentence each: up to which gain, at which price, what tells it, how well it is predicted."""
    if not laws:
        return []
    of = [merge for merge in merges if merge.regime.method == laws[0].method]
    return [*_law(laws), *_told(explained(of), laws[0].method), *_tried(fits), *_checked(fits, others)]


def _law(laws: Sequence[Law]) -> Iterator[str]:
    first = laws[0]
    cost = f"each 10 points more that the experts gain cost it {-10 * first.slope.mean:.1f} points"
    interval = f"({-10 * first.slope.high:.1f} to {-10 * first.slope.low:.1f})"
    start = f"{count(first.cells, 'cell')}: with experts that gain nothing the {first.method} merge is"
    apart = f"{points(first.intercept.mean)} points from the mixture of the same tokens"
    yield f"{start} {apart}, and {cost} {interval}."
    for law in laws:
        if law.safe is None:
            yield f"{law.method}: nowhere certain to be {WITHIN} the mixture."
        else:
            upto = f"where experts gain up to {100 * law.safe:.1f} points (95 %)"
            yield f"{law.method}: {WITHIN} the mixture, or above it, {upto}."


def _told(correlations: Mapping[str, Interval], method: str) -> Iterator[str]:
    said = ", ".join(f"{MEASURES[measure]} ({signed(c.mean, '.2f')})" for measure, c in [*correlations.items()][:3])
    yield f"What goes with the gap of the {method} merge most (rank correlation): {said}."


def _tried(fits: Sequence[Fit]) -> Iterator[str]:
    for fit in (fit for fit in fits if fit.error is not None):
        yield (
            f"Forecast from {fit.kind}, on strengths and seeds left out: error {100 * (fit.error or 0):.1f} points, "
            f"{fit.coverage or 0:.0%} of the gaps within {NOMINAL:.0%} intervals."
        )


def _checked(fits: Sequence[Fit], others: Mapping[str, Regime]) -> Iterator[str]:
    """Forecasts where the truth is known and nothing was fitted."""
    for name, regime in others.items():
        usable = [fit for fit in fits if regime.known(*fit.measures)]
        if usable and regime.gap is not None:
            said = predict(regime, best(usable)[0])
            yield f"{name}: {predicted(said)}; measured {points(regime.gap)}."


def as_json(
    merges: Sequence[Observation], laws: Sequence[Law], fits: Sequence[Fit], others: Mapping[str, Regime]
) -> dict[str, Any]:
    """law.json: what forecasts need, and the law itself."""
    methods = dict.fromkeys(merge.regime.method for merge in merges)
    gains = [merge.regime.gain or 0.0 for merge in merges]
    return {
        "cells": len({(merge.student, merge.length) for merge in merges}),
        "seeds": sorted({merge.seed for merge in merges}),
        "gain": {"lowest": min(gains), "mean": fmean(gains), "highest": max(gains)},
        "laws": [{name: value for name, value in asdict(law).items() if name != "lines"} for law in laws],
        "explained": {
            method: {name: asdict(c) for name, c in explained([m for m in merges if m.regime.method == method]).items()}
            for method in methods
        },
        "forecasts": told(fits),
        "elsewhere": {name: asdict(regime) for name, regime in others.items()},
    }
