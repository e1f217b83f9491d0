"""The engine: the same bits however it is run, interrupted or stored, and equal to merges done on whole tensors."""

import dataclasses
import hashlib
import json
import random
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bm.errors import UserError
from bm.merge import engine, merge, merge_folders, merge_grid, merge_in_memory, merge_many, native, orders, tiling
from bm.merge.checkpoint import checkpoint
from bm.merge.dtypes import Dtype
from bm.merge.methods import dare_linear, fisher, nuslerp, task_arithmetic
from bm.merge.order import parse
from bm.merge.scores import Change
from bm.merge.sinks import Digest, Folder, Memory
from bm.merge.tensors import Compute, Tensors
from bm.merge.workers import Urgency
from bm.plan.live import Live
from tests.merge.folders import FUSION, LINEAR, Settings, equal, load, save, weights
from tests.merge.methods import oracles

RELEASED = parse("(math & science) & coding", ["math", "science", "coding"])


DARE = partial(dare_linear, density=0.5, weights=1.0, lam=1.0, normalize=False, rescale="probability")
FISHER = partial(fisher, weights=1.0, floor=1e-12)


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles and blocks even in a small model."""
    monkeypatch.setattr(tiling, "TILE_ELEMENTS", 1 << 10)


def test_a_tree_equals_merges_one_after_the_other(experts, tmp_path, small_tiles):
    merge(RELEASED, FUSION, experts, None, Settings(), tmp_path / "tree")
    merge_folders(FUSION, experts["science"], [experts["math"]], Settings(), tmp_path / "first")
    merge_folders(FUSION, experts["coding"], [tmp_path / "first"], Settings(), tmp_path / "second")
    assert equal(load(tmp_path / "tree"), load(tmp_path / "second"))


def test_a_method_of_two_updates_follows_the_order_over_the_student(experts, student, small_tiles):
    """NuSLERP of (math & science) & coding against its formula in float64, step by step."""
    method = partial(nuslerp, weights=[1.0, 3.0], over="tensor")
    merged = merge_in_memory(RELEASED, method, experts, student, Settings(out_dtype="float32"))
    base, parts = load(student), {name: load(folder) for name, folder in experts.items()}
    for name, value in merged.items():
        wide = {n: part[name].double().numpy() for n, part in parts.items()}
        first = oracles.nuslerp(base[name].double().numpy(), [wide["math"], wide["science"]], [1, 3], None)
        exact = oracles.nuslerp(base[name].double().numpy(), [first, wide["coding"]], [1, 3], None)
        assert np.abs(value.double().numpy() - exact).max() <= 1e-6, name
    assert [str(order) for order in orders("all", ["math", "coding"], method)] == ["math & coding", "coding & math"]


def test_a_method_of_two_models_refuses_one_alone(experts, student, tmp_path):
    method = partial(nuslerp, weights=1.0, over="tensor")
    with pytest.raises(UserError, match="two models"):
        merge_folders(method, student, [experts["math"]], Settings(), tmp_path)


@pytest.mark.parametrize("method", [FUSION, LINEAR, DARE])
def test_threads_blocks_and_held_scores_change_no_bit(method, experts, student, small_tiles, monkeypatch):
    order = RELEASED if method is FUSION else orders("all", list(experts), method)[0]
    expected = merge_in_memory(order, method, experts, student, Settings(threads=1))
    for threads, block, cache in ((2, 1, 1 << 28), (5, 7, 0), (3, 1000, 1 << 14)):
        monkeypatch.setattr(
            "bm.merge.merging.computing",
            lambda *a, b=block, c=cache: Compute(*a, task_tiles=b, allowance=tiling.Allowance(c)),
        )
        assert equal(merge_in_memory(order, method, experts, student, Settings(threads=threads)), expected)


def test_a_streamed_tensor_equals_the_whole_one(experts, small_tiles):
    """One tile, the whole tensor, against the engine's many."""
    merged = merge_in_memory(parse("math & coding", list(experts)), FUSION, experts, None, Settings())
    math, coding = load(experts["math"]), load(experts["coding"])
    for name, value in merged.items():
        whole = Tensors.held(coding[name], [math[name]], name, run=Compute(tile_elements=1 << 30))
        (tile,) = whole.tiles(range(1))
        result = FUSION(whole)(tile)
        expected = torch.where(result.taken.bool(), result.other, result.base).reshape(value.shape)
        assert torch.equal(value, expected.to(torch.bfloat16)), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_linear_against_float64(dtype, experts, student, tmp_path):
    order = orders("all", list(experts), LINEAR)[0]
    merge(order, partial(LINEAR, weights=[1, 2, 3]), experts, student, Settings(out_dtype=dtype), tmp_path / "out")
    parts = [load(folder) for folder in experts.values()]
    for name, value in load(tmp_path / "out").items():
        assert value.dtype == getattr(torch, dtype)
        exact = sum(w * part[name].double() for w, part in zip((1, 2, 3), parts, strict=True)) / 6
        assert ((value.double() - exact).abs() <= torch.finfo(value.dtype).eps * exact.abs() + 1e-7).all()


