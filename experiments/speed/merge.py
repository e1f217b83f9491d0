"""Merging against mergekit, whole processes from start to exit; writes the rows `merge/*` of measured.json.

Ours, the peer and a copy of the same bytes take turns, so that all meet the same machine; the copy is the floor, and is
measured with the models in memory and, after they were dropped from it, from the disk. Rows of several processors stay
side by side. `python -m experiments.speed.merge [ROUNDS]`.
"""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from experiments.speed.measuring import ROOT, Usage, best, machine, measure, peer, record, row, show

PEER = "mergekit==0.1.5"
WORK = ROOT / "outputs" / "bench" / "merge"
BM = str(Path(sys.executable).with_name("bm"))
METHODS = ("arcee_fusion", "ties", "dare_ties", "linear")
LIMIT_GB = 1.5
DENSITY = 0.5
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""The values of λ that the grid merges with."""


def ours(method: str, base: Path, experts: Sequence[Path], output: Path) -> list[str]:
    """Fusion puts one expert into the base, linear averages base and expert, the others merge the updates of two."""
    named = {
        "arcee_fusion": [f"base={base}", f"models=[{experts[0]}]"],
        "linear": [f"models=[{base},{experts[0]}]"],
    }.get(
        method, [f"base={base}", f"models=[{','.join(map(str, experts))}]", f"merge.methods.{method}.density={DENSITY}"]
    )
    return [BM, "merge", f"merge={method}", *named, f"output={output}"]


def theirs(method: str, base: Path, experts: Sequence[Path], output: Path, bin_folder: Path) -> list[str]:
    updates = [f"{{model: {expert}, parameters: {{weight: 1, density: {DENSITY}}}}}" for expert in experts]
    models = {
        "arcee_fusion": f"models: [{{model: {experts[0]}}}]\nbase_model: {base}",
        "linear": f"models: [{{model: {base}}}, {{model: {experts[0]}}}]\nparameters: {{weight: 1}}",
    }.get(method, f"models: [{', '.join(updates)}]\nbase_model: {base}")
    config = WORK / f"{method}.yml"
    config.write_text(f"merge_method: {method}\n{models}\ndtype: bfloat16\n")
    return [str(bin_folder / "mergekit-yaml"), str(config), str(output), "--no-copy-tokenizer"]


def models(size: str, names: Sequence[str] = ("expert",)) -> tuple[Path, list[Path]]:
    """A model and its experts, made by another process: a child's peak memory counts from its parent's."""
    base, *experts = (WORK / size / name for name in ("base", *names))
    if not all((folder / "config.json").exists() for folder in (base, *experts)):
        command = [sys.executable, "-m", "experiments.speed.merge_models", size, base, *experts]
        subprocess.run(command, check=True, cwd=ROOT)
    return base, experts


def run(command: Callable[[Path], list[str]], limit: Callable[[], None] | None = None) -> Usage:
    """One measured merge into a folder that is gone before and after."""
    output = WORK / "merged"
    shutil.rmtree(output, ignore_errors=True)
    usage = measure(command(output), WORK / "log", limit)
    shutil.rmtree(output)
    return usage


def copy(inputs: Sequence[Path], output: Path) -> list[str]:
    """The first model copied and flushed to the disk, the others read: what no merge of these bytes does without."""
    first, *others = (f"{folder}/*.safetensors" for folder in inputs)
    read = f"cat {' '.join(others)} > /dev/null;" if others else ""
    return ["sh", "-c", f"mkdir {output}; {read} cp {first} {output}; sync {output}/*.safetensors"]


def copies(base: Path, expert: Path, count: int, output: Path) -> list[str]:
    """The expert read, and the base copied `count` times and flushed: what no grid of these models does without."""
    first, second = (folder / "model.safetensors" for folder in (base, expert))
    each = f"cp {first} {output}/$i; sync {output}/$i"
    return ["sh", "-c", f"mkdir {output}; cat {second} > /dev/null; for i in $(seq {count}); do {each}; done"]


def inputs(method: str, base: Path, experts: Sequence[Path]) -> list[Path]:
    """What the merge reads."""
    return [base, *experts] if method in ("ties", "dare_ties") else [base, experts[0]]


def dropped(folders: Sequence[Path]) -> None:
    """Takes the models out of the page cache."""
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold(
    command: Callable[[Path], list[str]], folders: Sequence[Path], limit: Callable[[], None] | None = None
) -> Usage:
    dropped(folders)
    return run(command, limit)


def compare(rounds: int) -> list[dict[str, object]]:
    """The rows of single merges, Arcee Fusion's first."""
    bin_folder, (base, experts) = peer(PEER), models("half_billion", ("expert", "other"))
    rows: list[dict[str, object]] = []
    for method in METHODS:
        mine, other, floor, mine_cold, floor_cold = [], [], [], [], []
        read = inputs(method, base, experts)
        merge, copying = partial(ours, method, base, experts), partial(copy, read)
        for _ in range(rounds):
            mine.append(run(merge))
            floor.append(run(copying))
            other.append(run(lambda output, m=method: theirs(m, base, experts, output, bin_folder)))
            mine_cold.append(cold(merge, read))
            floor_cold.append(cold(copying, read))
        more = {"copy": asdict(best(floor)), "cold": asdict(best(mine_cold)), "cold_copy": asdict(best(floor_cold)),
                "copies": round(best(mine).seconds / best(floor).seconds, 2),
                "cold_copies": round(best(mine_cold).seconds / best(floor_cold).seconds, 2)}  # fmt: skip
        rows.append(row(f"merge/{method}", best(mine), best(other), PEER, f"bm merge merge={method}", **more))
        show("so far", rows)
    return rows


