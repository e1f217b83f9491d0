"""The compiled kernels: the bits of the torch path, for every type that is stored, and exact order statistics."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bm.errors import UserError
from bm.merge import native
from bm.merge.arrays import CHUNK, from_torch, to_torch
from bm.merge.dtypes import Dtype, dtype_of
from bm.merge.fused import Fused
from bm.merge.methods import (
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    dare_linear,
    dare_ties,
    linear,
    task_arithmetic,
    ties,
)
from bm.merge.precompile import compile_all
from bm.merge.scores import Change
from bm.merge.tensors import Compute, Selection, Tensors
from tests.conftest import command

TYPES = [torch.bfloat16, torch.float16, torch.float32]
SHAPES = [(300, 70), (4, 16, 33), (1001,), ()]
VECTORS = {"weights": [0.7, -0.2, 1.3], "lam": 0.9}
METHODS = {
    "fusion": (arcee_fusion, {"lam": 1.5, "variant": "exact", "difference": "absolute"}),
    "fusion_signed": (arcee_fusion, {"lam": 0.5, "variant": "exact", "difference": "signed"}),
    "fusion_paper": (arcee_fusion, {"lam": 1.5, "variant": "paper", "difference": "absolute"}),
    "linear": (linear, {"weights": [0.3, 0.5, 1.1], "normalize": True}),
    "task_arithmetic": (task_arithmetic, {**VECTORS, "normalize": True}),
    "ties": (ties, {**VECTORS, "density": [0.2, 0.5, 1.0], "normalize": True, "rescale": "none"}),
    "ties_sum": (ties, {**VECTORS, "density": [0.2, 0.0, 0.4], "normalize": False, "rescale": "l1"}),
    "dare_linear": (dare_linear, {**VECTORS, "density": [0.2, 0.5, 1.0], "normalize": False, "rescale": "probability"}),
    "dare_ties": (dare_ties, {**VECTORS, "density": [0.5, 0.0, 0.9], "normalize": True, "rescale": "l1"}),
    "breadcrumbs": (breadcrumbs, {**VECTORS, "density": 0.4, "gamma": 0.1, "normalize": False, "rescale": "none"}),
    "breadcrumbs_ties": (
        breadcrumbs_ties,
        {**VECTORS, "density": 0.95, "gamma": 0.1, "normalize": True, "rescale": "none"},
    ),
}


def models(shape, dtype, count=3):
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=generator) * 0.02
    others = [base + torch.randn(shape, generator=generator) * 1e-3 for _ in range(count)]
    return base.to(dtype), [other.to(dtype) for other in others]


def by_tiles(tensors, apply):
    """The torch path."""
    parts = []
    for tile in tensors.tiles(range(tensors.tiling.tiles)):
        result = apply(tile)
        if isinstance(result, Selection):
            result = torch.where(result.taken.bool(), result.other, result.base)
        parts.append(result.reshape(-1))
    return torch.cat(parts)


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("method", METHODS)
def test_kernels_have_the_bits_of_the_torch_path(method, dtype, out_dtype):
    function, parameters = METHODS[method]
    for shape in SHAPES:
        base, others = models(shape, dtype, 1 if "fusion" in method else 3)
        tensors = Tensors.held(base, others, run=Compute(tile_elements=500))
        apply = function(tensors, **parameters)
        expected = by_tiles(tensors, apply).to(out_dtype)
        out = np.empty(expected.numel(), np.uint16 if out_dtype == torch.bfloat16 else np.float32)
        taken, square = apply.by_kernel(tensors.fused, range(tensors.tiling.tiles), out)
        assert torch.equal(to_torch(out, dtype_of(out_dtype)), expected)
        update = by_tiles(tensors, apply).double() - base.reshape(-1).double()
        assert square == pytest.approx(float(update.square().sum()), rel=1e-5)
        if taken is not None and dtype == torch.float32:
            assert taken == int((by_tiles(tensors, apply) != base.reshape(-1)).sum())


def test_types_may_differ_between_models():
    base, others = models((50, 40), torch.float32, 2)
    mixed = Tensors.held(base.bfloat16(), [others[0].half(), others[1]])
    apply = ties(mixed, **METHODS["ties"][1] | {"weights": 1.0, "density": 0.3})
    out = np.empty(2000, np.float32)
    apply.by_kernel(mixed.fused, range(mixed.tiling.tiles), out)
    assert torch.equal(torch.from_numpy(out), by_tiles(mixed, apply))


@given(st.data())
def test_order_statistics_are_those_of_a_sort(data):
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    levels = data.draw(st.integers(1, 50))
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    base = torch.from_numpy(draw.normal(size=(rows, columns)).astype(np.float32))
    other = base + torch.from_numpy((draw.integers(-levels, levels + 1, (rows, columns)) * 1e-3).astype(np.float32))
    score = Change(signed=data.draw(st.booleans()), weighed=data.draw(st.booleans()))
    tensors = Tensors.held(base, [other], run=Compute(tile_elements=100))
    ranks = data.draw(st.lists(st.integers(0, rows * columns - 1), min_size=1, max_size=4))
    tiles = [score(tile).reshape(-1) for tile in tensors.tiles(range(tensors.tiling.tiles))]
    expected = torch.cat(tiles).sort().values[ranks].tolist()
    assert tensors.fused.order_statistics(score, ranks) == expected
    with pytest.MonkeyPatch.context() as patch:
        size = data.draw(st.integers(1, 500))
        patch.setattr("bm.merge.fused._sample_size", lambda _: size)
        patch.setattr("bm.merge.fused.SIGMAS", data.draw(st.sampled_from([0, 1, 6])))
        patch.setattr("bm.merge.fused.COLLECTED", data.draw(st.sampled_from([20, 1 << 24])))
        assert Fused(tensors).order_statistics(score, ranks) == expected


@pytest.mark.parametrize("dtype", [*TYPES, torch.float64, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_entries_of_any_type_pass_through_numpy(dtype):
    values = torch.tensor([0.0, 1.0, 1.0]).to(dtype)
    assert torch.equal(to_torch(from_torch(values), dtype_of(dtype)).float(), values.float())


def test_bfloat16_is_rounded_to_nearest_even():
    numbers = np.array([1.00390625, 1.01171875, 1.0039063, -3.4e38, 1e-40], np.float32)
    out = np.empty(len(numbers), np.uint16)
    found, work = np.empty(3), np.empty((2, CHUNK), np.float32)
    native.average(numbers[:0], native.addresses([numbers]), np.ones(1, np.float32), 1.0, out, found, work)
    assert torch.equal(to_torch(out, Dtype.bfloat16), torch.from_numpy(numbers).bfloat16())


def test_a_model_with_nan_is_named_by_every_kernel():
    base, others = models((30, 20), torch.bfloat16)
    others[1][2, 3] = torch.nan
    tensors = Tensors.held(base, others, names=["a", "b", "c"])
    apply = linear(tensors, weights=1.0, normalize=True)
    with pytest.raises(UserError, match="NaN or infinity in b"):
        apply.by_kernel(tensors.fused, range(tensors.tiling.tiles), np.empty(600, np.uint16))


@pytest.mark.slow
def test_brackets_find_quantiles_of_rows_that_differ():
    """Rows whose changes are of very different sizes, many of them zero: no rank is missed, so nothing is counted."""
    draw = np.random.default_rng(5)
    sizes = np.exp(draw.normal(size=(600, 1))) * (draw.random((600, 1)) < 0.8)
    base = torch.from_numpy(draw.normal(size=(600, 300)).astype(np.float32)) * 0.02
    other = base + torch.from_numpy((sizes * 1e-3 * draw.normal(size=(600, 300))).astype(np.float32))
    tensors = Tensors.held(base, [other], run=Compute(tile_elements=5000))
    for score in (Change(weighed=True), Change(), Change(signed=True)):
        keys = torch.cat([score(tile).reshape(-1) for tile in tensors.tiles(range(tensors.tiling.tiles))]).sort().values
        ranks = [45_000, 90_000, 135_000]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bm.merge.fused._sample_size", lambda _: 10_000)
            patch.setattr(Fused, "_counted", None)
            assert Fused(tensors).order_statistics(score, ranks) == keys[ranks].tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_is_compiled_beforehand_is_all_that_merges_of_folders_need(dtype, student, experts, tmp_path):
    """Else the first merge after `make install` waits for the compiler."""
    compile_all()
    every = [native.sample, native.count, native.brackets, native.select, native.average, native.combine]
    before = [set(kernel.ready) for kernel in every]
    for method in ("arcee_fusion", "linear", "ties", "dare_ties"):
        base = [] if method == "linear" else [f"base={student}"]
        models = [experts["math"]] if method == "arcee_fusion" else list(experts.values())
        words = [f"merge={method}", *base, f"models=[{','.join(map(str, models))}]", f"merge.out_dtype={dtype}"]
        said = command("merge", *words, f"output={tmp_path / method}", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
    assert [set(kernel.ready) for kernel in every] == before


def test_random_numbers_are_their_bits():
    tensors = Tensors.held(torch.zeros(40, 5), [torch.zeros(40, 5)], names=["a"])
    whole = np.random.Generator(np.random.PCG64DXSM(tensors.streams[0].seed)).random(200, np.float32)
    for start, stop in ((0, 200), (1, 200), (7, 8), (64, 131)):
        assert np.array_equal(tensors.uniform(0, start, stop), whole[start:stop])


def test_merges_by_kernels_import_neither_torch_nor_numba(student, experts, tmp_path):
    code = """
