"""`model+adapter` in a mergekit config: the same bytes as of a config that names the merged folder."""

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from bm.errors import UserError
from bm.merge.mergekit import merge_config
from bm.merge.mergekit.adapters import inputs
from bm.merge.mergekit.schema import read_config
from tests.merge.folders import llama
from tests.merge.test_mergekit import SETTINGS


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base, an adapter of it, and the two as one model."""
    place = tmp_path_factory.mktemp("places")
    model = llama()
    model.save_pretrained(place / "base")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    adapted.save_pretrained(place / "adapter")
    adapted.merge_and_unload().save_pretrained(place / "whole")
    return place


def run(places, name, second):
    file, work = places / f"{name}.yml", places / name
    models = [{"model": str(places / "base"), "parameters": {"weight": 0.25}},
              {"model": second, "parameters": {"weight": 0.75}}]  # fmt: skip
    file.write_text(yaml.safe_dump({"merge_method": "linear", "dtype": "float32", "models": models}))
    work.mkdir(exist_ok=True)
    merge_config(file, SETTINGS, work)
    assert not (work / ".adapted").exists()
    return load_file(work / "model.safetensors"), file


@pytest.mark.parametrize("way", ["plus", "lora"])
def test_an_adapter_is_merged_as_its_model(places, way):
    base, adapter = str(places / "base"), str(places / "adapter")
    second = f"{base}+{adapter}" if way == "plus" else {"model": {"path": base}, "lora": {"path": adapter}}
    expected, _ = run(places, "expected", str(places / "whole"))
    merged, file = run(places, way, second)
    assert merged.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(merged[name], expected[name], rtol=0, atol=1e-6)
    assert inputs(read_config(file).folders) == [places / "base", places / "adapter"]


def test_an_adapter_alone_is_told_what_it_needs(places):
    with pytest.raises(UserError, match=r"is a LoRA adapter; write `model\+adapter`"):
        run(places, "alone", str(places / "adapter"))
