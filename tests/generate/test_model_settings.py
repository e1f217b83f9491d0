"""What a model and its chat template say about generation, and prompts that are too long for it: as lm-eval has it."""

import pytest
from transformers import AutoTokenizer, GenerationConfig

from bm.generate import Sampling, sample
from bm.generate.engines import openai, transformers, vllm
from bm.generate.generation_config import LOST
from bm.generate.samples import Thinking
from bm.generate.text import fitted
from bm.generate.transformers_engine import TransformersEngine
from tests.generate.test_transformers import GREEDY, WARM, collected, prompts
from tests.generate.test_vllm import SETTINGS, folder, stand_in

__all__ = ["folder", "prompts", "stand_in"]


@pytest.fixture
def penalised(model):
    """The session's model with a repetition penalty of its own, put back afterwards."""
    before = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0, repetition_penalty=1.3)
    yield model
    model.generation_config = before


def theirs(model, tokenizer, prompt, **settings) -> str:
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=0, **settings)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_models_own_repetition_penalty_counts_as_in_hugging_faces_generate(penalised, tokenizer, prompts):
    """Together, so that rows leave the batch, against one prompt at a time; a task may set another penalty."""
    ours = collected(TransformersEngine(penalised, tokenizer, 12), prompts, GREEDY)
    said = [ours[p, 0].response for p in range(len(prompts))]
    assert said == [theirs(penalised, tokenizer, prompt) for prompt in prompts]
    without = collected(TransformersEngine(penalised, tokenizer, 12), prompts, Sampling(1, 0, 1, 24, 0, (), 1.0))
    free = [without[p, 0].response for p in range(len(prompts))]
    assert free == [theirs(penalised, tokenizer, prompt, repetition_penalty=1.0) for prompt in prompts]
    assert free != said


def test_a_penalised_sample_does_not_depend_on_its_company(penalised, tokenizer, prompts):
    together = collected(TransformersEngine(penalised, tokenizer, 24), prompts, WARM)
    assert together == collected(TransformersEngine(penalised, tokenizer, 3), prompts, WARM)


@pytest.mark.parametrize("setting", [{"top_k": 20, "min_p": 0.0}, {"no_repeat_ngram_size": 3}])
def test_what_a_model_asks_for_and_does_not_get_is_said(qwen2, tokenizer, tmp_path, capsys, setting):
    qwen2.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    transformers(tmp_path, batch=1, dtype="float32", device="cpu")
    assert "generation_config" not in capsys.readouterr().err
    GenerationConfig(eos_token_id=1, do_sample=True, temperature=0.7, top_p=0.8, **setting).save_pretrained(tmp_path)
    transformers(tmp_path, batch=1, dtype="float32", device="cpu")
    name, value = next(iter(setting.items()))
    said = " ".join(capsys.readouterr().err.split())
    assert f"its generation_config asks for {name}={value}, which is not applied" in said
    assert set(LOST) <= set(vars(GenerationConfig()))


def test_without_a_penalty_journals_are_found_as_before(tmp_path):
    """The name of a sample's settings is what it was before they had a penalty: nobody is asked or paid again."""
    assert Sampling(3, 0.6, 0.95, 64, 1).key("a") == "411c2c37576fdf1b6ff31be5c8780c14"
    assert Sampling(3, 0.6, 0.95, 64, 1, (), 1.1).key("a") != Sampling(3, 0.6, 0.95, 64, 1).key("a")


def test_a_prompt_that_does_not_fit_loses_its_beginning_as_in_lm_eval(model, tokenizer, tmp_path):
    """The last (context - response) tokens stay, and each sample says how many were left out."""
    long = "".join(chr(97 + k % 26) for k in range(200))
    engine = TransformersEngine(model, tokenizer, 4)
    (short,), (cut,) = sample(engine, ["abc", long], GREEDY, tmp_path / "j.jsonl")
    assert (short.left_out, cut.left_out) == (0, 200 - (128 - 24))
    assert cut.response == theirs(model, tokenizer, long[-(128 - 24) :])
    again = sample(engine, ["abc", long], GREEDY, tmp_path / "j.jsonl")
    assert again[1][0].left_out == cut.left_out


