"""Simulated memory against the allocator's own account of a real training step, and against whole depth."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from bm.branch.attention import ISOLATED
from bm.branch.model import whole
from bm.branch.parallel import Place
from bm.config import Adapter
from bm.plan import memory
from bm.plan.memory import training_memory
from tests.branch.conftest import branch, settings, trainer
from tests.conftest import slow

LORA = settings(Adapter, "adapter/lora.yaml", seed=0)


def llama(layers: int) -> LlamaConfig:
    return LlamaConfig(vocab_size=2048, hidden_size=128, intermediate_size=384, num_hidden_layers=layers,
                       num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False)  # fmt: skip


def measured(config: LlamaConfig, adapter: Adapter | None, checkpointing: str) -> int:
    """The most bytes that PyTorch's allocator had out at a time while the model was made and took two steps."""
    of, resources = branch(sequence_length=512, adapter=adapter), trainer(activation_checkpointing=checkpointing)
    batch = memory._batch(of, Place())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=ISOLATED)
        student = whole(model, ISOLATED, resources, adapter)
        optimizer = of.optimizer(student, of.learning_rate)
        for _ in range(2):
            loss = student(batch, float(batch.targets.numel()))
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
    moves = [(e.start_ns(), e.nbytes()) for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for _, size in sorted(moves, key=lambda move: move[0]):
        now += size
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(("adapter", "checkpointing"), [(None, "none"), (None, "full"), (LORA, "none")])
def test_the_simulated_peak_is_the_allocators(adapter: Adapter | None, checkpointing: str) -> None:
    of, resources = branch(sequence_length=512, adapter=adapter), trainer(activation_checkpointing=checkpointing)
    needs = training_memory(llama(4), of, resources)
    assert needs.peak == pytest.approx(measured(llama(4), adapter, checkpointing), rel=0.1)
    assert needs.parameters >= sum(p.numel() for p in AutoModelForCausalLM.from_config(llama(4)).parameters()) * 4
    if adapter is None:
        assert needs.gradients == needs.parameters and needs.optimizer == pytest.approx(2 * needs.parameters, rel=1e-3)


@pytest.mark.parametrize("ranks", [slow(1), 8])
def test_memory_continues_over_depth(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    of, resources = (
        branch(sequence_length=256),
        trainer(devices=ranks, precision="bf16-mixed", activation_checkpointing="full"),
    )
    continued = training_memory(llama(12), of, resources)
    monkeypatch.setattr(memory, "DEPTHS", (4, 12))
    assert continued.peak == pytest.approx(training_memory(llama(12), of, resources).peak, rel=1e-6)


def test_ranks_share_what_a_training_holds() -> None:
    of = branch(sequence_length=256)
    alone, shared = (training_memory(llama(4), of, trainer(devices=n)) for n in (1, 8))
    assert shared.parameters == pytest.approx(alone.parameters / 8, rel=0.01)
    assert shared.optimizer == pytest.approx(alone.optimizer / 8, rel=0.01)
    split = training_memory(llama(4), of, trainer(devices=8, sequence_parallel=4))
    assert split.activations < shared.activations


def test_four_bits_take_off_what_they_save() -> None:
    of, resources = branch(sequence_length=256, adapter=LORA), trainer(precision="bf16-mixed")
    rounded = training_memory(llama(4), of, resources)
    quantised = training_memory(llama(4), replace(of, adapter=replace(LORA, quantize="nf4")), resources)
    products = 4 * (4 * 128 * 128 + 3 * 128 * 384)
    assert rounded.peak - quantised.peak == pytest.approx(products * (2 - memory.NF4_BYTES))


def test_offloaded_weights_take_their_share_off() -> None:
    """By hand: 2,048 · 128 embeddings twice, four blocks, a last norm; on 8 ranks 12 bytes of each entry with AdamW."""
    of = branch(sequence_length=256)
    kept, offloaded = (training_memory(llama(4), of, trainer(devices=8, weight_offload=on)) for on in (False, True))
    block = 4 * 128 * 128 + 3 * 128 * 384 + 2 * 128
    entries = 2 * 2048 * 128 + 4 * block + 128
    steps, frequencies = 4 * (4 * 9 + 3), 2 * 4 * 16  # AdamW's count for each tensor; the rotary buffers
    assert kept.forward - offloaded.forward == 12 * entries / 8 + steps + frequencies
    assert (offloaded.parameters, offloaded.gradients, offloaded.optimizer, offloaded.step) == (0, 0, 0, 0)
    assert kept.step == 16 * entries / 8 + steps + frequencies
    teacher = training_memory(llama(4), of, trainer(devices=8, weight_offload=True), held=1e9)
    assert teacher == offloaded