def grids(rounds: int, fusion: Usage) -> list[dict[str, object]]:
    """The rows of ten values of λ in one pass, held to ten times the peer's one `fusion`; on disk to ten copies too."""
    base, (expert, _) = models("half_billion", ("expert", "other"))
    peers, rows = Usage(len(LAMBDAS) * fusion.seconds, fusion.peak_rss_gb), []
    for target, name in (("disk", "merge/grid"), ("memory", "merge/grid_memory"), ("digest", "merge/grid_digest")):
        usages, floor = [], []
        for _ in range(rounds):
            usages.append(grid(target, base, expert))
            if target == "disk":
                floor.append(run(partial(copies, base, expert, len(LAMBDAS))))
        more: dict[str, object] = {"note": "peer: ten times its measured single merge"}
        if floor:
            more |= {"copy": asdict(best(floor)), "copies": round(best(usages).seconds / best(floor).seconds, 2)}
        rows.append(row(name, best(usages), peers, PEER, f"python -m experiments.speed.merge_grid {target}", **more))
    return rows


def grid(target: str, base: Path, expert: Path) -> Usage:
    command = [sys.executable, "-m", "experiments.speed.merge_grid", target, str(base), str(expert), str(WORK / "grid")]
    shutil.rmtree(WORK / "grid", ignore_errors=True)
    usage = measure(command, WORK / "log")
    shutil.rmtree(WORK / "grid", ignore_errors=True)
    return usage


def doubled(rounds: int) -> dict[str, object]:
    """Ours on twice the layers, and as multiples of what half of them take."""
    small, large = models("half_billion"), models("doubled")
    small_runs, large_runs = [], []
    for _ in range(rounds):
        small_runs.append(run(lambda output: ours("arcee_fusion", *small, output)))
        large_runs.append(run(lambda output: ours("arcee_fusion", *large, output)))
    shutil.rmtree(WORK / "doubled")
    large_usage, small_usage = best(large_runs), best(small_runs)
    return {"name": "merge/doubled", **asdict(large_usage), "machine": machine(),
            "times_the_seconds": round(large_usage.seconds / small_usage.seconds, 2),
            "times_the_memory": round(large_usage.peak_rss_gb / small_usage.peak_rss_gb, 2)}  # fmt: skip


