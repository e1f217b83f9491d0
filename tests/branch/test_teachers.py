"""A teacher whose head is padded, or whose tokens or texts are others: aligned, or said before anything is trained."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bm.branch import Traces
from bm.branch.teacher import check_teacher
from bm.errors import UserError
from tests.branch.conftest import branch
from tests.branch.test_stored import stored
from tests.branch.test_training import rows, trained
from tests.conftest import slow


def copied(model: Path, folder: Path, moved: float = 0.0, padding: int = 0) -> Path:
    """A model with its weights moved, and rows behind its vocabulary whose logits are far above all others."""
    tokenizer, copy = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(1)
    for parameter in copy.parameters():
        parameter.data += moved * torch.randn_like(parameter)
    if padding:
        entries = copy.config.vocab_size
        copy.resize_token_embeddings(entries + padding, mean_resizing=False)
        copy.get_output_embeddings().weight.data[entries:] = 50 * torch.randn(padding, copy.config.hidden_size)
    for part in (copy, tokenizer):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("loss", "kept"),
    [("kd", None), ("gkd", 400), ("kd", "hidden"), slow("gkd", None), slow("kd", 400), slow("gkd", "hidden")],
)
def test_padded_rows_of_both_heads_are_no_tokens(
    student: Path, traces: list[Traces], tmp_path: Path, loss: str, kept: int | str | None
) -> None:
    """Student and teacher with 7 rows more learn and teach what they do without, whatever these rows say."""
    teacher = copied(student, tmp_path / "teacher", 0.05)
    padded = copied(student, tmp_path / "padded"), copied(teacher, tmp_path / "padded-teacher", 0.0, 7)
    learnt = copied(padded[0], tmp_path / "student", 0.0, 7)
    measured = []
    for of, by in ((student, teacher), (learnt, padded[1])):
        settings = {"loss": loss, "teacher": by, "epochs": 1, "stored": kept, "own": None}
        said = traces
        if kept:
            said = stored(of, traces, tmp_path / f"said-{by.name}", **settings)
        trained(of, said, tmp_path / f"work-{by.name}", branch(**settings))
        measured.append([float(row["loss"]) for row in rows(tmp_path / f"work-{by.name}")])
    assert measured[1] == pytest.approx(measured[0], rel=1e-4)


def test_another_chat_template_is_said(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = copied(student, tmp_path / "teacher")
    check_teacher(teacher, student)
    assert "branch.teacher" not in capsys.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.chat_template = f"{tokenizer.chat_template} "
    tokenizer.save_pretrained(teacher)
    check_teacher(teacher, student)
    assert "has another chat template; it reads the traces as the student's puts them" in capsys.readouterr().err


def test_a_head_with_too_few_rows_is_refused(student: Path, tmp_path: Path) -> None:
    teacher = copied(student, tmp_path / "teacher")
    copy = AutoModelForCausalLM.from_pretrained(teacher)
    copy.resize_token_embeddings(copy.config.vocab_size - 40)
    copy.save_pretrained(teacher)
    with pytest.raises(UserError, match=r"logits for \d+ tokens, but its tokenizer has \d+$"):
        check_teacher(teacher, student)


def test_tokens_in_another_order_are_named(student: Path, tmp_path: Path) -> None:
    """As many tokens, two of which have changed places: no size tells, and every logit would be another token's."""
    teacher = copied(student, tmp_path / "teacher")
    file = teacher / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[20:22]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has another vocabulary than the student"):
        check_teacher(teacher, student)