def test_many_merges_in_one_pass_equal_each_alone(experts, tmp_path, small_tiles):
    """A sweep over λ and variants to disk, to memory and to digests: the same bits as one by one."""
    methods = [partial(FUSION, lam=lam) for lam in (0.5, 1.5, 3.0)] + [partial(FUSION, variant="paper")]
    order = parse("math & coding", list(experts))
    sinks = [Folder(tmp_path / "a"), Memory(), Digest(), Memory()]
    outcomes = merge_many(order, methods, experts, None, Settings(), sinks)
    alone = [merge_in_memory(order, method, experts, None, Settings()) for method in methods]
    assert equal(load(tmp_path / "a"), alone[0])
    assert equal(sinks[1].tensors, alone[1])
    merge(order, methods[2], experts, None, Settings(), tmp_path / "c")
    assert outcomes[2].digests == {"model.safetensors": sha256(tmp_path / "c" / "model.safetensors")}
    assert equal(sinks[3].tensors, alone[3])
    shares = [sum(r["kept_share"] * r["elements"] for r in outcome.rows) for outcome in outcomes[:3]]
    assert shares == sorted(shares, reverse=True)


def test_a_sweep_scores_once(experts, monkeypatch):
    scored, sample = [], native.sample
    monkeypatch.setattr(native, "sample", lambda base, *rest: scored.append(base.size) or sample(base, *rest))
    methods = [partial(FUSION, lam=lam) for lam in range(10)]
    merge_many(parse("math & coding", list(experts)), methods, experts, None, Settings(), [Digest() for _ in methods])
    assert sum(scored) == sum(tensor.numel() for tensor in load(experts["math"]).values())


def test_shards_and_index(experts, tmp_path):
    order = parse("math & coding", list(experts))
    whole = merge_in_memory(order, FUSION, experts, None, Settings())
    facts = merge(order, FUSION, experts, None, Settings(max_shard_size="50KB"), tmp_path / "out")
    assert equal(load(tmp_path / "out"), whole)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(whole)
    assert index["metadata"]["total_size"] == sum(t.numel() * 2 for t in whole.values())
    assert len(set(index["weight_map"].values())) > 2
    again = merge(order, FUSION, experts | {"coding": experts["coding"]}, None, Settings(), tmp_path / "one")
    merge_folders(FUSION, tmp_path / "out", [tmp_path / "one"], Settings(), tmp_path / "read back")
    assert equal(load(tmp_path / "read back"), whole)
    for folder, said in ((tmp_path / "out", facts), (tmp_path / "one", again)):
        assert said["digests"] == {file.name: sha256(file) for file in folder.iterdir()}


def test_measurements(experts, student, tmp_path):
    facts = merge(RELEASED, FUSION, experts, student, Settings(out_dtype="float32"), tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "tensors.parquet").to_pylist()
    merged, kept = load(tmp_path / "out"), load(experts["coding"])
    last = {row["tensor"]: row for row in rows if row["step"] == 1}
    assert set(last) == set(merged)
    assert [row["other"] for row in rows if row["step"] == 0] == ["math"] * len(merged)
    for name, row in last.items():
        update = merged[name].double() - kept[name].double()
        assert row["update_norm"] == pytest.approx(update.norm().item(), rel=1e-5)
        assert row["kept_share"] == pytest.approx((update != 0).double().mean().item(), abs=2e-3)
    row = last["model.layers.1.mlp.up_proj.weight"]
    assert (row["base"], row["other"], row["layer"], row["module"]) == ("coding", "math & science", 1, "mlp.up_proj")
    assert last["model.embed_tokens.weight"]["layer"] == -1
    assert facts["kept_share"] == pytest.approx(
        sum(r["kept_share"] * r["elements"] for r in rows) / sum(r["elements"] for r in rows)
    )


