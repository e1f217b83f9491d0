"""Which entries Arcee Fusion takes from a real expert: ours and mergekit's, each against float64.

    python -m experiments.smollm2.fusion BASE OTHER

merges OTHER into BASE, two experts of one student in bf16, with both programs, and writes fusion.json: the share of
entries taken, and the Jaccard index with the entries that a float64 computation of the same formula takes.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.speed.measuring import peer

PEER = "mergekit==0.1.5"
LAM = 1.5
BM = str(Path(sys.executable).with_name("bm"))
HERE = Path(__file__).parent


def rounded(folder: Path, output: Path) -> Path:
    """The model in bf16, as it is merged in the paper."""
    output.mkdir()
    for file in folder.glob("*.json"):
        (output / file.name).write_bytes(file.read_bytes())
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, output / "model.safetensors", {"format": "pt"})
    return output


def ours(base: Path, other: Path, output: Path) -> Path:
    lam = f"merge.methods.arcee_fusion.lam={LAM}"
    subprocess.run([BM, "merge", f"base={base}", f"models=[{other}]", f"output={output}", lam], check=True)
    return output


def mergekits(base: Path, other: Path, output: Path) -> Path:
    """mergekit 0.1.5 has this λ built in."""
    config = output.with_suffix(".yml")
    config.write_text(
        f"merge_method: arcee_fusion\nmodels: [{{model: {other}}}]\nbase_model: {base}\ndtype: bfloat16\n"
    )
    subprocess.run([peer(PEER) / "mergekit-yaml", config, output, "--no-copy-tokenizer"], check=True)
    return output


def oracle(base: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(θR) ‖ softmax(θL)) · |θR − θL| > median + λ·(Q3 − Q1), as it stands, in float64."""
    left, right = base.double(), other.double()
    p, q = torch.log_softmax(right, -1), torch.log_softmax(left, -1)
    score = (p.exp() * (p - q)).sum(-1, keepdim=True) * (right - left).abs()
    ordered = score.flatten().sort().values
    q1, median, q3 = (_quantile(ordered, share) for share in (0.25, 0.5, 0.75))
    return score > median + LAM * (q3 - q1)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """Linear between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], place - low)


def compare(base: Path, other: Path, merged: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """By program: the shares taken of all entries and of those that differ, and the Jaccard index with the oracle."""
    counts = {name: torch.zeros(3, dtype=torch.float64) for name in merged}  # taken, of both, of either
    entries = differ = wanted = 0
    for name, left, right in _tensors(base, other):
        changed = left != right
        target = oracle(left, right) & changed
        entries, differ, wanted = entries + left.numel(), differ + int(changed.sum()), wanted + int(target.sum())
        for program, folder in merged.items():
            with safe_open(folder / "model.safetensors", "pt") as file:
                taken = (file.get_tensor(name) != left) & changed
            counts[program] += torch.tensor([taken.sum(), (taken & target).sum(), (taken | target).sum()])
    counts["float64"] = torch.tensor([wanted] * 3, dtype=torch.float64)
    return {
        program: {"taken": taken / entries, "taken_of_changed": taken / differ, "jaccard": both / either}
        for program, (taken, both, either) in ((name, count.tolist()) for name, count in counts.items())
    }


def _tensors(base: Path, other: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    with safe_open(base / "model.safetensors", "pt") as left, safe_open(other / "model.safetensors", "pt") as right:
        for name in left.keys():  # noqa: SIM118  # a file, not a mapping
            yield name, left.get_tensor(name), right.get_tensor(name)


def main(base: Path, other: Path) -> None:
    with TemporaryDirectory() as work:
        place = Path(work)
        pair = rounded(base, place / "base"), rounded(other, place / "other")
        merged = {"bm": ours(*pair, place / "bm"), PEER: mergekits(*pair, place / "mergekit")}
        compared = compare(*pair, merged)
    (HERE / "fusion.json").write_text(json.dumps({"lam": LAM, "programs": compared}, indent=2) + "\n")
    table = Table("program", "taken", "of what changed", "Jaccard with float64", title="Arcee Fusion of two experts")
    for program, row in compared.items():
        table.add_row(program, f"{row['taken']:.2%}", f"{row['taken_of_changed']:.2%}", f"{row['jaccard']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
