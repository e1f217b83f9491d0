"""What is stored of a teacher: training by it is training with the teacher beside it, and no file is half there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from bm.branch import Traces, telling
from bm.branch import documents as cache
from bm.branch import loss as engine
from bm.branch.loss import Head, Kept, chunked_loss
from bm.branch.stored import ABOUT, About, shard
from bm.branch.telling import tell
from bm.errors import UserError
from bm.losses import Likeliest, gkd, kd, pckd
from tests.branch.conftest import branch, trainer
from tests.branch.test_losses import DIVERGENCES, Largest, plain
from tests.branch.test_parallel import close, launched
from tests.branch.test_training import rows, trained
from tests.conftest import SHRUNK, command, slow
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
VOCABULARY = 320
"""More than the tests' tokenizer has: every token is stored."""
LOSSES: list[Callable[..., Tensor]] = [
    *(partial(kd, divergence=name, temperature=2.0) for name in DIVERGENCES),
    partial(gkd, beta=0.25, temperature=2.0),
    partial(
        pckd, difficulty=torch.tensor([0.5, 2.0, 1.0]).double(), epoch=0.0, weight=0.5, growth=1.5, temperature=2.0
    ),
]


def likeliest(teacher: Tensor, k: int, temperature: float) -> Likeliest:
    """By the definition: the k largest of the softmax, and one minus their sum."""
    p = (teacher / temperature).softmax(-1)
    entries = teacher.argsort(-1, descending=True)[:, :k]
    chosen = p.gather(1, entries)
    others = [1 - chosen.sum(1, keepdim=True)] * (k < teacher.shape[1])
    return Likeliest(entries, torch.cat([chosen, *others], 1).log(), teacher.shape[1])


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    logits, teacher = torch.randn(3, 7).double(), torch.randn(3, 7).double()
    return logits.requires_grad_(), teacher, torch.tensor([1, 2, 3])


@pytest.mark.parametrize("loss", LOSSES)
def test_with_every_token_it_is_the_loss_over_the_vocabulary(loss: Callable[..., Tensor]) -> None:
    """Value and gradient to 1e-12, in float64."""
    logits, teacher, targets = drawn()
    whole = loss(logits, targets, teacher)
    stored = loss(logits, targets, likeliest(teacher, 7, 2.0))
    torch.testing.assert_close(stored, whole, rtol=1e-12, atol=0)
    pair = (torch.autograd.grad(value, logits)[0] for value in (stored, whole))
    torch.testing.assert_close(*pair, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_gradients_of_the_likeliest_are_exact(loss: Callable[..., Tensor], k: int) -> None:
    logits, teacher, targets = drawn()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, likeliest(teacher, k, 2.0)), (logits,))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_all_other_tokens_are_one_outcome(divergence: str) -> None:
    """The papers' definitions over k + 1 outcomes, and the chain rule: KL over the vocabulary less what is among the
    others."""
    logits, teacher, targets = drawn()
    held = likeliest(teacher, 3, 1.0)
    q = logits.softmax(-1)
    chosen = q.gather(1, held.entries)
    outcomes = torch.cat([chosen, 1 - chosen.sum(1, keepdim=True)], 1)
    ours = kd(logits, targets, held, divergence=divergence, temperature=1.0)
    torch.testing.assert_close(ours, plain(outcomes.log(), held.log_p, divergence, 1.0), rtol=1e-12, atol=0)
    assert 0 < ours < plain(logits, teacher, divergence, 1.0)
    if divergence == "forward":
        others = torch.ones_like(q, dtype=torch.bool).scatter(1, held.entries, False)
        p = teacher.softmax(-1)
        among = [(p_[o] * (p_[o] / p_[o].sum() / (q_[o] / q_[o].sum())).log()).sum()
                 for p_, q_, o in zip(p, q, others, strict=True)]  # fmt: skip
        torch.testing.assert_close(ours + sum(among), plain(logits, teacher, "forward", 1.0), rtol=1e-12, atol=0)


