"""Training against TRL on the same tokens, each side in a process of its own; writes `branch/*` of measured.json.

`python -m experiments.speed.branch`, about eight minutes on two cores. Seconds are of the training alone (Lightning's
fit, model loading included; SFTTrainer's train), so equal tokens over seconds are the ratio of real tokens per second.
Both sides train in fp32, and where the processor multiplies bf16 (AMX) in bf16-mixed too: rows that end in `_bf16`.
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
FP32, BF16 = "32-true", "bf16-mixed"


def run(python: Path, side: str, work: Path, *words: str) -> dict[str, Any]:
    """One process; its last line is JSON. What else it says goes to a log, whose end is shown if it fails."""
    log = work / f"{side}-{'-'.join(Path(word).name for word in words[1:])}.log"
    command = [str(python), "-m", f"experiments.speed.{side}", *words]
    with log.open("w") as output:
        ended = subprocess.run(command, cwd=ROOT, env=os.environ | {"CI": "1", "HF_HUB_OFFLINE": "1"}, text=True,
                               stdout=subprocess.PIPE, stderr=output)  # fmt: skip
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    facts: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(*command[2:3], log.stem, facts, file=sys.stderr)
    return facts


def usage(facts: dict[str, Any]) -> Usage:
    return Usage(facts["seconds"], facts["peak_rss_gb"])


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products of bf16 matrices."""
    processor = Path("/proc/cpuinfo")
    return processor.exists() and "amx_bf16" in processor.read_text()


def compare(python: Path, model: str, precision: str, **more: Any) -> list[dict[str, object]]:
    """The rows of one precision: ours once, against the peer's two ways."""
    suffix = "" if precision == FP32 else "_bf16"
    ours = run(Path(sys.executable), "branch_ours", WORK, model, str(WORK / f"all{suffix}"), "all", precision)
    more |= {"tokens": ours["tokens"], "flop_utilisation": ours["flop_utilisation"]}
    rows = []
    for mode in ("padded", "packed"):
        facts = run(python, "branch_trl", WORK, model, str(WORK / f"{mode}{suffix}"), mode, precision)
        assert facts["tokens"] == ours["tokens"]
        rows.append(row(f"branch/{mode}{suffix}", usage(ours), usage(facts), PEER, "make bench-branch", **more))
    return rows


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    here, there = Path(sys.executable), peer(PEER) / "python"
    write(WORK / "model", hidden=384, positions=LONGEST)
    write(WORK / "long", hidden=288, positions=LENGTHS[-1])
    model, long_model = str(WORK / "model"), str(WORK / "long")
    long = {n: run(here, "branch_ours", WORK, long_model, str(WORK / f"{n}"), f"{n}", FP32) for n in LENGTHS}
    rows = compare(there, model, FP32, one_document=long)
    if multiplies_bf16():
        rows += compare(there, model, BF16)
    record(rows)
    show("training", rows)
    print("one document: " + ", ".join(f"{n} tokens {facts['peak_rss_gb']} GB" for n, facts in long.items()))


if __name__ == "__main__":
    main()
