"""Adapters: nothing else is trained, ranks agree, a kill does no harm, and the export is exact."""

import json
import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM

from bm.branch import Traces, train
from bm.branch.attention import ISOLATED
from bm.branch.model import load
from bm.config import Adapter
from bm.errors import UserError
from tests.branch.conftest import branch, settings, tracker, trainer
from tests.branch.test_parallel import close
from tests.forked import Forked


def lora(**overrides: object) -> Adapter:
    values: Adapter = settings(Adapter, "adapter/lora.yaml", seed=0, rank=4, alpha=8, **overrides)
    return values


def trained(student: Path, traces: list[Traces], work: Path, adapter: Adapter, **resources: object) -> dict:
    work.mkdir(exist_ok=True)
    of = branch(adapter=adapter, epochs=1, learning_rate=5e-3)
    return train(student, traces, of, trainer(**resources), tracker(), "math", "0123456789abcdef", work)


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"rslora": True, "targets": ["q_proj", "down_proj"]}])
def test_the_expert_is_its_student_with_the_adapter(
    student: Path, traces: list[Traces], tmp_path: Path, options: dict
) -> None:
    """What is exported computes what peft computes from the adapter beside it; and it is no longer the student."""
    trained(student, traces[:1], tmp_path, lora(**options))
    plain = AutoModelForCausalLM.from_pretrained(student)
    ids = torch.arange(5, 40)[None]
    before = plain(ids).logits
    peft = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))(ids).logits
    expert = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
    torch.testing.assert_close(expert, peft, rtol=0, atol=1e-4)
    assert (expert - before).abs().max() > 1e-2
    shapes = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (shapes["r"], shapes["use_dora"], shapes["use_rslora"]) == (
        4,
        options.get("dora", False),
        "rslora" in options,
    )


def test_only_the_adapter_is_trained(student: Path) -> None:
    model = load(student, ISOLATED, 64, trainer(), None, lora())
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names and all(".lora_" in name for name in names)
    rounded = load(student, ISOLATED, 64, trainer(precision="bf16-mixed"), None, lora())
    kinds = {name: p.dtype for name, p in rounded.named_parameters()}
    assert {kinds[name] for name in names} == {torch.float32}
    assert {kind for name, kind in kinds.items() if name not in names} == {torch.bfloat16}


def test_checkpoints_hold_the_adapter_alone_and_a_run_resumes(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bm.branch import checkpoint

    trained(student, traces[:1], tmp_path / "whole", lora())
    held: set[str] = set()
    save = checkpoint.save

    def stop(work: Path, *rest: object) -> None:
        save(work, *rest)
        held.update(FileSystemReader(work / "checkpoint").read_metadata().state_dict_metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr("bm.branch.watch.FIRST_SAVE", 0.0)
    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(student, traces[:1], tmp_path / "cut", lora())
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr("bm.branch.watch.FIRST_SAVE", 1e9)
    trained(student, traces[:1], tmp_path / "cut", lora())
    ours, theirs = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert held and all(".lora_" in name for name in held if not name.startswith("optimizer.param_groups"))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "sequence", "dora"), [(2, 1, False), (2, 2, False), (2, 1, True)])
def test_ranks_train_an_adapter_as_one(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked, ranks: int, sequence: int, dora: bool
) -> None:
    trained(student, traces, tmp_path / "alone", lora(dora=dora))
    several = {"devices": ranks, "sequence_parallel": sequence, "launch": forked.launch(ranks)}
    trained(student, traces, tmp_path / "both", lora(dora=dora), **several)
    close(tmp_path / "both", tmp_path / "alone")
    assert sorted(os.listdir(tmp_path / "both")) == sorted(os.listdir(tmp_path / "alone"))


def test_what_an_adapter_cannot_do_is_said(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a layer has no product 'qkv'; it has down_proj, gate_proj"):
        load(student, ISOLATED, 64, trainer(), None, lora(targets=["qkv"]))
    with pytest.raises(UserError, match=r"branch\.adapter\.quantize needs bitsandbytes: make gpu"):
        load(student, ISOLATED, 64, trainer(), None, lora(quantize="nf4"))
    with pytest.raises(UserError, match=r"second_moments: an adapter's are not those of the weights"):
        branch(adapter=lora(), second_moments=True)
