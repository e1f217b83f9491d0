"""The transformers engine against Hugging Face's own generate, and against itself under every batching."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    MambaConfig,
    MambaForCausalLM,
    RecurrentGemmaConfig,
    RwkvConfig,
    RwkvForCausalLM,
)

from bm.errors import UserError
from bm.generate import Sampling, transformers_engine
from bm.generate.engines import transformers
from bm.generate.transformers_engine import CACHE, TransformersEngine

GREEDY = Sampling(n=1, temperature=0, top_p=1, max_new_tokens=24, seed=0)
WARM = Sampling(n=4, temperature=1.0, top_p=0.9, max_new_tokens=24, seed=7)


@pytest.fixture(scope="module")
def prompts():
    draw = random.Random(1)
    return ["".join(draw.choice("abcdef 0123456789+") for _ in range(draw.randint(2, 40))) for _ in range(12)]


def collected(engine, prompts, sampling, known=()):
    samples = [s for batch in engine.generate(prompts, sampling, known) for s in batch]
    return {(s.prompt, s.index): s for s in samples}


def test_greedy_equals_hugging_face_generate(model, tokenizer, prompts):
    """Left padding, positions, cache growth, sliding window and rows that leave early, in one comparison."""
    ours = collected(TransformersEngine(model, tokenizer, batch=12), prompts, GREEDY)
    for p, prompt in enumerate(prompts):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        theirs = model.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=0)[0, ids.shape[1] :]
        assert ours[p, 0].response == tokenizer.decode(theirs, skip_special_tokens=True)
        assert ours[p, 0].finished == (1 in theirs.tolist())
        assert ours[p, 0].tokens == len([t for t in theirs if t != 1])


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_a_model_without_keys_and_values_is_refused(kind, tokenizer):
    """Mamba takes any argument: it would decode each token as if it were the first."""
    if kind == "mamba":
        model = MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=8, state_size=4, num_hidden_layers=1))
    else:
        model = RwkvForCausalLM(RwkvConfig(vocab_size=61, hidden_size=8, attention_hidden_size=8, num_hidden_layers=2))
    with pytest.raises(UserError, match=f"{kind}: keeps a state") as said:
        TransformersEngine(model, tokenizer, batch=4)
    assert "\n" not in str(said.value)


def test_what_all_prompts_begin_with_is_computed_once(qwen2, tokenizer, prompts):
    """Rows of a forward pass, by pass: the system prompt alone, then what is each prompt's own; responses unchanged."""
    asked = ["you are a helpful abacus: " + prompt for prompt in prompts]
    shapes: list[tuple[int, ...]] = []
    engine = TransformersEngine(qwen2, tokenizer, 12)
    watch = qwen2.register_forward_pre_hook(
        lambda _, __, given: shapes.append(given["input_ids"].shape), with_kwargs=True
    )
    together = collected(engine, asked, GREEDY)
    watch.remove()
    assert shapes[0][0] == 1 and shapes[1][0] == len(prompts)
    assert shapes[0][1] + shapes[1][1] == max(len(tokenizer(p).input_ids) for p in asked)
    for p, prompt in enumerate(asked):
        alone = collected(TransformersEngine(qwen2, tokenizer, 1), [prompt], GREEDY)
        assert alone[0, 0].response == together[p, 0].response


def test_some_responses_end_and_some_are_cut(qwen2, tokenizer, prompts):
    ended = {s.finished for s in collected(TransformersEngine(qwen2, tokenizer, 12), prompts, WARM).values()}
    assert ended == {True, False}


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_a_sample_does_not_depend_on_its_company(model, tokenizer, prompts, batch):
    together = collected(TransformersEngine(model, tokenizer, batch=7), prompts[:6], WARM)
    assert len(together) == 24
    apart = collected(TransformersEngine(model, tokenizer, batch=batch), prompts[:6], WARM)
    assert {k: s.response for k, s in apart.items()} == {k: s.response for k, s in together.items()}
    alone = collected(TransformersEngine(model, tokenizer, batch=batch), prompts[3:4], WARM)
    assert [alone[0, i].response for i in range(4)] == [together[3, i].response for i in range(4)]


def test_the_longest_prompts_come_first_and_their_order_changes_no_sample(model, tokenizer, prompts):
    engine = TransformersEngine(model, tokenizer, batch=8)
    batches = list(engine.generate(prompts, WARM))
    lengths = [max(len(prompts[s.prompt]) for s in batch) for batch in batches]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]
    turned = collected(engine, prompts[::-1], WARM)
    last = len(prompts) - 1
    assert {(last - p, i): s.response for (p, i), s in turned.items()} == {
        (s.prompt, s.index): s.response for batch in batches for s in batch
    }