CHILD = """
import os, random, signal, sys
from pathlib import Path
from bm.merge import tiling, merge, ordered, sinks
from bm.merge.order import parse
from bm.plan.live import Live
from tests.merge.folders import FUSION, Settings

tiling.TILE_ELEMENTS, sinks.FLUSH_BYTES = 64, 20_000
ordered.LARGE, ordered.BUFFER = 0, 8192  # past the page cache, in many pieces
root, work, deadly, at_name = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "name"
names = ["math", "science", "coding"]
calls = []

def fatal(function):
    def called(*arguments):
        calls.append(1)
        if len(calls) == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return called

if at_name:
    os.replace = fatal(os.replace)
else:
    sinks.Folder.write = fatal(sinks.Folder.write)
settings = Settings(max_shard_size="60KB", threads=2)
merge(parse("(math & science) & coding", names), FUSION, {n: root / n for n in names}, None, settings, work)
(work.parent / "calls").write_text(str(len(calls)))
"""


def test_killed_at_random_points_the_result_is_the_same(experts, tmp_path, forked):
    """kill -9 while tensors are written, and while files get their names; each run takes up what the last one left."""
    root, work, undisturbed = experts["math"].parent, tmp_path / "work", tmp_path / "undisturbed"

    def run(deadly, where="write", work=work):
        return forked.run(["-c", CHILD, root, work, deadly, where])

    draw = random.Random(0)
    for deadly in [draw.randint(10, 30) for _ in range(2)]:
        assert run(deadly) == -9
        assert not list(work.glob("*.safetensors"))
        assert not (work / "config.json").exists()
    assert run(2, "name") == -9
    assert not (work / "config.json").exists()
    assert run(0) == 0
    written = int((work.parent / "calls").read_text())
    assert run(0, work=undisturbed) == 0
    assert {f.name: sha256(f) for f in work.iterdir()} == {f.name: sha256(f) for f in undisturbed.iterdir()}
    assert written == 0  # everything had been written before the last kill


