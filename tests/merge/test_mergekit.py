"""mergekit configs as they are: equal to mergekit's own output, and what is not supported is named."""

import json
import re
import shutil
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bm.errors import UserError
from bm.merge.mergekit import merge_config
from bm.merge.methods import arcee_fusion
from bm.merge.tensors import Selection, Tensors
from tests.merge.golden.cases import ALIKE, CONFIGS, FUSIONS, A, B, C, D, models, slices
from tests.merge.golden.inputs import HIDDEN, tensor_shapes, write_model, write_models

GOLDEN = load_file(Path(__file__).parent / "golden" / "configs.safetensors")
SETTINGS = SimpleNamespace(methods={}, dtype="float32", device="cpu", threads=2, max_shard_size="5GB", seed=7)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def run(folders, tmp_path):
    """Runs a config whose models are named by letters; the tensors and the folder."""

    def run(config, **changed):
        text = yaml.safe_dump({**config, **changed})
        text = re.sub(r"(model|source|path): ([A-D])\n", lambda m: f"{m[1]}: {folders[m[2]]}\n", text)
        (tmp_path / "config.yml").write_text(text)
        facts = merge_config(tmp_path / "config.yml", SETTINGS, tmp_path / "merged")
        for name, digest in facts["digests"].items():
            assert sha256((tmp_path / "merged" / name).read_bytes()).hexdigest() == digest
        return load_file(tmp_path / "merged" / "model.safetensors"), tmp_path / "merged"

    return run


def bfloat16(config):
    return {} if "dtype" in config else {"out_dtype": "bfloat16"}


