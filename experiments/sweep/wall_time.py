"""What a sweep of twelve merges takes, against its parts: branches, merges and evaluations, each by its manifest.

    python -m experiments.sweep.wall_time FOLDER [OVERRIDE...]

FOLDER must not exist yet. Prints the seconds of the sweep, those of all that its store holds, and the ratio of the two;
the second is what the same artefacts took to make, without starting a process, composing settings, or a report.
"""

import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from bm.store import Store

ORDERS = [f"({a} & {b}) & {c}" for a, b, c in (("math", "coding", "science"), ("math", "science", "coding"),
                                              ("coding", "science", "math"))]  # fmt: skip
LAMS = (0.5, 1.0, 1.5, 2.0)


def main(folder: Path, words: list[str]) -> None:
    folder.mkdir(parents=True)
    orders = ",".join(f'"{order}"' for order in ORDERS)
    lams = ",".join(map(str, LAMS))
    sweep = ["merge=arcee_fusion", f"merge.order={orders}", f"merge.methods.arcee_fusion.lam={lams}", "~mixture"]
    bm = Path(sys.executable).with_name("bm")
    began = time.monotonic()
    subprocess.run([bm, "run", "-m", *sweep, *words], cwd=folder, check=True)
    took = time.monotonic() - began
    seconds: dict[str, float] = defaultdict(float)
    artefacts = Store(folder / "outputs/store").all()
    for artefact in artefacts:
        seconds[artefact.manifest["stage"]] += artefact.manifest["seconds"]
    counts = Counter(artefact.manifest["stage"] for artefact in artefacts)
    for stage, spent in seconds.items():
        print(f"{stage:<14}{counts[stage]:>4}  {spent:8.1f} s")
    parts = sum(seconds.values())
    print(f"sweep {took:.1f} s, parts {parts:.1f} s, ratio {took / parts:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
