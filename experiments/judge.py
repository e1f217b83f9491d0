"""Judge and draw committed rows again: claims, claims.csv, claims.tex and figures follow from the rows beside them.

python -m experiments.judge [NAME ...]        # without names: every experiment that has a measured.json with claims
"""

import sys
from pathlib import Path

from bm.report.figures.numbers import measure
from bm.report.findings.published import names
from bm.report.pages.experiment import redraw
from bm.report.pages.record import FILE, judge
from bm.report.pages.wording import TRUTHS

HOME = Path(__file__).parent


def main(chosen: list[str]) -> None:
    for name in chosen or [name for name in names() if (HOME / name / FILE).is_file()]:
        print(name)
        redraw(HOME / name)
        for claim in judge(HOME / name):
            said = [measure(claim.test, v) if v is not None else "–" for v in (claim.measured, claim.low, claim.high)]
            p = "" if claim.p is None else f", p = {claim.p:.2g} of all"
            print(f"  {TRUTHS[claim.verdict]} {claim.id}: {said[0]} ({said[1]} to {said[2]}){p}; alone {claim.alone}")


if __name__ == "__main__":
    main(sys.argv[1:])
