"""Training against TRL on the same tokens, each side in a process of its own; writes `branch/*` of measured.json.

`python -m experiments.speed.branch`, about eight minutes on two cores. Seconds are of the training alone (Lightning's
fit, model loading included; SFTTrainer's train), so equal tokens over seconds are the ratio of real tokens per second.
What `bm` needs for one long document (21 M parameters, blocks checkpointed) stands in `one_document`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.speed.branch_workload import LONGEST, write
from experiments.speed.measuring import ROOT, Usage, peer, record, row, show

PEER = "trl==1.16.0"
WORK = ROOT / "outputs" / "bench" / "branch"
LENGTHS = (4096, 8192, 16384)


def run(python: Path, side: str, work: Path, *words: str) -> dict[str, Any]:
    """One process; its last line is JSON. What else it says goes to a log, whose end is shown if it fails."""
    log = work / f"{side}-{Path(words[-1]).name}.log"
    command = [str(python), "-m", f"experiments.speed.{side}", *words]
    with log.open("w") as output:
        ended = subprocess.run(command, cwd=ROOT, env=os.environ | {"CI": "1", "HF_HUB_OFFLINE": "1"}, text=True,
                               stdout=subprocess.PIPE, stderr=output)  # fmt: skip
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    facts: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(*command[2:3], words[-1], facts, file=sys.stderr)
    return facts


def usage(facts: dict[str, Any]) -> Usage:
    return Usage(facts["seconds"], facts["peak_rss_gb"])


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    here, there = Path(sys.executable), peer(PEER) / "python"
    write(WORK / "model", hidden=384, positions=LONGEST)
    write(WORK / "long", hidden=288, positions=LENGTHS[-1])
    model, long_model = str(WORK / "model"), str(WORK / "long")
    ours = run(here, "branch_ours", WORK, model, str(WORK / "all"), "all")
    peers = {m: run(there, "branch_trl", WORK, model, str(WORK / m), m) for m in ("padded", "packed")}
    long = {n: run(here, "branch_ours", WORK, long_model, str(WORK / f"{n}"), f"{n}") for n in LENGTHS}
    more = {"tokens": ours["tokens"], "flop_utilisation": ours["flop_utilisation"], "one_document": long}
    rows = []
    for mode, facts in peers.items():
        assert facts["tokens"] == ours["tokens"]
        rows.append(row(f"branch/{mode}", usage(ours), usage(facts), PEER, "make bench-branch", **more))
    record(rows)
    show("training", rows)
    print(f"model-FLOP utilisation {ours['flop_utilisation']:.0%}; one document: "
          + ", ".join(f"{n} tokens {facts['peak_rss_gb']} GB" for n, facts in long.items()))  # fmt: skip


if __name__ == "__main__":
    main()
