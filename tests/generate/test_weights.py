"""A checkpoint that lacks, adds or reshapes a tensor is refused by name; a whole one, tied or not, is loaded."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bm.branch.model import load as load_student
from bm.config import Trainer
from bm.errors import UserError
from bm.generate.transformers_engine import load
from bm.generate.weights import load_model
from tests.generate.conftest import ARCHITECTURES, characters

LAST = "model.layers.1.mlp.up_proj.weight"


def saved(folder: Path, name: str = "qwen2") -> Path:
    torch.manual_seed(3)
    ARCHITECTURES[name]().save_pretrained(folder)
    characters().save_pretrained(folder)
    return folder


def changed(folder: Path, change) -> Path:
    file = saved(folder) / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_whole_model_has_the_weights_of_its_files(tmp_path, name):
    model = load_model(saved(tmp_path / "m", name), "float32")
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in load_file(tmp_path / "m/model.safetensors").items())


def test_tied_weights_may_be_written_twice(tmp_path):
    def twice(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    load_model(changed(tmp_path / "m", twice), "float32")


FAULTS = {
    f"without {LAST}": lambda tensors: tensors.pop(LAST),
    r"wrong shape of .*has \[3, 3\], needs \[48, 32\]": lambda tensors: tensors.update({LAST: torch.zeros(3, 3)}),
    "with model.layers.7.extra": lambda tensors: tensors.update({"model.layers.7.extra": torch.zeros(3)}),
}


@pytest.mark.parametrize("said", FAULTS)
def test_an_incomplete_checkpoint_is_refused_by_name(tmp_path, said):
    folder = changed(tmp_path / "m", FAULTS[said])
    with pytest.raises(UserError, match=f"not a whole qwen2 model: .*{said}"):
        load(folder, "float32", "cpu")
    trainer = Trainer("cpu", 1, 1, "32-true", 1, "none", False, False, False, False, "")
    with pytest.raises(UserError, match=said):
        load_student(folder, "sdpa", 8, trainer, None)


def test_truncated_weights_are_one_line(tmp_path):
    file = saved(tmp_path / "m") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be loaded") as refused:
        load(tmp_path / "m", "float32", "cpu")
    assert "\n" not in str(refused.value)


class Malice:
    def __reduce__(self):
        return open, ("ran", "w")


def test_pickles_are_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (saved(tmp_path / "m") / "model.safetensors").unlink()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path / "m", "float32", "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_tokenizer_is_one_line(tmp_path):
    (saved(tmp_path / "m") / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"the tokenizer of .* cannot be loaded"):
        load(tmp_path / "m", "float32", "cpu")
