"""GGUF files written here, dequantised, and held against float64; exported files read back."""

from pathlib import Path

import gguf as ggml
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bm.errors import UserError
from bm.student import gguf
from experiments.smollm2.to_gguf import export

HIDDEN, HEADS, KV_HEADS = 64, 4, 2
CONFIG = LlamaConfig(
    vocab_size=259, hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=2, num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS, max_position_embeddings=64, tie_word_embeddings=True, eos_token_id=257,
    pad_token_id=256, rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
)  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    alphabet = [*sorted(ByteLevel.alphabet()), "<pad>", "<end>", "Ġa"]
    bytes_ = Tokenizer(models.BPE({piece: place for place, piece in enumerate(alphabet)}, [("Ġ", "a")]))
    bytes_.decoder, bytes_.pre_tokenizer = decoders.ByteLevel(), gguf.SPLITTING["smollm"]
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_, pad_token="<pad>", eos_token="<end>", chat_template="{{ messages[0].content }}!"
    )


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).save_pretrained(tmp_path / "llama")
    tokenizer().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def dequantised(blocks: np.ndarray, kind: str) -> np.ndarray:
    """GGML's own definition in float64: blocks of 32, a half-precision scale (and least value), then the quanta."""
    if kind == "Q8_0":
        rows = blocks.reshape(blocks.shape[0], -1, 34)
        scale, quanta = rows[..., :2].copy().view(np.float16), rows[..., 2:].copy().view(np.int8)
        values = quanta.astype(np.float64) * scale.astype(np.float64)
    else:
        rows = blocks.reshape(blocks.shape[0], -1, 20)
        scale, least = (rows[..., at : at + 2].copy().view(np.float16).astype(np.float64) for at in (0, 2))
        quanta = np.concatenate([rows[..., 4:] & 15, rows[..., 4:] >> 4], -1)
        values = quanta.astype(np.float64) * scale + least
    return values.reshape(blocks.shape[0], -1)


def neighbours_to_halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Row i of a head: llama.cpp rotates rows 2i and 2i+1 together, transformers rows i and i + half."""
    size = array.shape[0] // heads
    order = [head * size + 2 * (row % (size // 2)) + row // (size // 2) for head in range(heads) for row in range(size)]
    return array[order]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_dequantised_as_defined(llama: Path, tmp_path: Path, kind: str) -> None:
    plain, file = tmp_path / "plain.gguf", tmp_path / "quantised.gguf"
    export(llama, plain)
    read = ggml.GGUFReader(plain)
    writer = ggml.GGUFWriter(file, "llama")
    for field in read.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    expected = {}
    for tensor in read.tensors:
        if tensor.data.ndim == 1:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        blocks = ggml.quants.quantize(np.asarray(tensor.data), ggml.GGMLQuantizationType[kind])
        writer.add_tensor(tensor.name, blocks, raw_dtype=ggml.GGMLQuantizationType[kind])
        expected[tensor.name] = dequantised(blocks, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    (output := tmp_path / "output").mkdir()
    facts = gguf.build(output, path=file)
    weights = load_file(output / "model.safetensors")
    assert facts == {"parameters": sum(t.numel() for t in weights.values()), "file": "quantised.gguf"}
    names = {"blk.1.attn_q.weight": ("model.layers.1.self_attn.q_proj.weight", HEADS),
             "blk.0.attn_k.weight": ("model.layers.0.self_attn.k_proj.weight", KV_HEADS),
             "blk.0.ffn_down.weight": ("model.layers.0.mlp.down_proj.weight", 0),
             "token_embd.weight": ("model.embed_tokens.weight", 0)}  # fmt: skip
    for theirs, (ours, heads) in names.items():
        oracle = neighbours_to_halves(expected[theirs], heads) if heads else expected[theirs]
        np.testing.assert_allclose(weights[ours].double().numpy(), oracle, rtol=1e-6, atol=1e-8)
    assert "quantization_config" not in (output / "config.json").read_text()


def test_exported_and_read_back_is_the_same_model(llama: Path, tmp_path: Path) -> None:
    export(llama, tmp_path / "model.gguf")
    (output := tmp_path / "output").mkdir()
    gguf.build(output, path=tmp_path / "model.gguf")
    before, after = load_file(llama / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    given, read_back = (AutoTokenizer.from_pretrained(folder) for folder in (llama, output))
    text = "a   35x é a<end>"
    assert given(text)["input_ids"] == read_back(text)["input_ids"]
    assert (read_back.chat_template, read_back.eos_token) == ("{{ messages[0].content }}!", "<end>")
    tokens = torch.tensor([given("a 12 a")["input_ids"]])
    logits = [AutoModelForCausalLM.from_pretrained(folder)(tokens).logits for folder in (llama, output)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-6)


def test_a_file_without_a_tensor_is_refused(llama: Path, tmp_path: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    export(llama, tmp_path / "model.gguf")
    (output := tmp_path / "output").mkdir()
    with pytest.raises(UserError, match=r"comes without model\.layers\.1\.mlp\.down_proj\.weight"):
        gguf.build(output, path=tmp_path / "model.gguf")
    assert not list(output.iterdir())


def test_a_rule_that_llama_cpp_has_no_name_for_is_refused(llama: Path, tmp_path: Path) -> None:
    other = tokenizer()
    other.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    other.save_pretrained(llama)
    with pytest.raises(UserError, match="no name for how its tokenizer splits text"):
        export(llama, tmp_path / "model.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such thing at all, whatever it is called"])
def test_what_is_no_gguf_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.gguf cannot be read as a GGUF model") as said:
        gguf.build(tmp_path, path=file)
    assert "\n" not in str(said.value)
    with pytest.raises(UserError, match="there is no file"):
        gguf.build(tmp_path, path=tmp_path / "y.gguf")
