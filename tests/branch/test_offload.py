"""Weights that stay in CPU memory: without a GPU nothing is copied to one, and the rest of the path is held."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from bm.branch import Traces, train
from bm.branch.attention import ISOLATED
from bm.branch.model import load
from bm.branch.module import StudentTraining
from bm.branch.parallel import device_of
from bm.branch.training import fit
from bm.config import Trainer
from bm.errors import UserError
from bm.plan.fitting import fit as fit_of
from tests.branch.conftest import branch, tracker, trainer
from tests.forked import Forked
from tests.plan.test_memory import LORA, llama


@pytest.mark.slow
def test_ranks_train_the_same_expert(student: Path, traces: list[Traces], tmp_path: Path, forked: Forked) -> None:
    """To the bit, with all that reads weights: an average, held-out losses, checkpoints, models kept, moments."""
    config = branch(epochs=1.0, ema=0.8, keep=[0.5], second_moments=True, checkpoint_seconds=0.001)
    for name, offload in (("kept", False), ("offloaded", True)):
        (tmp_path / name).mkdir()
        resources = trainer(devices=2, launch=forked.launch(2), weight_offload=offload)
        train(student, traces, config, resources, tracker(), "math", "0123456789abcdef", tmp_path / name)
    kept, offloaded = (sorted((tmp_path / name).rglob("*.safetensors")) for name in ("kept", "offloaded"))
    assert len(kept) == 3
    assert [path.read_bytes() for path in offloaded] == [path.read_bytes() for path in kept]


@pytest.fixture
def sharded(student: Path) -> Iterator[StudentTraining]:
    """The module as one of two ranks has it; the other does not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
        resources = trainer(devices=2, launch="torchrun", weight_offload=True)
        module = StudentTraining(student, branch(), resources, SimpleNamespace(traces=()))  # type: ignore[arg-type]
        module.student = load(student, ISOLATED, 256, resources, mesh)
        yield module
    finally:
        dist.destroy_process_group()


def test_weights_stay_where_lightning_moves_the_module(sharded: StudentTraining) -> None:
    """`meta` stands for a GPU: batches go there, weights do not."""
    sharded.to("meta")
    assert sharded.device.type == "meta"
    assert {parameter.device.type for parameter in sharded.parameters()} == {"cpu"}
    parts = [part for part in sharded.modules() if isinstance(part, FSDPModule)]
    groups = [group for part in parts for group in part._get_fsdp_state()._fsdp_param_groups]
    assert groups and all(isinstance(group.offload_policy, CPUOffloadPolicy) for group in groups)
    assert device_of(sharded.student) == torch.device("cpu")


def test_gpus_exchange_what_is_in_cpu_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = create_autospec(ModelParallelStrategy)
    monkeypatch.setattr("bm.branch.training.ModelParallelStrategy", strategy)
    monkeypatch.setattr("bm.branch.training.L.Trainer", lambda **_: SimpleNamespace(fit=lambda *_, **__: None))
    backends = []
    for accelerator, offload in (("gpu", True), ("gpu", False), ("cpu", True)):
        resources = trainer(accelerator=accelerator, devices=2, launch="torchrun", weight_offload=offload)
        fit(None, None, resources, None)  # type: ignore[arg-type]
        backends.append(strategy.call_args.kwargs["process_group_backend"])
    assert backends == ["cpu:gloo,cuda:nccl", None, None]


def test_one_rank_alone_is_refused() -> None:
    with pytest.raises(UserError, match="weight_offload: one rank alone does not shard its weights") as said:
        trainer(weight_offload=True)
    assert "\n" not in str(said.value)


def test_it_is_proposed_where_no_number_of_nodes_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(config: object, settings: object, resources: Trainer, *_: object) -> SimpleNamespace:
        return SimpleNamespace(peak=1 if resources.weight_offload else 2)

    monkeypatch.setattr("bm.plan.fitting.training_memory", memory)
    frugal = {"accelerator": "gpu", "activation_checkpointing": "full", "launch": "torchrun"}
    change = fit_of(llama(4), branch(), trainer(devices=8, **frugal), LORA, free=1).change
    assert change == "trainer.weight_offload=true"
    assert fit_of(llama(4), branch(), trainer(**frugal), LORA, free=1).change is None
