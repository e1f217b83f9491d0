"""A teacher that gives more than text: a local model whose logits a loss sees beside the student's."""

from pathlib import Path

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import AutoConfig

from bm.branch.model import Student, load
from bm.config import Trainer
from bm.errors import UserError
from bm.generate.text import difference, model_folder
from bm.progress import say


def check_teacher(teacher: Path, student: Path | None) -> None:
    """UserError unless both folders give every token the same number, so that their logits speak of the same tokens.

    student: None before there is one; then the teacher must be the folder of a model, no more.

    Rows of the heads beyond the vocabulary are padding, and left out of the comparison. Another chat template is said:
    the teacher reads what the student is trained on.
    """
    if not (teacher / "config.json").is_file():
        raise UserError(f"branch.teacher: {teacher} is not the folder of a model")
    if student is None:
        return
    if apart := difference(teacher, student):
        raise UserError(
            f"branch.teacher: {teacher} has another vocabulary than the student ({apart}), so their logits cannot be "
            "compared; take a teacher with the student's tokenizer, or learn from its traces alone with loss=sft"
        )
    for folder in (teacher, student):
        rows, needed = AutoConfig.from_pretrained(folder).get_text_config().vocab_size, tokens(folder)
        if rows < needed:
            raise UserError(f"{folder}: logits for {rows} tokens, but its tokenizer has {needed}")
    theirs, ours = (model_folder(folder).chat_template for folder in (teacher, student))
    if theirs != ours:
        say(f"branch.teacher: {teacher} has another chat template; it reads the traces as the student's puts them")


def tokens(folder: Path) -> int:
    """How many tokens the tokenizer of a folder has, to the one with the highest number."""
    return 1 + max(model_folder(folder).get_vocab().values())


def load_teacher(folder: Path, attention: str, longest: int, trainer: Trainer, mesh: DeviceMesh | None) -> Student:
    """The folder as a model that only speaks: frozen, without dropout, sharded like the student."""
    teacher = load(folder, attention, longest, trainer, mesh)
    teacher.vocabulary = tokens(folder)
    teacher.requires_grad_(False)
    register_fsdp_forward_method(teacher, "tell")  # its shards are gathered for it as for `forward`
    return teacher.eval()