import sys, bm
base, *models = sys.argv[2:]
for method in ("arcee_fusion", "linear", "task_arithmetic", "ties", "dare_ties", "breadcrumbs"):
    own = {} if method == "linear" else {"base": base}
    chosen = models[:1] if method == "arcee_fusion" else models
    bm.merge(models=chosen, method=method, output=f"{sys.argv[1]}/{method}", **own)
assert not {"torch", "numba"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-m", "bm.merge.precompile"], check=True)
    folders = [str(tmp_path), str(student), *map(str, experts.values())]
    subprocess.run([sys.executable, "-c", code, *folders], check=True)


CALL = """
import sys
from pathlib import Path
import numpy as np
from bm.merge import native
native.FOLDERS = tuple(map(Path, sys.argv[1:]))
ones, numbers, work = np.ones((1, 4), np.float32), np.empty(4, np.uint32), np.empty((4, 4), np.float32)
native.sample(ones, ones, np.empty(1, np.float32), True, False, 0, 1, numbers, work, work.view(np.int32))
print(numbers.tolist(), "numba" in sys.modules)
"""


def called(*folders):
    """What a kernel gives in a process of its own, whether that loaded numba, and how often it spoke of compiling."""
    done = subprocess.run([sys.executable, "-c", CALL, *folders], capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.count("compiling the merge kernels")


def test_machine_code_is_made_once_said_and_kept(tmp_path):
    keys = [1 << 31] * 4
    assert [called(tmp_path), called(tmp_path)] == [(f"{keys} True", 1), (f"{keys} False", 0)]


def test_machine_code_that_is_not_whole_or_not_ones_own_is_made_anew(tmp_path):
    keys = [1 << 31] * 4
    called(tmp_path / "mine")
    (file,) = (tmp_path / "mine").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert called(tmp_path / "mine") == (f"{keys} True", 1)
    assert called(tmp_path / "mine") == (f"{keys} False", 0)
    (tmp_path / "mine").chmod(0o777)  # anyone may have put it there
    assert called(tmp_path / "mine", tmp_path / "other") == (f"{keys} True", 1)
    assert len(list((tmp_path / "other").iterdir())) == 1
    assert called("/proc/nowhere") == (f"{keys} True", 1)


def test_a_kernel_that_makes_arrays_is_refused():
    """It would call numba where that is not loaded."""
    from bm.merge import compiling

    @compiling.njit(error_model="numpy", forceinline=True)
    def making(out):
        made = np.empty(len(out), np.float32)
        for j in range(len(out)):
            made[j] = out[j]
        out[0] = made.sum()

    with pytest.raises(RuntimeError, match="may raise, or makes arrays"):
        compiling.machine_code(making, [("f", 1)])


def test_an_array_that_is_not_in_order_is_refused():
    with pytest.raises(ValueError, match="not in C order"):
        native.count(np.ones((4, 4), np.float32).T)
