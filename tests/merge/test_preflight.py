"""What keeps models from being merged, each named in one line before anything is written; and what does not."""

import json

import pytest
import torch

from bm.errors import UserError
from bm.merge import merge_folders, merge_in_memory
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
    "kind": (lambda t: t | {"model.norm.weight": torch.zeros(64, dtype=torch.int32)}, "torch.int32 in math"),
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
    with pytest.raises(UserError, match=r"model\.count: torch.int64 entries differ"):
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
    from bm.merge.order import Branch

    return Branch(names, len(names) - 1)


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
