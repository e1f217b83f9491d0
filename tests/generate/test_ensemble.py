"""Several models that answer as one, against their forward passes over whole sequences without a cache."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bm.errors import UserError
from bm.generate.engines import transformers, vllm
from bm.generate.ensemble import Average, Ensemble, write
from bm.generate.members import ENSEMBLE, members
from bm.generate.transformers_engine import TransformersEngine
from bm.ledger import parameters
from tests.generate.conftest import ARCHITECTURES
from tests.generate.test_transformers import GREEDY, WARM, collected

AVERAGES: tuple[Average, ...] = ("logits", "probabilities")


def pair(name: str) -> list[PreTrainedModel]:
    torch.manual_seed(5)
    return [ARCHITECTURES[name]().eval() for _ in range(2)]


def averaged(logits: list[Tensor], average: Average) -> Tensor:
    """By the definitions, of probabilities: the mean, or the geometric mean, normalised."""
    p = torch.stack([z.double().softmax(-1) for z in logits])
    if average == "probabilities":
        return p.mean(0)
    geometric = p.log().mean(0).exp()
    return geometric / geometric.sum(-1, keepdim=True)


@torch.no_grad()
def by_hand(models: list[PreTrainedModel], ids: list[int], average: Average, most: int) -> list[int]:
    """Greedy decoding, every token by whole forward passes."""
    written = list(ids)
    for _ in range(most):
        logits = [model(torch.tensor([written]), use_cache=False).logits[0, -1] for model in models]
        token = int(averaged(logits, average).argmax())
        if token == 1:
            break
        written.append(token)
    return written[len(ids) :]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_each_token_is_the_averages(name: str, average: Average, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prompts of several lengths in one batch: one cache holds both models' layers, sliding windows too."""
    models, prompts = pair(name), ["12+3=", "a", "what is 7 and 8 and 9 and 10?", "ab cd"]
    ours = collected(TransformersEngine(Ensemble(models, average), tokenizer, batch=4), prompts, GREEDY)
    for p, prompt in enumerate(prompts):
        expected = by_hand(models, tokenizer(prompt).input_ids, average, GREEDY.max_new_tokens)
        assert ours[p, 0].response == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("average", AVERAGES)
def test_probabilities_are_the_averages(average: Average) -> None:
    models = pair("qwen2")
    ids = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])
    with torch.no_grad():
        ours = Ensemble(models, average)(ids).logits.double().softmax(-1)
        expected = averaged([model(ids).logits for model in models], average)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


class Says(torch.nn.Module):
    """A model that says the same whatever it is asked."""

    def __init__(self, model: PreTrainedModel, p: list[float]) -> None:
        super().__init__()
        self.config, self.generation_config = model.config, model.generation_config
        self.head, self.log_p = torch.nn.Linear(1, len(p)), torch.tensor(p).log()

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    def forward(self, **_: object) -> "Says":
        self.logits = self.log_p[None, None]
        return self


@pytest.mark.parametrize(("average", "ratio"), [("probabilities", 13 / 7), ("logits", math.sqrt(0.36 / 0.06))])
def test_closed_forms_of_two_tokens(qwen2: PreTrainedModel, average: Average, ratio: float) -> None:
    """(9/10, 1/10) and (2/5, 3/5): their means are 13 to 7, their geometric means √0.36 to √0.06."""
    both = Ensemble([Says(qwen2, [0.9, 0.1]), Says(qwen2, [0.4, 0.6])], average)  # type: ignore[list-item]
    first, second = both(torch.zeros(1, 1, dtype=torch.int64)).logits.softmax(-1)[0, 0].tolist()
    assert first / second == pytest.approx(ratio, rel=1e-6)


def test_alike_members_answer_like_one(qwen2: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Drawn samples too, and log-likelihoods of continuations."""
    prompts = ["12+3=", "what?"]
    one, both = (TransformersEngine(m, tokenizer, batch=8) for m in (qwen2, Ensemble([qwen2, qwen2], "logits")))
    assert collected(one, prompts, WARM) == collected(both, prompts, WARM)
    pairs = [(tokenizer("12+3=").input_ids, tokenizer("15!").input_ids), (tokenizer("ab").input_ids, [7])]
    for (mine, greedy), (theirs, same) in zip(both.likelihoods(pairs), one.likelihoods(pairs), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5) and greedy == same


@pytest.fixture
def folders(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> dict[str, Path]:
    for name, model in zip(("math", "science"), pair("qwen2"), strict=True):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in ("math", "science")}


def test_a_folder_names_its_members(folders: dict[str, Path], tmp_path: Path) -> None:
    """It goes where its members go, counts as large as they are together, and answers like them."""
    (tmp_path / "both").mkdir()
    write("logits", folders, {"math": "a", "science": "b"}, tmp_path / "both")
    assert json.loads((tmp_path / "both" / ENSEMBLE).read_text())["members"] == {
        "math": "../math",
        "science": "../science",
    }
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert [m.resolve() for m in members(moved / "both").values()] == [moved / "math", moved / "science"]
    assert parameters(moved / "both") == 2 * parameters(moved / "math") > 0
    settings = {"batch": 4, "dtype": "float32", "device": "cpu"}
    ours = collected(transformers(moved / "both", **settings), ["12+3="], GREEDY)  # type: ignore[arg-type]
    expected = collected(
        TransformersEngine(Ensemble(pair("qwen2"), "logits"), loaded(moved), batch=4), ["12+3="], GREEDY
    )
    assert ours == expected
    (moved / "science" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="science cannot be loaded"):
        transformers(moved / "both", **settings)  # type: ignore[arg-type]
    moved.rename(tmp_path)


def loaded(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder / "math")
    return tokenizer


def test_members_must_number_tokens_alike(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path)
    tokenizer.add_tokens(["one_more"])
    tokenizer.save_pretrained(folders["science"])
    (tmp_path / "both").mkdir()
    with pytest.raises(
        UserError, match=r"science has another vocabulary than math \(\d+ and \d+ tokens; .* is \d+ and "
    ) as said:
        write("logits", folders, {}, tmp_path / "both")
    assert "\n" not in str(said.value) and not list((tmp_path / "both").iterdir())


def test_vllm_does_not_answer_for_an_ensemble(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    write("logits", folders, {}, tmp_path / "both")
    with pytest.raises(
        UserError, match="both is an ensemble, whose members answer together in the engine transformers"
    ):
        vllm(tmp_path / "both", "auto", 1, 1, 0.5, 1, 1.0, Path("python"))


def test_rows_that_pad_one_head_are_left_out(qwen2: PreTrainedModel) -> None:
    wide = Says(qwen2, [0.5, 0.25, 0.25])
    both = Ensemble([Says(qwen2, [0.5, 0.5]), wide], "probabilities")  # type: ignore[list-item]
    assert both(torch.zeros(1, 1, dtype=torch.int64)).logits.softmax(-1)[0, 0].tolist() == pytest.approx(
        [7 / 12, 5 / 12]
    )