def test_a_processor_counts_as_no_gpu(qwen2, tokenizer):
    assert TransformersEngine(qwen2, tokenizer, 1).facts()["gpus"] == 0


def test_answers_of_other_code_are_other_answers(qwen2, tokenizer, monkeypatch):
    engine = TransformersEngine(qwen2, tokenizer, 1)
    before = engine.identity()
    assert before == engine.identity() and len(before["code"]) == 16
    monkeypatch.setattr(transformers_engine, "code_version", lambda entries: f"another {entries}")
    assert engine.identity() != before


def test_more_samples_keep_the_first(qwen2, tokenizer, prompts):
    engine = TransformersEngine(qwen2, tokenizer, batch=16)
    few = collected(engine, prompts, WARM)
    many = collected(engine, prompts, Sampling(6, 1.0, 0.9, 24, 7))
    assert all(many[key].response == sample.response for key, sample in few.items())
    other = collected(engine, prompts, Sampling(4, 1.0, 0.9, 24, 8))
    assert any(other[key].response != sample.response for key, sample in few.items())


def test_one_prefill_for_all_samples_of_a_prompt(qwen2, tokenizer, prompts):
    rows = []
    engine = TransformersEngine(qwen2, tokenizer, batch=48)
    handle = qwen2.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    collected(engine, prompts, WARM)
    handle.remove()
    assert rows[0] == (12, max(len(p) for p in prompts))
    assert all(width == 1 for _, width in rows[1:])
    assert rows[1][0] > rows[-1][0], "rows that ended stay in the batch"


def test_first_tokens_follow_the_nucleus_distribution(qwen2, tokenizer):
    """20,000 draws against probabilities made in float64 by the definition of top-p."""
    samples = collected(TransformersEngine(qwen2, tokenizer, 20_000), ["12+34"], Sampling(20_000, 0.8, 0.7, 1, 5))
    logits = qwen2(tokenizer("12+34", return_tensors="pt").input_ids).logits[0, -1].double()
    p = (logits / 0.8).softmax(-1).detach().numpy()
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), 0.7)) + 1]
    assert 2 < len(kept) < 60
    drawn = [tokenizer(s.response).input_ids[0] if s.response else 1 for s in samples.values()]
    counts = np.bincount(drawn, minlength=len(p))
    assert counts[kept].sum() == 20_000
    assert stats.chisquare(counts[kept], 20_000 * p[kept] / p[kept].sum()).pvalue > 1e-3


def test_what_is_known_is_not_generated_again(qwen2, tokenizer, prompts):
    engine = TransformersEngine(qwen2, tokenizer, batch=10)
    batches = list(engine.generate(prompts, WARM))
    known = {(s.prompt, s.index) for batch in batches[:3] for s in batch}
    assert list(engine.generate(prompts, WARM, known)) == batches[3:]
    generated = batches[0][4]
    rest = collected(engine, prompts, WARM, {(generated.prompt, generated.index)})
    assert len(rest) == sum(map(len, batches)) - 1
    assert (generated.prompt, generated.index) not in rest


def test_batches_shrink_to_the_memory_of_their_cache(qwen2, tokenizer, prompts, monkeypatch):
    engine = TransformersEngine(qwen2, tokenizer, batch=100)
    whole = collected(engine, prompts, WARM)
    config, longest = qwen2.config, max(len(tokenizer(p).input_ids) for p in prompts)
    size = config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * size * 4
    monkeypatch.setitem(CACHE, "cpu", 3 * token * (longest + WARM.max_new_tokens))
    batches = list(engine.generate(prompts, WARM))
    assert len(batches[0]) == 3
    assert len(batches[-2]) > 3
    assert {(s.prompt, s.index): s for batch in batches for s in batch} == whole


def test_stop_strings_cut_and_finish(qwen2, tokenizer, prompts):
    engine = TransformersEngine(qwen2, tokenizer, batch=12)
    free = collected(engine, prompts, GREEDY)
    stop = free[0, 0].response[10]
    cut = collected(engine, prompts, Sampling(1, 0, 1, 24, 0, stop=(stop,)))
    for key, sample in free.items():
        assert cut[key].response == sample.response.split(stop)[0]
        assert cut[key].finished == (sample.finished or stop in sample.response)


def test_generation_ends_where_the_context_does(qwen2, tokenizer):
    long = "ab" * 60
    sample = collected(TransformersEngine(qwen2, tokenizer, 4), [long, "a"], Sampling(1, 0, 1, 500, 0))
    assert sample[0, 0].tokens <= 8
    with pytest.raises(UserError, match="a prompt of 0 tokens"):
        collected(TransformersEngine(qwen2, tokenizer, 4), [""], GREEDY)