def test_chunks_and_padded_rows_of_the_students_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine labels in chunks of four, and a head with three rows that are no tokens: no gradient goes there."""
    monkeypatch.setattr(engine, "CHUNK", 4)
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 4).double().requires_grad_(), torch.randn(10, 4).double().requires_grad_()
    teacher, targets = torch.randn(9, 7).double(), torch.zeros(9, dtype=torch.int64)
    loss = partial(kd, divergence="forward", temperature=1.0)
    ours = chunked_loss(hidden, Head(weight), targets, 1.0, loss, Kept(likeliest(teacher, 7, 1.0)))
    torch.testing.assert_close(ours, plain(hidden @ weight[:7].t(), teacher, "forward", 1.0))
    assert not torch.autograd.grad(ours, weight)[0][7:].any()


def test_no_tensor_of_all_labels_and_tokens_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK", 8)
    hidden, head = torch.randn(32, 4, requires_grad=True), Head(torch.randn(5000, 4, requires_grad=True))
    said = Kept(likeliest(torch.randn(32, 5000), 5, 1.0))
    with Largest() as made:
        targets = torch.zeros(32, dtype=torch.int64)
        chunked_loss(hidden, head, targets, 1.0, partial(kd, divergence="reverse", temperature=1.0), said).backward()
    assert made.elements == 8 * 5000


@pytest.fixture(scope="module")
def teacher(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student with weights moved, so that it says something else."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer, model = AutoTokenizer.from_pretrained(student), AutoModelForCausalLM.from_pretrained(student)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


def stored(student: Path, traces: list[Traces], folder: Path, **settings: Any) -> list[Traces]:
    """The traces with what their teacher says of each domain."""
    said, config = [], branch(**settings)
    assert isinstance(config.teacher, Path)
    for source in traces:
        (work := folder / source.domain).mkdir(parents=True)
        tell(student, config.teacher, source, config, trainer(), work)
        said.append(replace(source, stored=work))
    return said


@pytest.mark.parametrize(
    ("loss", "kept"),
    [("kd", VOCABULARY), ("rkd", "hidden"), slow("kd", "hidden"), slow("gkd", VOCABULARY), slow("pckd", VOCABULARY)],
)
def test_training_by_what_is_stored_is_training_with_the_teacher(
    student: Path, teacher: Path, traces: list[Traces], tmp_path: Path, loss: str, kept: Any
) -> None:
    """Every step's loss to 1e-3, which is what fp16 leaves."""
    settings = {"loss": loss, "teacher": teacher, "epochs": 1, "own": None}
    trained(student, traces, tmp_path / "beside", branch(**settings))
    said = stored(student, traces, tmp_path / "said", **settings, stored=kept)
    trained(student, said, tmp_path / "stored", branch(**settings, stored=kept))
    for ours, theirs in zip(rows(tmp_path / "stored"), rows(tmp_path / "beside"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-3)


def test_records_are_what_was_said_they_would_be(
    student: Path, teacher: Path, traces: list[Traces], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token, eight entries and nine log-probabilities of 2 bytes each are 38 bytes; they are the model's own."""
    stored(student, traces[:1], tmp_path, loss="kd", teacher=teacher, stored=8)
    about = About(**json.loads((tmp_path / "math" / ABOUT).read_text()))
    assert about.record.itemsize == 38 and f"38 bytes at each of {about.labels:,} labels" in capsys.readouterr().err
    held = np.load(shard(tmp_path / "math", 0))
    assert held.dtype == about.record and len(held) == about.labels
    cache.tokenise(student, traces[:1], branch(), tmp_path)
    documents, model = cache.load(tmp_path), AutoModelForCausalLM.from_pretrained(teacher)
    first = 0
    for start, length, prompt in zip(documents.starts, documents.lengths, documents.prompts, strict=True):
        ids = torch.from_numpy(documents.tokens[start : start + length].astype(np.int64))
        log_p = model(ids[None]).logits[0, prompt - 1 : -1, : about.vocabulary].log_softmax(-1)
        own = held[first : first + length - prompt]
        first += length - prompt
        assert (own["token"] == ids[prompt:].numpy()).all()
        entries, values = torch.from_numpy(own["entries"].astype(np.int64)), torch.from_numpy(own["log_p"].astype("f4"))
        torch.testing.assert_close(log_p.gather(1, entries), values[:, :8], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(log_p.topk(8).values, values[:, :8], rtol=1e-3, atol=1e-4)
        others = log_p.scatter(1, entries, -torch.inf).logsumexp(-1)
        torch.testing.assert_close(others, values[:, 8], rtol=1e-3, atol=1e-4)
    assert first == about.labels


@pytest.mark.parametrize(
    ("kept", "vocabulary", "size"),
    [(64, 151_936, 390), (64, 49_152, 262), (128, 151_936, 774), ("hidden", 151_936, 10_244)],
)
def test_sizes_of_a_record(kept: Any, vocabulary: int, size: int) -> None:
    likeliest_ = kept if isinstance(kept, int) else None
    assert About(1, vocabulary, likeliest_, 5120).record.itemsize == size


WRITE = """
import sys
from pathlib import Path
from bm.branch import Traces, telling
from bm.branch import documents as cache
from tests.branch.conftest import branch, trainer

telling.SHARD = int(sys.argv[5])
student, teacher, traces, work = map(Path, sys.argv[1:5])
telling.tell(student, teacher, Traces(traces, "math"), branch(loss="kd", teacher=teacher, stored=8), trainer(), work)
"""


def test_killed_half_way_it_goes_on_to_the_same_bytes(
    student: Path, teacher: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once two of its shards are there; each file that is there is whole, and kept."""
    size = 2000
    monkeypatch.setattr(telling, "SHARD", size)
    (whole,) = stored(student, traces[:1], tmp_path / "undisturbed", loss="kd", teacher=teacher, stored=8)
    (work := tmp_path / "work").mkdir()
    words = [sys.executable, "-c", WRITE, *map(str, (student, teacher, traces[0].path, work, size))]
    running = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while running.poll() is None and not shard(work, 1).exists():
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and not (work / ABOUT).exists()
    before = {file: (file.stat().st_ino, len(np.load(file))) for file in work.glob("[0-9]*.npy")}
    tell(student, teacher, traces[0], branch(loss="kd", teacher=teacher, stored=8), trainer(), work)
    assert all(file.stat().st_ino == inode for file, (inode, _) in before.items())
    names = sorted(path.name for path in whole.stored.iterdir()) if whole.stored else []
    assert sorted(path.name for path in work.iterdir()) == names and len(names) > 3
    for name in names:
        assert (work / name).read_bytes() == (tmp_path / "undisturbed" / "math" / name).read_bytes()


def test_records_of_another_text_are_noticed(
    student: Path, teacher: Path, traces: list[Traces], tmp_path: Path
) -> None:
    """Whether or not they have as many labels as the traces, they are refused in one line, and nothing is learned."""
    settings = {"loss": "kd", "teacher": teacher, "stored": 8}
    math, science = stored(student, traces, tmp_path, **settings)
    with pytest.raises(UserError, match=r"labels of math, which has [\d,]+ here; make it again") as said:
        trained(student, [replace(math, stored=science.stored)], tmp_path / "w", branch(**settings))
    assert "\n" not in str(said.value)
    assert math.stored
    rows_ = np.load(file := shard(math.stored, 0))
    rows_["token"] = 0
    np.save(file, rows_)
    with pytest.raises(UserError, match=r"tells of another text than the trace [0-9a-f]{16} of math"):
        trained(student, [math], tmp_path / "x", branch(**settings))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"loss": "sft", "stored": 8}, "stored: there is no teacher to store anything of"),
        ({"loss": "opd", "stored": 8}, "stored: the student's own responses are new in every run"),
        ({"loss": "rkd", "stored": 8}, r"stored: `bm\.losses\.rkd` compares hidden states; set it to hidden"),
        ({"loss": "kd", "stored": 8, "packing": "packing"}, "stored: with packing=packing a trace is read behind"),
        ({"loss": "kd", "stored": 0}, "stored"),
    ],
)
def test_what_cannot_be_stored_is_one_line(teacher: Path, settings: dict[str, Any], why: str) -> None:
    of = {} if settings["loss"] == "sft" else {"teacher": teacher}
    with pytest.raises(UserError, match=why):
        branch(**of, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "kept"), [("kd", 8), ("rkd", "hidden")])
@pytest.mark.parametrize("sequence", [1, 2])
def test_two_ranks_learn_what_one_process_learns(
    student: Path,
    teacher: Path,
    traces: list[Traces],
    tmp_path: Path,
    forked: Forked,
    loss: str,
    kept: Any,
    sequence: int,
) -> None:
    settings = {"loss": loss, "teacher": teacher, "stored": kept, "epochs": 1}
    said = stored(student, traces, tmp_path / "said", **settings)
    launched(student, said, tmp_path / "alone", 1, 1, **settings)
    launched(student, said, tmp_path / "both", 2, sequence, forked.launch(2), **settings)
    close(tmp_path / "both", tmp_path / "alone")


def test_a_run_stores_once_and_every_training_takes_it(undisturbed: Path, tmp_path: Path) -> None:
    """Two losses by one teacher: its pass is an artefact that the second training finds; so does the ledger."""
    student = next(path.parent for path in undisturbed.glob("outputs/store/branch/*/model.safetensors"))
    fewer = [word for word in SHRUNK if not word.startswith(("domains.coding.", "domains.science."))]
    common = [*fewer, "domain=math", f"branch.teacher={student}", "branch.stored=16"]
    for loss in ("kd", "pckd"):
        said = command("branch", *common, f"loss={loss}", cwd=undisturbed)
        assert said.returncode == 0, said.stderr
    manifests = [json.loads(path.read_text()) for path in undisturbed.glob("outputs/store/tell/*/manifest.json")]
    assert len(manifests) == 1 and [i["stage"] for i in manifests[0]["inputs"]] == ["branch", "distill"]
    facts = manifests[0]["facts"]
    assert facts["tokens"] > 0 and facts["flops"] > 0 and facts["bytes_per_label"] == 4 + 16 * 2 + 17 * 2
    trainings = [json.loads(path.read_text()) for path in undisturbed.glob("outputs/store/branch/*/manifest.json")]
    by = [m for m in trainings if any(i["stage"] == "tell" for i in m["inputs"])]
    assert len(by) == 2