def is_mergekits(tensors, golden):
    """To one unit in the last place of bfloat16, which is what either writes."""
    assert set(tensors) == set(tensor_shapes(4))
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    ours = torch.cat([tensors[n].flatten() for n in sorted(tensors)])
    assert len(ours) == len(golden)
    # neighbouring bfloat16 numbers have neighbouring bits
    apart = (ours.view(torch.int16).int() - golden.view(torch.int16).int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_gives_what_mergekit_gives(name, run):
    is_mergekits(run(CONFIGS[name], **bfloat16(CONFIGS[name]))[0], GOLDEN[name])


@pytest.mark.parametrize("name", ALIKE)
def test_the_same_in_other_words_gives_the_same(name, run):
    same, config = ALIKE[name]
    is_mergekits(run(config, **bfloat16(config))[0], GOLDEN[same])


def test_mergekit_itself_still_gives_the_golden_results(folders, tmp_path):
    pytest.importorskip("mergekit", reason="mergekit is not installed here")
    from tests.merge.golden.make import merge_models

    for name, (same, config) in (
        {name: (name, config) for name, config in (CONFIGS | FUSIONS).items()} | ALIKE
    ).items():
        assert torch.equal(merge_models(config, folders, tmp_path / name), GOLDEN[same]), name


def test_a_taller_model_is_one_that_transformers_loads(run, folders):
    from transformers import AutoModelForCausalLM

    tensors, folder = run(
        {"merge_method": "passthrough", "slices": slices([(A, 0, 3)], [(B, 1, 4)]), "dtype": "float32"}
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_hidden_layers == 6
    stored = {name: load_file(folders[name] / "model.safetensors") for name in "AB"}
    for layer, (name, source) in enumerate([(A, 0), (A, 1), (A, 2), (B, 1), (B, 2), (B, 3)]):
        for kind in ("self_attn.q_proj.bias", "mlp.down_proj.weight"):
            own = stored[name][f"model.layers.{source}.{kind}"]
            assert torch.equal(model.state_dict()[f"model.layers.{layer}.{kind}"], own)
    assert torch.equal(tensors["model.embed_tokens.weight"], stored[A]["model.embed_tokens.weight"])
    assert torch.equal(tensors["lm_head.weight"], stored[B]["lm_head.weight"])
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_types_are_the_configs_and_never_wider_than_the_inputs_unasked(run):
    linear = {"merge_method": "linear", "models": models(A, B, weight=[1.0, 1.0])}
    for changed, expected in (
        ({}, torch.float32),
        ({"dtype": "float16"}, torch.float16),
        ({"dtype": "float64", "out_dtype": "bfloat16"}, torch.bfloat16),
    ):
        tensors, folder = run(linear, **changed)
        assert {tensor.dtype for tensor in tensors.values()} == {expected}
        assert json.loads((folder / "config.json").read_text())["dtype"] == str(expected).removeprefix("torch.")


def test_arithmetic_is_not_rounded_to_the_configs_dtype(run, folders):
    """mergekit computes TIES in bfloat16 when `dtype` says so; here only the result is rounded."""
    tensors, _ = run(
        {"merge_method": "task_arithmetic", "base_model": A, "models": models(B, weight=[0.3]), "dtype": "bfloat16"}
    )
    a, b = (load_file(folders[name] / "model.safetensors") for name in "AB")
    for name, tensor in tensors.items():
        exact = (a[name].double() + 0.3 * (b[name].double() - a[name].double())).bfloat16()
        assert torch.equal(tensor, exact), name


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_methods_drop_by_seed_and_keep_the_density(method, run, folders):
    config = {"merge_method": method, "base_model": A, "models": models(B, C, weight=[0.6, 0.4]),
              "parameters": {"density": 0.5, "rescale": False}, "dtype": "float32"}  # fmt: skip
    merged, folder = run(config)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    _, folder = run(config)
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
    base = load_file(folders[A] / "model.safetensors")
    kept = torch.cat([(merged[name] == base[name]).flatten() for name in base]).float().mean().item()
    # entries that both models drop, or, where signs decide, one drops and the other has the minority's sign: about 1/4
    assert 0.2 < kept < 0.3


def test_a_base_alone_in_the_lead_gives_its_tokenizer_and_card(run, folders):
    _, folder = run({"merge_method": "linear", "base_model": A, "models": models(A, B, weight=[1.0, 1.0])})
    assert (folder / "tokenizer.json").read_bytes() == (folders[A] / "tokenizer.json").read_bytes()
    assert (folder / "mergekit_config.yml").read_text() in (folder / "README.md").read_text()


def test_vocabularies_that_agree_keep_their_rows(run, folders, tmp_path):
    """A padded embedding, whose last rows no token has, is not cut when there is nothing to align."""
    padded = {}
    for name in "AB":
        folder = tmp_path / f"padded{name}"
        folder.mkdir()
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((folders[name] / file).read_bytes())
        tensors = load_file(folders[name] / "model.safetensors")
        for embedding in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[embedding] = torch.cat([tensors[embedding], torch.zeros(8, HIDDEN)])
        save_file(tensors, folder / "model.safetensors")
        padded[name] = str(folder)
    tensors, _ = run(
        {"merge_method": "linear", "tokenizer_source": "base", "models": models(*padded.values(), weight=[1, 1])}
    )
    assert tensors["lm_head.weight"].shape == (24, HIDDEN)


def test_the_output_tokenizer_knows_every_token_of_a_union(run):
    from transformers import AutoTokenizer

    _, folder = run(CONFIGS["tokenizer_union"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert {"new", "w1", "w15"} < set(tokenizer.get_vocab())
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(tokenizer.get_vocab())


def test_a_chat_template_is_written(run, folders):
    linear = {"merge_method": "linear", "models": models(A, B, weight=[1.0, 1.0])}
    _, folder = run(linear, chat_template="{{ messages }}")
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    with pytest.raises(UserError, match=r"chat_template 'chatlm': .* did you mean 'chatml'"):
        run(linear, chat_template="chatlm")


SPOKEN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Two? "},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "Three?"},
]
SAID = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Two? <|im_end|>\n"
    "<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\n",
    "alpaca": "Be brief.\n\n### Instruction:\nTwo?\n\n### Response:\n2\n\n### Instruction:\nThree?\n\n### Response:\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nTwo?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n2<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nThree?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be brief.\n\n Two?  [/INST] 2</s> [INST] Three? [/INST]",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|] Two? \n[|assistant|]2[|endofturn|]\n[|user|]Three?\n"
    "[|assistant|]",
}


@pytest.mark.parametrize("name", SAID)
def test_a_chat_template_may_be_given_by_its_name(name, run):
    from transformers import AutoTokenizer

    _, folder = run({"merge_method": "linear", "models": models(A, B, weight=[1.0, 1.0])}, chat_template=name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    assert tokenizer.apply_chat_template(SPOKEN, tokenize=False, add_generation_prompt=True) == SAID[name]


def test_parameters_without_effect_are_said(run, capsys):
    run({"merge_method": "slerp", "base_model": A, "models": models(A, B), "parameters": {"t": 0.5, "int8_mask": True}})
    assert "`int8_mask` has no effect on slerp" in capsys.readouterr().err


def test_what_mergekit_passes_over_is_passed_over_with_a_line(run, capsys):
    changed = {"name": "mine", "dtypes": "float16", "dtype": "torch.bfloat16"}
    tensors, _ = run(
        {"merge_method": "passthrough", "slices": slices([(A, 0, 4)], residual_weight=0.5), "models": None, **changed}
    )
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    said = capsys.readouterr().err
    for line in ("effect: `name`\n", "effect: `dtypes`; did you mean 'dtype'?\n", "effect: `residual_weight`\n"):
        assert said.count(line) == 1


def test_a_config_of_one_module_is_that_modules(run):
    config = {**LINEAR, "parameters": {"normalize": False}}
    module = {"models": config["models"], "parameters": {"normalize": True}}
    plain, _ = run(LINEAR)
    inside, _ = run({"merge_method": "linear", "modules": {"default": module}, "parameters": {"normalize": False}})
    assert all(torch.equal(plain[name], inside[name]) for name in plain)


LINEAR = {"merge_method": "linear", "models": models(A, B, weight=[1.0, 1.0])}
TIES = {"merge_method": "ties", "base_model": A, "models": models(B, C, weight=[1.0, 1.0])}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**LINEAR, "merge_method": "tiess"}, "merge_method 'tiess' is not supported; did you mean 'ties'"),
        ({**LINEAR, "modules": {"text": {}}}, "either `models`, `slices` or `modules`"),
        (
            {"merge_method": "linear", "modules": {"text": {"models": models(A)}, "vision": {"models": models(A)}}},
            "`modules`: configs of several modules are not supported",
        ),
        ({**LINEAR, "models": [{"model": {"model": A, "lora": "B"}}]}, "needs a model's folder before the \\+"),
        ({**LINEAR, "slices": slices([(A, 0, 4)])}, "either `models` or `slices`"),
        ({"merge_method": "linear"}, "either `models` or `slices`"),
        ({**LINEAR, "dtype": "int8"}, "dtype: .*float32"),
        ({**LINEAR, "models": models(A, "org/name", weight=[1, 1])}, "'org/name' is not a directory on this disk"),
        (
            {**LINEAR, "models": models(A, "org/name@main", weight=[1, 1])},
            "'org/name@main': revisions are not supported",
        ),
        ({**LINEAR, "models": models(A, B, weight=[1, -1])}, "linear: the weights sum to 0"),
        ({**LINEAR, "models": models(A, "B+lora", weight=[1, 1])}, "'B\\+lora': needs a model's folder before the \\+"),
        ({**LINEAR, "models": [{"model": {"model": A, "override_architecture": "X"}}]}, "`override_architecture`"),
        ({**LINEAR, "models": models(A, A, weight=[1, 1])}, "merged with itself"),
        ({**LINEAR, "models": models(A, B)}, "linear: `weight` is missing for model.embed_tokens.weight of .*A"),
        (
            {**LINEAR, "models": models(A, D, weight=[1, 1])},
            "token 'new' has id None in .* 1 in .*tokenizer_source",
        ),
        ({**LINEAR, "parameters": {"normalize": "perhaps"}}, "'perhaps' for .* is not of type bool"),
        ({**LINEAR, "tokenizer_source": "base", "tokenizer": {"source": "base"}}, "either `tokenizer_source` or"),
        ({**TIES, "base_model": None}, "ties needs a `base_model`"),
        ({**TIES, "models": models(A, weight=[1.0])}, "ties merges models with the base; name one beside"),
        ({**TIES, "merge_method": "slerp", "parameters": {"t": 0.5}}, "slerp merges 2 models, base included, not 3"),
        ({"merge_method": "passthrough", "slices": slices([(A, 0, 9)])}, "layers 0 to 9 of .*: it has 4 layers"),
        ({"merge_method": "linear", "slices": slices([(A, 0, 2), (B, 0, 3)])}, "the same number of layers"),
        (
            {
                **LINEAR,
                "tokenizer": {"tokens": {"x": {"source": {"kind": "model_token", "model": A, "token": "nope"}}}},
            },
            "tokenizer.tokens.x: .* has no such token",
        ),
    ],
)
def test_what_is_wrong_or_not_supported_is_named_in_one_line(config, message, run, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        run(config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "merged").exists()


def test_a_tied_model_beside_an_untied_one_has_its_embeddings_for_a_head(run, folders, tmp_path):
    tied = load_file(write_model(tmp_path / "tied", 1, tied=True) / "model.safetensors")
    untied = load_file(folders[A] / "model.safetensors")
    tensors, folder = run({"merge_method": "linear", "models": models(A, str(tmp_path / "tied"), weight=[1, 3])})
    exact = 0.25 * untied["lm_head.weight"] + 0.75 * tied["model.embed_tokens.weight"]
    torch.testing.assert_close(tensors["lm_head.weight"], exact)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_tied_model_stays_tied(run, tmp_path):
    pair = [str(write_model(tmp_path / f"tied{which}", which, tied=True)) for which in (0, 1)]
    tensors, folder = run({"merge_method": "linear", "models": models(*pair, weight=[1, 1])})
    assert set(tensors) == set(tensor_shapes(4, tied=True))
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_tensor_in_one_model_only_is_named(run, folders, tmp_path):
    shutil.copytree(folders[B], tmp_path / "short")
    tensors = load_file(folders[B] / "model.safetensors")
    del tensors["model.layers.2.self_attn.q_proj.bias"]
    save_file(tensors, tmp_path / "short" / "model.safetensors")
    with pytest.raises(UserError, match=r"q_proj\.bias is in only one of"):
        run({"merge_method": "linear", "models": models(A, str(tmp_path / "short"), weight=[1, 1])})


def test_another_architecture_is_refused(run, folders, tmp_path):
    shutil.copytree(folders[B], tmp_path / "llama")
    config = json.loads((folders[B] / "config.json").read_text())
    (tmp_path / "llama" / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(UserError, match=r"model_type is qwen2 in .* and llama in"):
        run({"merge_method": "linear", "models": models(A, str(tmp_path / "llama"), weight=[1, 1])})


def test_a_differing_chat_template_is_said_and_auto_takes_the_majority(run, folders, tmp_path, capsys):
    entries = []
    for which, template in enumerate(["one", "two", "two"]):
        shutil.copytree(folders[A], tmp_path / f"m{which}")
        (tmp_path / f"m{which}" / "chat_template.jinja").write_text(template + "\n")
        entries.append(str(tmp_path / f"m{which}"))
    config = {"merge_method": "linear", "models": models(*entries, weight=[1, 1, 1])}
    _, folder = run(config)
    assert (folder / "chat_template.jinja").read_text() == "one\n"
    assert "chat template of" in capsys.readouterr().err
    _, folder = run(config, chat_template="auto")
    assert (folder / "chat_template.jinja").read_text() == "two"


def test_arcee_fusion_is_the_exact_variant_and_says_so(run, folders, capsys):
    """mergekit samples its quantiles and sums its KL in the model's dtype; here it is the product's own method."""
    tensors, folder = run({"merge_method": "arcee_fusion", "base_model": A, "models": models(B), "dtype": "float32"})
    assert "arcee_fusion: the `exact` variant" in capsys.readouterr().err
    assert "Arcee Fusion is the `exact` variant" in (folder / "README.md").read_text()
    a, b = (load_file(folders[name] / "model.safetensors") for name in "AB")
    for name, tensor in tensors.items():
        tensors_of = Tensors.held(a[name], [b[name]], name=name)
        apply = partial(arcee_fusion, lam=1.5, variant="exact", difference="absolute")(tensors_of)
        (tile,) = (tile for block in tensors_of.tiling.blocks(1) for tile in tensors_of.tiles(block))
        chosen = apply(tile)
        assert isinstance(chosen, Selection)
        expected = torch.where(chosen.taken.bool(), chosen.other, chosen.base)
        assert torch.equal(tensor, expected.view_as(tensor)), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_setting_makes_arcee_fusion_mergekits(dtype, run, folders, monkeypatch, capsys):
    """Bit for bit, the inputs rounded to `dtype` first, as mergekit does when it loads them."""
    chosen = SimpleNamespace(parameters={"variant": "mergekit"})
    monkeypatch.setattr(SETTINGS, "methods", {"arcee_fusion": chosen})
    tensors, folder = run({"merge_method": "arcee_fusion", "base_model": A, "models": models(B), "dtype": dtype})
    golden = GOLDEN[f"arcee_fusion_{dtype}"]
    assert torch.equal(torch.cat([tensors[n].flatten() for n in sorted(tensors)]), golden)
    assert "variant" not in capsys.readouterr().err + (folder / "README.md").read_text()


def test_the_command_takes_a_config_as_it_is(bm, folders, tmp_path):
    for name, weights, status, line in (
        ("good", [1, 3], 0, ""),
        ("bad", [1, -1], 2, "bm: linear: the weights sum to 0"),
    ):
        config = {"merge_method": "linear", "models": models(str(folders[A]), str(folders[B]), weight=weights)}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(config))
        said = bm("merge", f"mergekit={name}.yml", f"output={name}", cwd=tmp_path)
        assert said.returncode == status and said.stderr.startswith(line), said.stderr
        assert (tmp_path / name / "model.safetensors").exists() == (status == 0)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00"])
def test_a_file_that_is_no_config_is_refused(text, tmp_path):
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yml: "):
        merge_config(tmp_path / "config.yml", SETTINGS, tmp_path / "merged")
    with pytest.raises(UserError, match=r"absent\.yml: cannot be read"):
        merge_config(tmp_path / "absent.yml", SETTINGS, tmp_path / "merged")
