"""Run where bitsandbytes is: an adapter learns beside weights in four bits, and is exported merged with whole ones."""

import json
import sys
from pathlib import Path

import bitsandbytes.nn.modules
import torch
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bm.branch import Traces, checkpoint, train, watch
from bm.branch.attention import ISOLATED
from bm.branch.model import load
from bm.config import Adapter
from bm.plan.memory import NF4_BYTES
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_adapter import lora
from tests.branch.test_training import rows

QUANTISED = lora(quantize="nf4")


def stored() -> None:
    """Bytes an entry, constants included, as a plan has them."""
    packed, state = quantize_4bit(torch.randn(2048, 2048), quant_type="nf4", compress_statistics=True)
    entries = 2048 * 2048
    held = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert abs(held / entries - NF4_BYTES) < 1e-3, held / entries


def frozen(student: Path) -> None:
    """Every product of a layer is in four bits and stays; nothing but the adapter is trained, and that in fp32."""
    model = load(student, ISOLATED, 64, trainer(), None, QUANTISED)
    products = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(products) == 2 * 7
    assert all(
        p.weight.dtype == torch.uint8 and p.weight.numel() * 2 == p.in_features * p.out_features for p in products
    )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and p.dtype == torch.float32 for name, p in trained.items())


def trained(student: Path, traces: list[Traces], work: Path, adapter: Adapter) -> list[float]:
    """The loss of each step."""
    work.mkdir(exist_ok=True)
    of = branch(adapter=adapter, epochs=1, learning_rate=5e-3)
    train(student, traces, of, trainer(), tracker(), "math", "0123456789abcdef", work)
    return [float(row["loss"]) for row in rows(work)]


def exported(student: Path, work: Path) -> None:
    """The expert is its student, as it was before it was quantised, with the adapter."""
    assert "quantization_config" not in json.loads((work / "config.json").read_text())
    plain, ids = AutoModelForCausalLM.from_pretrained(student), torch.arange(5, 40)[None]
    before = plain(ids).logits
    adapted = PeftModel.from_pretrained(plain, str(work / "adapter"))(ids).logits
    expert = AutoModelForCausalLM.from_pretrained(work)(ids).logits
    torch.testing.assert_close(expert, adapted, rtol=0, atol=1e-4)
    assert (expert - before).abs().max() > 1e-2


def resumed(student: Path, traces: list[Traces], work: Path, whole: Path) -> None:
    """A training that is cut off goes on to the same adapter."""
    save = checkpoint.save

    def stop(*saved: object) -> None:
        save(*saved)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    checkpoint.save, watch.FIRST_SAVE = stop, 0.0
    try:
        trained(student, traces, work, QUANTISED)
        raise AssertionError("it was not cut off")
    except KeyboardInterrupt:
        checkpoint.save, watch.FIRST_SAVE = save, 1e9
    trained(student, traces, work, QUANTISED)
    ours, theirs = (load_file(place / "adapter/adapter_model.safetensors") for place in (work, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def main(student: Path, file: Path, work: Path) -> None:
    torch.set_num_threads(1)
    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False  # its kernel for such CPUs is in another package
    traces = [Traces(file, "math")]
    stored()
    frozen(student)
    four, whole = (trained(student, traces, work / n, of) for n, of in (("four", QUANTISED), ("whole", lora())))
    assert four != whole and four[-1] < four[0]
    torch.testing.assert_close(torch.tensor(four), torch.tensor(whole), rtol=5e-2, atol=0)
    exported(student, work / "four")
    resumed(student, traces, work / "cut", work / "four")
    print("four bits hold")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
