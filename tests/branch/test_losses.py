"""Losses against closed forms and plain PyTorch, and the seams through which optimisers and losses are chosen."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from bm.branch import Traces, train
from bm.branch import loss as engine
from bm.branch.loss import Head, Several, Told, chunked_loss
from bm.config import Component
from bm.errors import UserError
from bm.losses import contrast, gkd, kd, pckd, rkd, sft
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_training import rows, trained, weights
from tests.conftest import Bm, slow

DIVERGENCES = ("forward", "reverse", "jsd")


def told(labels: int, entries: int = 17) -> tuple[Tensor, Tensor, Tensor, Told]:
    """The student's hidden states, head and targets, and a teacher of another width."""
    torch.manual_seed(labels)
    hidden, weight, theirs, matrix = (torch.randn(*shape, dtype=torch.float64) for shape in
                                      ((labels, 8), (17, 8), (labels, 5), (entries, 5)))  # fmt: skip
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(17, (labels,)), Told(theirs, Head(matrix))


def plain(student: Tensor, teacher: Tensor, divergence: str, temperature: float) -> Tensor:
    """The definitions as they stand in the papers, over whole tensors of probabilities."""
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    m = (p + q) / 2
    return (
        temperature**2
        * {
            "forward": (p * (p / q).log()).sum(),
            "reverse": (q * (q / p).log()).sum(),
            "jsd": 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum(),
        }[divergence]
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("cap", [None, 3.0])
def test_gradients_of_distillation_are_exact(
    monkeypatch: pytest.MonkeyPatch, divergence: str, cap: float | None
) -> None:
    monkeypatch.setattr(engine, "CHUNK", 4)
    hidden, weight, targets, teacher = told(9)
    loss = partial(kd, divergence=divergence, temperature=2.0)
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_loss(h, Head(w, 1.0, cap), targets, 7.0, loss, teacher), (hidden, weight)
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_equals_the_papers_definitions(divergence: str, temperature: float) -> None:
    hidden, weight, targets, teacher = told(700)
    ours = chunked_loss(
        hidden, Head(weight), targets, 3.0, partial(kd, divergence=divergence, temperature=temperature), teacher
    )
    theirs = plain(hidden @ weight.t(), teacher.said(0, 700, torch.float64), divergence, temperature) / 3.0
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    pairs = zip(torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(theirs, (hidden, weight)), strict=True)
    for mine, expected in pairs:
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


def test_closed_forms_of_two_tokens() -> None:
    """p = (3/4, 1/4) against q = (1/2, 1/2): KL(p‖q) = ¾ ln 3/2 + ¼ ln 1/2, KL(q‖p) = ½ ln 4/3; JSD is at most ln 2."""
    teacher, logits, target = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    forward = kd(logits, target, teacher, divergence="forward", temperature=1.0)
    assert forward.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    reverse = kd(logits, target, teacher, divergence="reverse", temperature=1.0)
    assert reverse.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    opposite = torch.tensor([[-80.0, 80.0]])
    jsd = kd(-opposite, target, opposite, divergence="jsd", temperature=1.0)
    assert jsd.item() == pytest.approx(math.log(2), rel=1e-5)
    assert kd(teacher, target, teacher, divergence="jsd", temperature=1.0).item() == pytest.approx(0, abs=1e-7)


def test_generalised_divergence_between_its_limits() -> None:
    """JSD(½) is the Jensen-Shannon divergence; over β and 1 − β it tends to the forward and the reverse KL (GKD)."""
    torch.manual_seed(0)
    logits, teacher, targets = torch.randn(5, 7).double(), torch.randn(5, 7).double(), torch.zeros(5, dtype=torch.int64)
    jsd = partial(gkd, logits, targets, teacher, temperature=2.0)
    torch.testing.assert_close(jsd(beta=0.5), plain(logits, teacher, "jsd", 2.0))
    torch.testing.assert_close(jsd(beta=1e-6) / 1e-6, plain(logits, teacher, "forward", 2.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(jsd(beta=1 - 1e-6) / 1e-6, plain(logits, teacher, "reverse", 2.0), rtol=1e-4, atol=0)
    between = partial(gkd, targets=targets, teacher=teacher, beta=0.25, temperature=2.0)
    assert torch.autograd.gradcheck(between, (logits.requires_grad_(),))


def test_hard_traces_wait_in_preview_distillation() -> None:
    """w = 1 up to growth^epoch and exp(−α²) beyond; with w = 1 everywhere it is the labels' loss and δ times kd."""
    torch.manual_seed(0)
    logits, teacher, targets = torch.randn(3, 7).double(), torch.randn(3, 7).double(), torch.tensor([1, 2, 3])
    settings = {"weight": 0.5, "growth": 1.5, "temperature": 2.0}
    easy, hard = torch.ones(3).double(), torch.tensor([0.5, 2.0, 1.0]).double()
    labels = cross_entropy(logits, targets, reduction="sum")
    whole = pckd(logits, targets, teacher, easy, 0.0, **settings)
    torch.testing.assert_close(whole, labels + 0.5 * plain(logits, teacher, "forward", 2.0))
    each = [plain(logits[i : i + 1], teacher[i : i + 1], "forward", 2.0) for i in range(3)]
    waiting = labels + 0.5 * (each[0] + math.exp(-4.0) * each[1] + each[2])
    torch.testing.assert_close(pckd(logits, targets, teacher, hard, 0.0, **settings), waiting)
    torch.testing.assert_close(pckd(logits, targets, teacher, hard, 2.0, **settings), labels + 0.5 * sum(each))
    gradient = partial(pckd, targets=targets, teacher=teacher, difficulty=hard, epoch=0.0, **settings)
    assert torch.autograd.gradcheck(gradient, (logits.requires_grad_(),))


def test_relations_of_a_turned_and_stretched_space_are_the_same() -> None:
    """Distances over their mean and angles do not change with rotation and scale (RKD); else Huber's loss by hand."""
    torch.manual_seed(0)
    student, turn = torch.randn(5, 4).double(), torch.linalg.qr(torch.randn(4, 4).double())[0]
    assert rkd(student, 3 * student @ turn, distance=1.0, angle=1.0).item() == pytest.approx(0, abs=1e-12)
    triangle, line = torch.tensor([[0.0, 0], [3, 0], [0, 4]]).double(), torch.tensor([[0.0], [1], [2]]).double()
    ours, theirs = torch.tensor([3.0, 4, 5]) / 4, torch.tensor([1.0, 2, 1]) * 3 / 4
    by_hand = ((ours - theirs).square() / 2).mean().item()
    assert rkd(triangle, line, distance=1.0, angle=0.0).item() == pytest.approx(by_hand, rel=1e-6)
    angles = [(0.0, 1.0), (0.6, -1.0), (0.8, 1.0)]  # cosines at each corner, of the triangle and of the line
    huber = [d * d / 2 if (d := abs(a - b)) < 1 else d - 0.5 for a, b in angles]
    assert rkd(triangle, line, distance=0.0, angle=1.0).item() == pytest.approx(sum(huber) / 3, rel=1e-6)
    teacher = torch.randn(5, 3).double()
    relation = partial(rkd, teacher=teacher, distance=1.0, angle=2.0)
    assert torch.autograd.gradcheck(relation, (student.requires_grad_(),))
    assert rkd(student[:1], teacher[:1], distance=1.0, angle=1.0).item() == 0


def test_domains_are_contrasted_as_in_the_papers_formula() -> None:
    torch.manual_seed(0)
    features, domains = torch.randn(4, 3).double().requires_grad_(), torch.tensor([0, 0, 1, 2])
    unit = features / features.norm(dim=1, keepdim=True)
    similar = (unit @ unit.t() / 0.5).exp()
    expected = [-(similar[i, j] / (similar[i].sum() - similar[i, i])).log() for i, j in ((0, 1), (1, 0))]
    relation = partial(contrast, domains=domains, weight=2.0, temperature=0.5)
    torch.testing.assert_close(relation(features), 2.0 * sum(expected) / 2)
    assert torch.autograd.gradcheck(relation, (features,))
    for alone in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
        assert contrast(features, alone, weight=1.0, temperature=0.5).item() == 0


def test_several_teachers_speak_at_their_own_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK", 4)
    (hidden, weight, targets, first), (*_, second) = told(9), told(9, entries=20)
    mine, other = torch.tensor([0, 3, 4, 8]), torch.tensor([1, 2, 5, 6, 7])
    parts = [(rows, Told(t.hidden[rows], t.head)) for rows, t in ((mine, first), (other, second))]
    loss = partial(kd, divergence="forward", temperature=1.0)
    both = chunked_loss(hidden, Head(weight), targets, 1.0, loss, Several(parts))
    apart = [chunked_loss(hidden[rows], Head(weight), targets[rows], 1.0, loss, told_) for rows, told_ in parts]
    torch.testing.assert_close(both, sum(apart))


@pytest.mark.parametrize("loss", ["pckd", "rkd"])
def test_losses_of_traces_train(student: Path, teacher: Path, traces: list[Traces], tmp_path: Path, loss: str) -> None:
    facts = trained(student, traces, tmp_path / "work", branch(loss=loss, teacher=teacher, epochs=6))
    table = rows(tmp_path / "work")
    assert facts["final_loss"] < 0.8 * float(table[0]["loss"])
    assert float(table[-1]["held_out_math"]) < float(table[0]["held_out_math"])


def test_padded_rows_of_the_teachers_head_are_left_out() -> None:
    hidden, weight, targets, teacher = told(9, entries=20)
    shorter = Told(teacher.hidden, Head(teacher.head.weight[:17]))
    loss = partial(kd, divergence="forward", temperature=1.0)
    padded, exact = (chunked_loss(hidden, Head(weight), targets, 1.0, loss, t) for t in (teacher, shorter))
    assert torch.equal(padded, exact)


class Largest(torch.overrides.TorchFunctionMode):
    """Counts the elements of the largest tensor that is made inside the context."""

    elements = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        self.elements = max(self.elements, result.numel() if isinstance(result, Tensor) else 0)
        return result


def test_no_logits_of_a_sequence_exist() -> None:
    """Over many tokens and a large vocabulary the largest tensor stays a chunk, for student and teacher together."""
    hidden, head = torch.randn(4 * engine.CHUNK, 4, requires_grad=True), Head(torch.randn(5000, 4, requires_grad=True))
    teacher, targets = Told(hidden.detach(), Head(head.weight.detach())), torch.zeros(len(hidden), dtype=torch.int64)
    with Largest() as made:
        chunked_loss(hidden, head, targets, 1.0, partial(kd, divergence="jsd", temperature=1.0), teacher).backward()
    assert made.elements == engine.CHUNK * 5000


@pytest.mark.parametrize(("entries", "labels"), [(320, 512), (49_152, 512), (65_536, 512), (151_936, 220), (2**26, 1)])
def test_a_larger_vocabulary_takes_fewer_labels_at_a_time(entries: int, labels: int) -> None:
    """No more logits exist with 152,000 entries than with 65,536."""
    assert engine.at_a_time(entries) == labels and (labels * entries <= engine.LOGITS or labels == 1)


def test_the_label_loss_is_a_loss_like_any_other(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """The fused gradient trains to what plain cross entropy, as a user would write it, trains to."""
    trained(student, traces, tmp_path / "ours", branch())
    trained(student, traces, tmp_path / "yours", branch(loss=Component(f"{__name__}.cross_entropy_as_written", {})))
    for ours, yours in zip(rows(tmp_path / "ours"), rows(tmp_path / "yours"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(yours["loss"]), rel=1e-5)


def cross_entropy_as_written(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits, targets, reduction="sum")


def test_default_numbers_are_those_of_one_adamw_step() -> None:
    """conf/optimizer/adamw.yaml steps as torch.optim.AdamW does with the paper's numbers, to the last bit."""
    layers = [nn.Linear(5, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours = branch().optimizer(layers[0], 1e-3)
    paper = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}
    theirs = torch.optim.AdamW(layers[1].parameters(), **paper, fused=True)
    for _ in range(3):
        for layer, optimizer in zip(layers, (ours, theirs), strict=True):
            layer(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(layers[0].weight, layers[1].weight)


def test_another_optimizer_resumes_to_the_same_bytes(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "learning_rate": 0.1}
    undisturbed = trained(student, traces, tmp_path / "undisturbed", branch(**settings))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bm.branch.checkpoint._wait", interrupt_after(6))
        trained(student, traces, tmp_path / "work", branch(**settings, checkpoint_seconds=0.001))
    assert trained(student, traces, tmp_path / "work", branch(**settings)) == undisturbed
    ours, expected = weights(tmp_path / "work"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def interrupt_after(calls: int):  # type: ignore[no-untyped-def]
    left = iter(range(calls))

    def wait() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return wait


@pytest.fixture(scope="module")
def teacher(student: Path, traces: list[Traces], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert, from which the student then learns by logits."""
    work = tmp_path_factory.mktemp("teacher") / "work"
    trained(student, traces, work, branch(epochs=8))
    return work


def agreement(model: Path, teacher: Path) -> float:
    """KL(teacher‖model) over a prompt's next tokens."""
    ids = AutoTokenizer.from_pretrained(teacher)("3 plus 4 plus 50", return_tensors="pt")["input_ids"]
    p, q = (AutoModelForCausalLM.from_pretrained(f)(ids).logits.log_softmax(-1) for f in (teacher, model))
    return kl_div(q, p, reduction="sum", log_target=True).item()


@pytest.mark.parametrize("divergence", ["forward", slow("reverse"), slow("jsd")])
def test_a_student_comes_closer_to_its_teacher(
    student: Path, teacher: Path, traces: list[Traces], tmp_path: Path, divergence: str
) -> None:
    loss = Component("bm.losses.kd", {"divergence": divergence, "temperature": 1.0})
    facts = trained(student, traces, tmp_path / "work", branch(loss=loss, teacher=teacher, epochs=8))
    table = rows(tmp_path / "work")
    assert facts["final_loss"] < 0.5 * float(table[0]["loss"])
    assert agreement(tmp_path / "work", teacher) < 0.5 * agreement(student, teacher)
    assert float(table[-1]["held_out_math"]) > facts["final_loss"], "held-out losses stay those of the labels"
    unchanged = trained(teacher, traces, tmp_path / "same", branch(loss=loss, teacher=teacher, epochs=1))
    assert float(rows(tmp_path / "same")[0]["loss"]) == pytest.approx(0, abs=1e-5) and unchanged


def test_a_teacher_with_another_vocabulary_is_one_line(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.add_tokens(["teachers_only"])
    tokenizer.save_pretrained(tmp_path / "teacher")
    AutoModelForCausalLM.from_pretrained(student).save_pretrained(tmp_path / "teacher")
    for folder, why in ((tmp_path / "teacher", "'teachers_only' is .* and missing"), (tmp_path, "not the folder of")):
        with pytest.raises(UserError, match=why) as said:
            train(student, traces, branch(loss="kd", teacher=folder), trainer(), tracker(), "math", "k", tmp_path / "w")
        assert "\n" not in str(said.value) and not (tmp_path / "w").exists()


def test_loss_and_teacher_belong_together(student: Path) -> None:
    with pytest.raises(UserError, match=r"`bm\.losses\.kd` learns from a teacher; set branch\.teacher"):
        branch(loss="kd")
    with pytest.raises(UserError, match=r"`bm\.losses\.sft` does not look at a teacher"):
        branch(teacher=student)


def test_a_loss_and_an_optimizer_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bm: Bm) -> None:
    """A function and a YAML of two lines each, in a folder of your own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def focal(logits, targets, *, gamma: float):\n"
        "    logp = logits.log_softmax(-1).gather(1, targets[:, None])\n"
        "    return -((1 - logp.exp()) ** gamma * logp).sum()\n"
        "def adagrad(module, learning_rate):\n"
        "    return torch.optim.Adagrad(module.parameters(), lr=learning_rate)\n"
    )
    for group, name, more in (("loss", "focal", "gamma: 2.0\n"), ("optimizer", "adagrad", "")):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(f"_target_: mine.{name}\n{more}")
    said = bm("run", f"--config-dir={tmp_path / 'conf'}", "loss=focal", "optimizer=adagrad", "--cfg=job", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "_target_: mine.focal" in said.stdout and "_target_: mine.adagrad" in said.stdout
    import mine  # type: ignore[import-not-found]

    logits, targets = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.randint(5, (6,))
    hidden, weight = torch.eye(6, dtype=torch.float64), logits.t()
    ours = chunked_loss(hidden, Head(weight), targets, 1.0, partial(mine.focal, gamma=0.0))
    torch.testing.assert_close(ours, chunked_loss(hidden, Head(weight), targets, 1.0, sft))