def test_where_a_response_may_fill_the_context_the_prompt_has_precedence():
    assert fitted([*range(10)], 16, 4) == ([*range(10)], 0)
    assert fitted([*range(14)], 16, 4) == ([*range(2, 14)], 2)
    assert fitted([*range(14)], 16, 16) == ([*range(14)], 0)
    assert fitted([*range(20)], 16, 500) == ([*range(5, 20)], 5)


THINKING = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}"
)


def test_the_chat_template_is_told_whether_to_think(qwen2, tokenizer, tmp_path):
    qwen2.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(THINKING)
    asked = [{"role": "user", "content": "2+2"}]
    for enabled, prompt in ((None, "2+2<think>"), (True, "2+2<think>"), (False, "2+2<think></think>")):
        engine = transformers(tmp_path, 1, "float32", "cpu", enable_thinking=enabled)
        assert engine.render(asked) == prompt
        assert engine.facts().get("enable_thinking") is enabled


def test_a_thought_over_its_budget_is_ended_and_answered(qwen2, tokenizer):
    """An open thought gets its end after `budget` tokens, whatever is decoded beside it."""
    free = TransformersEngine(qwen2, tokenizer, 8)
    bound = TransformersEngine(qwen2, tokenizer, 8, Thinking(budget=10))
    asked = ["2+2=<think>", "2+2=", "1+1=<think> so\n"]
    longer = Sampling(2, 1.0, 0.9, 60, 3)
    before, after = collected(free, asked, longer), collected(bound, asked, longer)
    ended = "\n</think>\n\n"
    for i in range(2):
        thought = before[0, i].response[:10]
        assert len(before[0, i].response) > 10 and "</think>" not in before[0, i].response
        assert after[0, i].response.startswith(thought + ended)
        assert after[0, i].response[len(thought + ended) :] != before[0, i].response[10 + len(ended) :]
        assert after[1, i] == before[1, i]
    alone = collected(TransformersEngine(qwen2, tokenizer, 1, Thinking(budget=10)), asked[:1], longer)
    assert alone[0, 0] == after[0, 0]
    assert bound.facts()["thinking_budget"] == 10 and "thinking_budget" not in free.facts()
    assert bound.identity() != free.identity()


def test_vllm_ends_thoughts_too_leaves_out_what_does_not_fit_and_has_the_models_penalty(
    folder, stand_in, tmp_path, monkeypatch
):
    """The stand-in repeats its prompt: so what it was given the second time is in what it says."""
    GenerationConfig(eos_token_id=1, repetition_penalty=1.3).save_pretrained(folder)
    engine = vllm(folder, **SETTINGS, thinking_budget=30)
    assert engine._penalty == 1.3
    long = "".join(chr(97 + k % 26) for k in range(200))
    sampling = Sampling(1, 0.6, 0.95, 100, 1)
    (thought,), (cut,) = sample(engine, ["x" * 20 + "<think>", long], sampling, tmp_path / "j.jsonl")
    own = AutoTokenizer.from_pretrained(folder)
    ended = own.decode(own.encode("\n</think>\n\n", add_special_tokens=False))
    assert thought.response.startswith("x" * 20 + "<think>") and thought.response[30:].startswith(ended)
    assert "</think>" in ended and (thought.tokens, thought.finished) == (100, False)
    assert cut.left_out == 200 - (128 - 100) and long[-28:] in cut.response


def test_an_endpoint_is_told_in_the_words_of_open_models_servers(server, tmp_path):
    settings = {"served": "r1", "base_url": server.url, "key": None, "parallel": 4, "timeout": 0.5, "retries": 2,
                "refused": "stop", "price": None, "budget": None}  # fmt: skip
    sample(openai(None, **settings), ["a"], Sampling(1, 0, 1, 64, 0), tmp_path / "j.jsonl")
    assert not {"chat_template_kwargs", "repetition_penalty"} & set(server.requests[0])
    quick = openai(None, **settings, enable_thinking=False)
    sample(quick, ["a"], Sampling(1, 0, 1, 64, 0, (), 1.1), tmp_path / "k.jsonl")
    assert server.requests[1]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.requests[1]["repetition_penalty"] == 1.1
    assert quick.identity() != openai(None, **settings).identity()
