"""Merges of adapters from factors to factors: the model that a merge of whole models gives, where a method has one."""

import json
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from bm.config import Target
from bm.errors import UserError
from bm.generate.weights import with_adapter
from bm.merge import merge_folders
from bm.merge.methods import linear, lines, task_arithmetic
from tests.branch.conftest import CONF
from tests.branch.conftest import settings as composed
from tests.merge.folders import Settings, llama, load

LOW_RANK = {"linear", "task_arithmetic", "lines"}
ONE_MODEL = {"passthrough"}
TASK_ARITHMETIC = partial(task_arithmetic, weights=[0.5, 2.0], lam=0.4, normalize=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base, adapters of two ranks, scales and sets of modules, and the models that they make of it."""
    place = tmp_path_factory.mktemp("adapters")
    llama().save_pretrained(place / "base")
    shapes = {
        "a": {"r": 4, "target_modules": ["q_proj", "up_proj"], "lora_alpha": 8},
        "b": {"r": 2, "target_modules": ["up_proj", "down_proj"], "lora_alpha": 3, "use_rslora": True},
    }
    for name, shape in shapes.items():
        base = AutoModelForCausalLM.from_pretrained(place / "base")
        adapted = get_peft_model(base, LoraConfig(init_lora_weights=False, **shape))
        adapted.save_pretrained(place / name)
        adapted.merge_and_unload().save_pretrained(place / f"whole-{name}")
    return place


def both(places, tmp_path, method, schedule=None):
    """The base with the merged adapter; and the merge of the whole models."""
    of, adapter, whole = (
        Settings(out_dtype="float32", schedule=schedule or {}),
        tmp_path / "adapter",
        tmp_path / "whole",
    )
    adapter.mkdir()
    merge_folders(method, None, [places / "a", places / "b"], of, adapter)
    base = None if getattr(method, "func", None) is linear else places / "base"
    merge_folders(method, base, [places / "whole-a", places / "whole-b"], of, whole)
    return with_adapter(places / "base", adapter, torch.float32).state_dict(), load(whole)


@pytest.mark.parametrize(
    "method",
    [
        TASK_ARITHMETIC,
        partial(task_arithmetic, weights=1.0, lam=1.0, normalize=True),
        partial(linear, weights=[1.0, 3.0], normalize=True),
        partial(lines, weights=1.0, alpha=None, beta=0.5),
    ],
    ids=["weighted", "normalized", "linear", "lines"],
)
def test_the_merged_adapter_makes_the_merge_of_whole_models(places, tmp_path, method):
    ours, dense = both(places, tmp_path, method)
    for name, tensor in dense.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"]) == (6, 6, False)
    assert settings["target_modules"] == ["down_proj", "q_proj", "up_proj"]


def test_a_schedule_holds_in_low_rank_too(places, tmp_path):
    method = composed(Target, "merge/task_arithmetic.yaml")
    ours, dense = both(places, tmp_path, method, {"lam": (0.1, 0.9)})
    for name, tensor in dense.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)


def test_peft_concatenates_as_we_do(places, tmp_path):
    ours, _ = both(places, tmp_path, TASK_ARITHMETIC)
    from peft import PeftModel

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(places / "base"), places / "a", "a")
    model.load_adapter(places / "b", "b")
    model.add_weighted_adapter(["a", "b"], [0.2, 0.8], "merged", combination_type="cat")
    model.set_adapter("merged")
    for name, tensor in model.merge_and_unload().state_dict().items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "file", sorted(p.name for p in (CONF / "merge").glob("*.yaml") if p.stem not in LOW_RANK | ONE_MODEL)
)
def test_methods_that_leave_no_sum_are_refused(places, tmp_path, file):
    method = composed(Target, f"merge/{file}")
    with pytest.raises(UserError, match=rf"^{file.partition('.')[0]} makes no weighted sum of whole updates"):
        merge_folders(method, None, [places / "a", places / "b"], Settings(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"use_dora": True}, "use_dora is true, so it is more than low-rank factors"),
        ({"bias": "all"}, 'bias is "all"'),
        ({"init_lora_weights": "pissa"}, 'init_lora_weights is "pissa"'),
        ({"base_model_name_or_path": "other"}, "only those of one base merge"),
    ],
)
def test_what_is_no_sum_of_factors_is_refused(places, tmp_path, changed, says):
    odd = tmp_path / "odd"
    odd.mkdir()
    for file in (places / "b").iterdir():
        (odd / file.name).write_bytes(file.read_bytes())
    settings = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps({**settings, **changed}))
    with pytest.raises(UserError, match=says):
        merge_folders(TASK_ARITHMETIC, None, [places / "a", odd], Settings(), tmp_path)


def test_weights_that_scale_the_base_are_refused(places, tmp_path):
    adapters = [places / "a", places / "b"]
    with pytest.raises(UserError, match="the weights sum to 2, which scales the base too; set normalize=true"):
        merge_folders(partial(linear, weights=1.0, normalize=False), None, adapters, Settings(), tmp_path)
    with pytest.raises(UserError, match="is a LoRA adapter; merge it into its own base first, or adapters alone"):
        merge_folders(TASK_ARITHMETIC, places / "base", adapters, Settings(), tmp_path)