def test_a_full_disk_is_noticed_before_writing(experts, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 10_000})
    monkeypatch.setattr("bm.merge.sinks.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"needs 0\.2 MB, and less than 0\.1 MB are free"):
        merge(RELEASED, FUSION, experts, None, Settings(), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.part"))


def test_folders_by_command_line_rules(experts, tmp_path):
    """Pairwise methods take the models into the base one by one; task vectors need it; equal names are kept apart."""
    names = list(experts.values())
    merge_folders(FUSION, names[0], names[1:], Settings(), tmp_path / "a")
    once = merge_in_memory(parse("x & y & z", ["x", "y", "z"]), FUSION,
                           dict(zip("xyz", [*names[1:], names[0]], strict=True)), None, Settings())  # fmt: skip
    assert equal(load(tmp_path / "a"), once)
    merge_folders(FUSION, None, names, Settings(order="(math & science) & coding"), tmp_path / "tree")
    assert equal(load(tmp_path / "tree"), merge_in_memory(RELEASED, FUSION, experts, None, Settings()))
    with pytest.raises(UserError, match="give base=DIR"):
        merge_folders(FUSION, None, names, Settings(), tmp_path / "b")
    twin = save(tmp_path / "elsewhere" / "math", weights(9, weights()))
    merge_folders(LINEAR, None, [experts["math"], twin], Settings(), tmp_path / "c")
    assert "math-1 & math-2" in (tmp_path / "c" / "README.md").read_text()


@pytest.mark.parametrize("size", ["5GB", "200mb", "1.5 KB", "123"])
def test_sizes(size):
    from bm.merge.checkpoint import parse_size

    assert parse_size(size) == {"5GB": 5 * 10**9, "200mb": 2 * 10**8, "1.5 KB": 1500, "123": 123}[size]


@pytest.mark.parametrize("ahead", [0, 5, 30])
def test_no_more_entries_are_under_way_beside_the_first_than_may_be(ahead):
    """In order, and one at least, however large it is."""
    sizes, under_way, most = [9, 100, 1, 2, 3, 30, 4, 5, 1, 1], [], 0

    class Lazy:
        """Threads that are never ahead of whoever waits for them."""

        def submit(self, urgency, task):
            nonlocal most
            future = SimpleNamespace(result=lambda: (under_way.pop(0), task())[1])
            under_way.append(task.args[0].entries)
            most = max(most, sum(under_way[1:]))
            return future

    items = [SimpleNamespace(entries=size, place=place) for place, size in enumerate(sizes)]
    done = engine._ordered(lambda item: item.place, items, Lazy(), Urgency.SCORE, ahead)
    assert list(done) == list(range(len(sizes)))
    assert most <= ahead and (most > 0) == (ahead > 0)


def test_nothing_of_a_file_stays_mapped_that_was_looked_at(tmp_path):
    """Pages are mapped by many around the one that is looked at; a tensor's ends are within such a window."""
    save(tmp_path / "model", {f"t{i}": torch.arange(100_003, dtype=torch.float32) for i in range(5)})

    def mapped():
        text = Path("/proc/self/smaps").read_text()
        return [int(kb) for kb in re.findall(rf"{tmp_path}/model/.*\n(?:.*\n)*?Rss: +(\d+) kB", text)]

    with checkpoint(tmp_path / "model") as tensors:
        for tensor in tensors.values():
            for start in range(0, tensor.elements, 30_001):
                stop = min(start + 30_001, tensor.elements)
                assert tensor.stored(start, stop).sum() and sum(mapped()) > 0
                tensor.forget(start, stop)
        assert mapped() == [0]


@pytest.mark.parametrize("size", ["", "GB", "-1GB", "5 apples"])
def test_sizes_that_are_none(size, experts, tmp_path):
    with pytest.raises(UserError, match="not a size such as 5GB"):
        merge(RELEASED, FUSION, experts, None, dataclasses.replace(Settings(), max_shard_size=size), tmp_path / "o")


def test_a_gpu_gets_few_threads_whose_tiles_are_small(monkeypatch):
    """On 128 cores too: scoring takes less than a gigabyte, by the bytes that torch makes for an entry of a tile."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(128)))
    with engine.pool(Compute(device="cuda:0"), 0) as (run, _):
        threads = run.workers.size
    assert (threads, Compute().threads) == (tiling.CUDA_THREADS, 128)
    base = torch.randn(16, 1024)
    tensors = Tensors.held(base, [base + 1e-3], run=Compute(Dtype.float64, tile_elements=base.numel()))
    with Live() as live:
        (tile,) = tensors.tiles(range(1))
        tile.of(Change(weighed=True))
    an_entry = live.peak / base.numel() / 2  # float64 is twice as wide
    assert threads * tiling.CUDA_TILE_ELEMENTS * an_entry < 1 << 30


def test_a_gpu_holds_scores_of_a_32b_models_largest_matrix(monkeypatch):
    monkeypatch.setattr(tiling, "device", lambda name: "cuda:0")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda place: (70 << 30, 80 << 30))
    allowance = tiling.computing(Dtype.float32, "cuda", 0).allowance
    assert all(allowance.take(4 * 5120 * 27648) for _ in range(4))  # tensors ahead hold theirs too
    assert not allowance.take(70 << 30)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", [FUSION, LINEAR])
def test_cuda_merges_by_the_same_code(method, experts):
    order = orders("all", list(experts), method)[0]
    on_cpu = merge_in_memory(order, method, experts, None, Settings())
    on_gpu = merge_in_memory(order, method, experts, None, Settings(device="cuda"))
    for name, value in on_cpu.items():
        assert (value != on_gpu[name]).float().mean() < 1e-3, name


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_one_expert_alone_is_still_merged(experts, student, tmp_path):
    """A task-vector method with a single model: the student plus that model's update, not a copy of the model."""
    half = partial(task_arithmetic, weights=0.5, lam=1.0, normalize=False)
    merge_folders(half, student, [experts["math"]], Settings(out_dtype="float32"), tmp_path / "out")
    start, end = load(student), load(experts["math"])
    for name, value in load(tmp_path / "out").items():
        assert torch.allclose(value, (start[name].float() + end[name].float()) / 2, atol=1e-7)


def test_statistics_reach_the_method(experts, tmp_path):
    """Fisher weights of 3 and 1 draw every entry to the first model."""
    names = ["math", "science"]
    for name, trust in zip(names, (3.0, 1.0), strict=True):
        ones = {key: torch.full(value.shape, trust) for key, value in load(experts[name]).items()}
        save(tmp_path / name, ones)
    settings = Settings(out_dtype="float32", statistics={name: tmp_path / name for name in names})
    merged = merge_in_memory(parse("math & science", names), FISHER, experts, None, settings)
    math, science = (load(experts[name]) for name in names)
    for name, value in merged.items():
        assert torch.allclose(value, 0.75 * math[name].float() + 0.25 * science[name].float(), atol=1e-7)


def test_a_grid_of_folders(experts, tmp_path):
    methods = {f"lam={lam}": partial(FUSION, lam=lam) for lam in (1.0, 2.0)}
    facts = merge_grid(parse("math & coding", list(experts)), methods, experts, None, Settings(), tmp_path)
    assert facts["lam=1.0"]["kept_share"] > facts["lam=2.0"]["kept_share"]
    for name in methods:
        said = {file.name: sha256(file) for file in (tmp_path / name).iterdir()}
        assert facts[name]["digests"] == said