def test_a_folder_gives_the_same_as_the_model_in_memory(qwen2, tokenizer, prompts, tmp_path):
    qwen2.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers(tmp_path, batch=12, dtype="float32", device="cpu")
    memory = transformers((qwen2, loaded.tokenizer), batch=12, dtype="float32", device="cpu")
    assert collected(loaded, prompts, WARM) == collected(memory, prompts, WARM)
    assert loaded.render([{"role": "user", "content": "hi"}]) == "u:hi\na:"


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        transformers(tmp_path, batch=1, dtype="auto", device="cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        transformers(Path(tmp_path), batch=1, dtype="auto", device="cpu")


def test_damaged_weights_stop_the_run(tokenizer, prompts, qwen2):
    weight = qwen2.model.layers[0].mlp.down_proj.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(UserError, match="not finite"):
            collected(TransformersEngine(qwen2, tokenizer, 4), prompts, GREEDY)
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu(qwen2, tokenizer, prompts, tmp_path):
    qwen2.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    there = transformers(tmp_path, batch=12, dtype="float32", device="cuda")
    here = transformers((qwen2, there.tokenizer), batch=12, dtype="float32", device="cpu")
    assert collected(there, prompts, WARM) == collected(here, prompts, WARM)


def test_prompts_of_like_length_are_prefilled_together_and_say_what_they_say_alone(qwen2, tokenizer, monkeypatch):
    """Long and short prompts behind one beginning, several samples of each: in groups, and the same responses."""
    monkeypatch.setattr(transformers_engine, "PADDING", 8)
    draw = random.Random(2)
    asked = ["a: " + "".join(draw.choice("abc123+") for _ in range(n)) for n in (60, 5, 58, 30, 31, 4, 60, 6)]
    shapes: list[tuple[int, ...]] = []
    watch = qwen2.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    together = collected(TransformersEngine(qwen2, tokenizer, 32), asked, WARM)
    watch.remove()
    assert [shape for shape in shapes if shape[1] > 1] == [(1, 3), (3, 60), (2, 31), (3, 6)]
    for p, prompt in enumerate(asked):
        alone = collected(TransformersEngine(qwen2, tokenizer, 4), [prompt], WARM)
        assert [alone[0, i].response for i in range(4)] == [together[p, i].response for i in range(4)]


def test_likelihoods_are_those_of_each_pair_alone(qwen2, tokenizer, monkeypatch):
    """Against one forward pass in float64 for every pair: shared prompts, choices of any length, some too long."""
    monkeypatch.setattr(transformers_engine, "PADDING", 8)
    draw = random.Random(4)
    prompts = ["".join(draw.choice("abc 123+") for _ in range(n)) for n in (3, 50, 20, 52, 126, 127)]
    ends = ["a", "abc", " 12", "1234567890", "b"]
    pairs = [(tokenizer(p).input_ids, tokenizer(end).input_ids) for p in prompts for end in ends]
    greedy = qwen2.generate(torch.tensor([pairs[0][0]]), do_sample=False, max_new_tokens=3, pad_token_id=0)[0, -3:]
    pairs.append((pairs[0][0], greedy.tolist()))
    draw.shuffle(pairs)
    rows: list[int] = []
    watch = qwen2.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["input_ids"].numel()), with_kwargs=True
    )
    likelihoods = TransformersEngine(qwen2, tokenizer, 64).likelihoods(pairs)
    watch.remove()
    assert sum(rows) < sum(len(p) + len(end) for p, end in pairs) / 2
    exact = copy.deepcopy(qwen2).double()
    for (prompt, end), (value, same) in zip(pairs, likelihoods, strict=True):
        ids = torch.tensor([[*prompt, *end][-129:]])
        with torch.no_grad():
            logits = exact(ids[:, :-1]).logits[0, -len(end) :].log_softmax(-1)
        assert value == pytest.approx(logits.gather(1, ids[0, -len(end) :, None]).sum().item(), rel=1e-4)
        assert same == (logits.argmax(-1) == ids[0, -len(end) :]).all()


@pytest.mark.parametrize(
    "config",
    [
        RecurrentGemmaConfig(vocab_size=98, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                             num_attention_heads=4, lru_width=32),
        BartConfig(vocab_size=98, d_model=32, encoder_layers=1, decoder_layers=2, decoder_attention_heads=4,
                   decoder_ffn_dim=48),
    ],
    ids=lambda config: str(config.model_type),
)  # fmt: skip
def test_a_model_that_cannot_be_decoded_with_is_one_line_when_it_is_loaded(config, tokenizer):
    """Some layers keep no keys and values; or the cache that transformers makes has not as many layers."""
    with pytest.raises(UserError, match=f"^{config.model_type}: the engine transformers cannot decode with it") as said:
        TransformersEngine(AutoModelForCausalLM.from_config(config), tokenizer, 4)
    assert "\n" not in str(said.value)
