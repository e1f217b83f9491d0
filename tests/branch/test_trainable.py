"""Which architectures can be trained is found out on a small copy, before training, and is one line if they cannot."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GPTJConfig,
    GptOssConfig,
    GraniteConfig,
    Mamba2Config,
    MambaConfig,
    MptConfig,
    NemotronConfig,
    PreTrainedConfig,
    StableLmConfig,
    T5Config,
)

from bm import compose
from bm.branch import Traces, check_trainable, train
from bm.branch.architecture import attention_for, check_devices
from bm.branch.attention import ISOLATED, OWN
from bm.branch.data import flat
from bm.branch.flops import Flops
from bm.branch.model import Weights, load, parameters_on_meta
from bm.errors import UserError
from bm.preflight import preflight
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_architectures import (
    CONFIGS,
    LENGTHS,
    PROMPTS,
    SMALL,
    alone,
    difference,
    documents,
    folder,
    gradient,
)
from tests.branch.test_training import rows, weights

GPT = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ALONE: dict[str, PreTrainedConfig] = {
    "gemma2": Gemma2Config(**SMALL, head_dim=8),
    "gpt_oss": GptOssConfig(**SMALL, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
    "falcon": FalconConfig(**GPT),
    "bloom": BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4),
    "mpt": MptConfig(vocab_size=61, d_model=32, n_heads=4, n_layers=2, max_seq_len=128),
    "nemotron": NemotronConfig(**SMALL),
    "stablelm": StableLmConfig(**SMALL),
    "mamba": MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=8),
    "mamba2": Mamba2Config(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=1
    ),
}
"""Architectures that compute attention themselves, more of it than a causal softmax (softcaps, sinks, ALiBi), or none
but a state."""


@pytest.mark.parametrize("name", ALONE)
def test_own_attention_needs_documents_that_stand_alone(name: str) -> None:
    assert attention_for(ALONE[name], branch(packing="none"), trainer()) == OWN
    with pytest.raises(UserError, match=rf"{name}: .*cannot be trained on packed documents; set branch.packing=none$"):
        attention_for(ALONE[name], branch(packing="neat"), trainer())
    with pytest.raises(UserError, match=r"ranks cannot share a sequence|so it cannot be sharded"):
        attention_for(ALONE[name], branch(packing="none"), trainer(devices=2, sequence_parallel=2, launch="torchrun"))


@pytest.mark.parametrize("name", ALONE)
def test_own_attention_gives_the_loss_and_gradient_of_transformers(name: str, tmp_path: Path) -> None:
    path, total = folder(ALONE[name], tmp_path), float(sum(LENGTHS) - sum(PROMPTS))
    student = load(path, OWN, max(LENGTHS), trainer(), None)
    loss = torch.zeros(())
    for ids, prompt in zip(documents(), PROMPTS, strict=True):
        part = student(flat([ids], [prompt], [len(ids)]), total)
        part.backward()
        loss += part.detach()
    assert difference((loss.item(), gradient(student.model)), alone(path)) < 1e-5
    token, _, pair = Flops(student.model)._forward
    assert token > 0 and (pair > 0) != name.startswith("mamba")


@pytest.mark.parametrize(
    "config",
    [*CONFIGS.values(), CohereConfig(**SMALL, logit_scale=0.25), GraniteConfig(**SMALL, logits_scaling=4.0)],
    ids=lambda config: str(config.model_type),
)
def test_what_can_be_isolated_is(config: PreTrainedConfig) -> None:
    assert attention_for(config, branch(), trainer()) == ISOLATED


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4), "a causal language model"),
        (GPTJConfig(vocab_size=61, n_embd=32, n_layer=2, n_head=4, rotary_dim=4), "last layer is not a product"),
    ],
)
def test_what_cannot_be_trained_is_one_line(config: PreTrainedConfig, why: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=why) as said:
        check_trainable(tmp_path, branch(packing="none"), trainer())
    assert "\n" not in str(said.value)


def test_no_model_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json cannot be read") as said:
        check_trainable(tmp_path, branch(), trainer())
    assert "\n" not in str(said.value)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_one_line(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this machine has 0 of the 1 GPUs"):
        check_trainable(student, branch(), trainer(accelerator="gpu"))
    with pytest.raises(UserError, match=r"this machine has 0 of the 1 GPUs"):
        train(student, traces, branch(), trainer(accelerator="gpu"), tracker(), "math", "k", tmp_path)
    assert not list(tmp_path.iterdir())
    check_devices(trainer(accelerator="gpu", devices=8, launch="srun torchrun"))  # who submits need not have them


def damaged(student: Path, folder: Path, damage: str) -> Path:
    """A copy of the student whose weights are not whole."""
    shutil.copytree(student, folder)
    file = folder / "model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
        return folder
    tensors = load_file(file)
    if damage == "missing":
        del tensors["model.norm.weight"]
    else:
        tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def broken(student: Path, folder: Path, file: str, text: str) -> Path:
    """A copy of the student with another text in one of its files; without any tokenizer if the text is empty."""
    shutil.copytree(student, folder)
    (folder / file).write_text(text)
    if not text:
        for tokenizer_file in folder.glob("tokenizer*"):
            tokenizer_file.unlink()
    return folder


DAMAGES = [
    ("missing", r"model\.norm\.weight"),
    ("shape", r"the wrong shape of model\.norm\.weight \(has \[7\], needs \[32\]\)"),
    ("truncated", "cannot be (loaded|read)"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGES)
def test_weights_that_are_not_whole_are_refused(
    student: Path, traces: list[Traces], tmp_path: Path, damage: str, why: str
) -> None:
    folder = damaged(student, tmp_path / "student", damage)
    with pytest.raises(UserError, match=why) as said:
        train(folder, traces, branch(), trainer(), tracker(), "math", "k", tmp_path / "work")
    assert "\n" not in str(said.value) and not (tmp_path / "work" / "model.safetensors").exists()


@pytest.mark.parametrize(("damage", "why"), DAMAGES)
def test_ranks_refuse_them_too(student: Path, tmp_path: Path, damage: str, why: str) -> None:
    """What each rank reads, block by block, onto a model that has shapes alone."""
    folder = damaged(student, tmp_path / "student", damage)
    with parameters_on_meta():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(student))
    with pytest.raises(UserError, match=why) as said:
        Weights(folder).into(model, "")
    assert "\n" not in str(said.value)


BROKEN = [
    ("tokenizer.json", '{"a": ', "the tokenizer of .* cannot be loaded"),
    ("tokenizer.json", "", "has no tokenizer; copy tokenizer.json"),
    ("chat_template.jinja", "{{ messages['a' }}", "the chat template of .* refuses"),
    ("config.json", "{", "is not a valid JSON file"),
]


@pytest.mark.parametrize("damage", [*DAMAGES, *BROKEN], ids=[" ".join(d[:-1]) for d in (*DAMAGES, *BROKEN)])
def test_a_ready_student_is_checked_before_anything_is_made(
    student: Path, tmp_path: Path, damage: tuple[str, ...]
) -> None:
    *what, why = damage
    folder = (damaged if len(what) == 1 else broken)(student, tmp_path / "student", *what)
    made = tmp_path / "outputs"
    config = compose("student=hf", f"student.build.name={folder}", "domain=math", f"paths.outputs={made}")
    with pytest.raises(UserError, match=why) as said:
        preflight(config)
    assert "\n" not in str(said.value) and not made.exists()


def test_gemma2_trains_document_by_document(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student)
    torch.manual_seed(0)
    config = Gemma2Config(**{**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 512}, head_dim=8,
                          sliding_window=512, bos_token_id=None, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.save_pretrained(tmp_path / "gemma2")
    tokenizer.save_pretrained(tmp_path / "gemma2")
    (work := tmp_path / "work").mkdir()
    settings = branch(packing="none", held_out=2, batch=4, micro_batch=4, epochs=3)
    facts = train(tmp_path / "gemma2", traces, settings, trainer(), tracker(), "math", "k", work)
    table = rows(work)
    assert facts["attention"] == "the model's own, a segment at a time (eager)"
    assert facts["final_loss"] < 0.9 * float(table[0]["loss"])
    assert not torch.equal(weights(work)["model.norm.weight"], model.model.norm.weight)
