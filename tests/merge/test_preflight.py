"""What keeps models from being merged, each named in one line before anything is written; and what does not."""

import json
from functools import partial

import pytest
import torch

from bm.errors import UserError
from bm.merge import merge_folders, merge_in_memory, methods
from bm.merge.preflight import is_buffer
from tests.merge.folders import CONFIG, FUSION, LINEAR, TOKENIZER, Settings, load, save, weights

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def pair(tmp_path, other, **folder):
    base = save(tmp_path / "kept", weights())
    return base, save(tmp_path / "math", other, **folder)


def fuse(base, other, tmp_path, method=FUSION):
    merge_folders(method, base, [other], Settings(out_dtype="float32"), tmp_path / "out")
    return load(tmp_path / "out")


REFUSED = {
    "architecture": ({"config": CONFIG | {"model_type": "llama"}}, 'model_type is "llama" in math and "qwen2" in kept'),
    "rope": ({"config": CONFIG | {"rope_theta": 1e4}}, "rope_theta is 10000.0 in math and null in kept"),
    "quantised": ({"config": CONFIG | {"quantization_config": {"bits": 4}}}, "is quantised"),
    "token": (
        {"tokenizer": TOKENIZER | {"added_tokens": [{"content": "<f>", "id": 2}]}},
        "tokenizer.json: token '<f>' has id 2 in math and None in kept",
    ),
    "segmentation": ({"tokenizer": TOKENIZER | {"normalizer": {"type": "NFC"}}}, "'normalizer' differs"),
    "template": ({"template": "{{ other }}"}, "chat template: math has [0-9a-f]{12}, kept has [0-9a-f]{12}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_differ_are_refused(case, tmp_path):
    folder, says = REFUSED[case]
    base, other = pair(tmp_path, weights(1, weights()), **folder)
    with pytest.raises(UserError, match=says) as refusal:
        fuse(base, other, tmp_path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


TENSORS = {
    "padding": (lambda t: t | {EMBEDDING: torch.zeros(704, 64)}, r"\[704, 64\] in math and \[700, 64\] in kept: vocab"),
    "shape": (lambda t: t | {"model.norm.weight": torch.zeros(65)}, r"model.norm.weight: \[65\] in math and \[64\]"),
    "extra": (lambda t: t | {"model.extra": torch.zeros(1)}, "model.extra: in math, but not in kept"),
    "missing": (lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"}, "in kept, but not in math"),
    "untied": (lambda t: t | {HEAD: torch.zeros(700, 64)}, "lm_head.weight: in math, but not in kept; untie"),
    "float8": (lambda t: t | {"model.norm.weight": torch.zeros(64).to(torch.float8_e4m3fn)}, "without its scales"),
    "kind": (lambda t: t | {"model.norm.weight": torch.zeros(64, dtype=torch.int32)}, "int32 in math"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_differ_are_refused(case, tmp_path):
    change, says = TENSORS[case]
    base, other = pair(tmp_path, change(weights(1, weights())))
    with pytest.raises(UserError, match=says):
        fuse(base, other, tmp_path)


def test_adapters_and_other_formats_are_named(tmp_path):
    base, other = pair(tmp_path, weights(1, weights()))
    (other / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="LoRA adapter"):
        fuse(base, other, tmp_path)
    (other / "adapter_config.json").unlink()
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        fuse(base, other, tmp_path)
    with pytest.raises(UserError, match="no such model folder"):
        fuse(base, tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_damaged_files_are_named(cut, tmp_path):
    base, other = pair(tmp_path, weights(1, weights()))
    file = other / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"math/model\.safetensors: not a whole safetensors file"):
        fuse(base, other, tmp_path)


def test_a_tied_model_lends_its_embeddings_to_an_untied_base(tmp_path):
    base = save(tmp_path / "kept", weights() | {HEAD: weights(5)[EMBEDDING]})
    other = weights(1, weights())
    merged = merge_in_memory(
        _order("math", "kept"), LINEAR, {"math": save(tmp_path / "math", other), "kept": base},
        None, Settings(out_dtype="float32"),
    )  # fmt: skip
    assert torch.equal(merged[HEAD], (other[EMBEDDING].float() + weights(5)[EMBEDDING].float()) / 2)


def test_a_head_that_repeats_tied_embeddings_is_dropped(tmp_path):
    other = weights(1, weights())
    base, folder = pair(
        tmp_path, other | {HEAD: other[EMBEDDING].clone()}, config=CONFIG | {"tie_word_embeddings": True}
    )
    assert HEAD not in fuse(base, folder, tmp_path)


def test_buffers_integers_and_empty_tensors_are_the_bases(tmp_path):
    own = {"model.rotary_emb.inv_freq": torch.rand(8), "model.count": torch.tensor(7), "model.none": torch.zeros(0, 4)}
    base = save(tmp_path / "kept", weights() | own)
    other = save(tmp_path / "math", weights(1, weights()) | {k: own[k] for k in ("model.count", "model.none")})
    merged = fuse(base, other, tmp_path)
    assert all(torch.equal(merged[name], value) for name, value in own.items())
    assert merged["model.count"].dtype == torch.int64


def test_integers_that_differ_are_refused(tmp_path):
    base = save(tmp_path / "kept", weights() | {"model.count": torch.tensor(7)})
    other = save(tmp_path / "math", weights(1, weights()) | {"model.count": torch.tensor(8)})
    with pytest.raises(UserError, match=r"model\.count: int64 entries differ"):
        fuse(base, other, tmp_path)


def test_mixed_dtypes_scalars_and_layouts(tmp_path):
    """float16 beside bfloat16 and float32, a 0-d tensor, experts as one 3-d tensor, an [in, out] Conv1D weight."""
    special = {"h.0.scale": torch.tensor(1.5), "h.0.mlp.experts.up": torch.randn(4, 8, 16)}
    special["h.0.c_attn.weight"] = torch.randn(64, 192)
    base = save(tmp_path / "kept", weights() | special)
    changed = {name: (value + 0.25).half() for name, value in special.items()}
    other = save(tmp_path / "math", weights(1, weights(), dtype=torch.float16) | changed)
    models = {"math": other, "kept": base}
    merged = merge_in_memory(_order("math", "kept"), LINEAR, models, None, Settings(out_dtype="float32"))
    for name, value in special.items():
        assert torch.equal(merged[name], (value + changed[name].float()) / 2)
    assert set(fuse(base, other, tmp_path)) == set(merged)


def test_config_keeps_the_bases_settings_and_says_the_dtype(tmp_path):
    base, other = pair(tmp_path, weights(1, weights()))
    (base / "generation_config.json").write_text('{"temperature": 0.6}')
    fuse(base, other, tmp_path)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIG | {"dtype": "float32"}
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


def _order(*names):
    from bm.merge.order import Join

    return Join(names, len(names) - 1)


@pytest.mark.parametrize(
    ("name", "buffer"),
    [
        ("transformer.h.0.attn.bias", True),
        ("transformer.h.0.attn.masked_bias", True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", True),
        ("transformer.h.0.attn.c_attn.bias", False),
        ("model.layers.0.self_attn.q_proj.bias", False),
    ],
)
def test_what_a_model_recomputes_is_told_from_its_parameters(name, buffer):
    assert is_buffer(name) == buffer


BAD = {"nan": torch.nan, "infinity": torch.inf}
EVERY = {
    "arcee_fusion": FUSION,
    "linear": LINEAR,
    "passthrough": partial(methods.passthrough, scale=1.0),
    "ram": partial(methods.ram, epsilon=1e-5),
    "nearswap": partial(methods.nearswap, t=1e-4),
    "ties": partial(methods.ties, weights=1.0, density=0.2, lam=1.0, normalize=True, rescale="none"),
    "dare": partial(methods.dare_linear, weights=1.0, density=0.5, lam=1.0, normalize=False, rescale="none"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("method", EVERY)
def test_every_method_refuses_what_is_not_finite_and_leaves_nothing(method, bad, tmp_path):
    tensors = weights(1, weights())
    tensors["model.norm.weight"][3] = BAD[bad]
    base, other = pair(tmp_path, tensors)
    alone = method in ("linear", "passthrough")
    models = [other] if method == "passthrough" else [other, base]
    with pytest.raises(UserError, match=r"model\.norm\.weight: NaN or infinity in math; it cannot be merged"):
        merge_folders(
            EVERY[method], None if alone else base, models if alone else [other], Settings(), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_what_the_output_type_cannot_hold_is_refused(tmp_path):
    base, other = pair(tmp_path, {name: value * 1e7 for name, value in weights(1, weights()).items()})
    with pytest.raises(UserError, match="merged entries are beyond the output's type; take another out_dtype"):
        merge_folders(LINEAR, None, [base, other], Settings(out_dtype="float16"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_refused_merge_leaves_the_callers_folder_as_it_was(tmp_path):
    """A stage's work folder, which holds a file of the stage's own."""
    base, other = pair(tmp_path, weights(1, weights()) | {"model.norm.weight": torch.full((64,), torch.nan)})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".seconds").write_text("1.0")
    with pytest.raises(UserError, match="NaN"):
        merge_folders(LINEAR, None, [base, other], Settings(), tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".seconds"]


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "nonsense"])
def test_a_device_that_is_not_there_is_named(device, tmp_path):
    base, other = pair(tmp_path, weights(1, weights()))
    with pytest.raises(UserError, match=f"merge.device={device}: this machine has no such device") as refusal:
        merge_folders(FUSION, base, [other], Settings(device=device), tmp_path / "out")
    assert "\n" not in str(refusal.value)


def test_a_base_that_would_not_be_merged_is_refused_or_said(tmp_path, capsys):
    """linear with one model and a base was a silent copy of the model."""
    base, other = pair(tmp_path, weights(1, weights()))
    with pytest.raises(UserError, match=r"base: linear merges all models alike .* give models=\[BASE,MODEL\]"):
        merge_folders(LINEAR, base, [other], Settings(), tmp_path / "out")
    third = save(tmp_path / "third", weights(2, weights()))
    merge_folders(LINEAR, base, [other, third], Settings(), tmp_path / "out")
    assert "base: linear merges the 2 models alone" in capsys.readouterr().err
