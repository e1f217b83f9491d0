"""What only a card can show of training: bf16 kernels, NCCL, four bits, and memory as CUDA's allocator has it."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from bm.branch import Traces, train
from bm.branch.attention import ISOLATED
from bm.branch.model import load
from bm.branch.parallel import Place
from bm.plan import memory
from bm.plan.memory import training_memory
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_adapter import lora
from tests.branch.test_parallel import TORCHRUN
from tests.branch.test_training import rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = {"accelerator": "gpu", "precision": "bf16-mixed", "activation_checkpointing": "full"}


def trained(student: Path, traces: list[Traces], work: Path, resources: dict, **settings: object) -> list[float]:
    """The loss of each step."""
    work.mkdir()
    train(student, traces, branch(**settings), trainer(**resources), tracker(), "math", "0123456789abcdef", work)
    return [float(row["loss"]) for row in rows(work)]


def test_bf16_on_a_card_learns_as_fp32_on_a_cpu(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    alone = trained(student, traces, tmp_path / "cpu", {})
    assert trained(student, traces, tmp_path / "gpu", CUDA) == pytest.approx(alone, rel=3e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@pytest.mark.parametrize(("sequence", "offload"), [(1, False), (2, False), (1, True)])
def test_ranks_by_nccl_train_as_one(
    student: Path, traces: list[Traces], tmp_path: Path, sequence: int, offload: bool
) -> None:
    alone = trained(student, traces, tmp_path / "alone", CUDA)
    several = {"devices": 2, "sequence_parallel": sequence, "weight_offload": offload, "launch": f"{TORCHRUN} 2"}
    assert trained(student, traces, tmp_path / "both", CUDA | several) == pytest.approx(alone, rel=3e-2)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="no bitsandbytes: make gpu")
def test_an_adapter_learns_beside_four_bits(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    losses = trained(student, traces, tmp_path / "q", CUDA, adapter=lora(quantize="nf4"), learning_rate=5e-3)
    plain = trained(student, traces, tmp_path / "l", CUDA, adapter=lora(), learning_rate=5e-3)
    assert losses == pytest.approx(plain, rel=5e-2)


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_simulated_memory_is_what_cuda_allocates(student: Path, checkpointing: str) -> None:
    of, resources = branch(), trainer(**CUDA | {"activation_checkpointing": checkpointing})
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = load(student, ISOLATED, 256, resources, None).cuda()
    optimizer, batch = of.optimizer(model, 1e-3), memory._batch(of, Place()).to(torch.device("cuda"))
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(batch, float(batch.targets.numel()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    measured = torch.cuda.max_memory_allocated() - before
    assert training_memory(AutoConfig.from_pretrained(student), of, resources).peak == pytest.approx(measured, rel=0.1)