def threads(rounds: int, base: Path, expert: Path, names: Mapping[str, tuple[int, int]]) -> list[dict[str, object]]:
    """A fusion by so many threads in each of so many processes side by side: whole processes, and the merge alone.

    They take turns, with the models in memory. Two processes that share nothing but the machine show what its second
    core is worth: no two threads gain more.
    """
    usages: dict[str, list[Usage]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    subprocess.run(f"cat {base}/*.safetensors {expert}/*.safetensors > /dev/null", shell=True, check=True)
    for name, (count, processes) in [*names.items()] * rounds:
        outputs = [WORK / f"merged-{number}" for number in range(processes)]
        commands = [[*ours("arcee_fusion", base, [expert], output), f"merge.threads={count}"] for output in outputs]
        usages[name].append(measure(["sh", "-c", f"{' & '.join(map(shlex.join, commands))} && wait"], WORK / "log"))
        alone[name].append(max(json.loads((output / "manifest.json").read_text())["seconds"] for output in outputs))
        for output in outputs:
            shutil.rmtree(output)
    return [
        {"name": f"merge/{name}", **asdict(best(usages[name])), "machine": machine(), "merge_seconds": min(alone[name])}
        for name in names
    ]


def many_experts(rounds: int) -> list[dict[str, object]]:
    """TIES over 2 to 32 experts: memory and the seconds a GB read. The experts are two, met under many names."""
    base, experts = models("half_billion", ("expert", "other"))
    rows: list[dict[str, object]] = []
    for count in (2, 4, 8, 16, 32):
        folders = [WORK / "many" / f"expert-{i}" for i in range(count)]
        shutil.rmtree(WORK / "many", ignore_errors=True)
        for i, folder in enumerate(folders):
            folder.parent.mkdir(exist_ok=True)
            folder.symlink_to(experts[i % 2])
        usage = best([run(partial(ours, "ties", base, folders)) for _ in range(rounds)])
        read = (count + 1) * (base / "model.safetensors").stat().st_size / 1e9
        rows.append({"name": f"merge/experts_{count:02}", **asdict(usage), "machine": machine(),
                     "seconds_per_gb": round(usage.seconds / read, 3)})  # fmt: skip
    shutil.rmtree(WORK / "many")
    return rows


def four_billion() -> list[dict[str, object]]:
    """4 B parameters in shards, in a process that may allocate no more than 1.5 GB, and the copy of their bytes.

    Both from the disk, which is not busy with what has just been made. Then by one and by two threads, from memory.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(LIMIT_GB * 1e9),) * 2)

    base, experts = models("four_billion")
    folders = [base, *experts]
    usage = cold(
        lambda output: [*ours("arcee_fusion", base, experts, output), "merge.max_shard_size=2GB"], folders, limit
    )
    floor = cold(partial(copy, folders), folders)
    size = sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors")) / 1e9
    by_threads = threads(2, base, experts[0], {"four_billion_threads_1": (1, 1), "four_billion_threads_2": (2, 1)})
    shutil.rmtree(WORK / "four_billion")
    billions = size / 4  # two models of two bytes a parameter
    cold_row = {"name": "merge/four_billion", **asdict(usage), "limit_gb": LIMIT_GB, "machine": machine(),
            "read_gb_per_second": round(size / usage.seconds, 2), "copy": asdict(floor),
            "copy_gb_per_second": round(size / floor.seconds, 2), "copies": round(usage.seconds / floor.seconds, 2),
            "cpu_seconds_per_billion": round((usage.cpu_seconds or 0) / billions, 2)}  # fmt: skip
    return [cold_row, *by_threads]


def main(rounds: int) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    rows = compare(rounds)
    rows += grids(rounds, Usage(**rows[0]["peer"]))
    record(rows)
    show("merging: ours and mergekit's whole processes", rows)
    base, (expert, _) = models("half_billion", ("expert", "other"))
    by_threads = threads(2 * rounds, base, expert, {"threads_1": (1, 1), "threads_2": (2, 1), "side_by_side": (1, 2)})
    scaling = [doubled(rounds), *by_threads, *many_experts(1), *four_billion()]
    record(scaling, "scaling")
    for measured in scaling:
        print(", ".join(f"{what} {value}" for what, value in measured.items() if what != "machine"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
