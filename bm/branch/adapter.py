"""Low-rank adapters by peft: the student stays as it is, and each of its products learns a small one beside it.

    y = W x + s · B A x,   A [rank, in], B [out, rank], s = alpha / rank  (LoRA, arXiv 2106.09685)

rsLoRA takes s = alpha / √rank (arXiv 2312.03732), DoRA learns the length of each row of W + s B A as well (2402.09353),
QLoRA keeps W in four bits (2305.14314).
"""

import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from bm.config import Adapter
from bm.errors import UserError

NAME = "default"
"""What peft calls the only adapter."""


def adapt(block: nn.Module, prefix: str, adapter: Adapter) -> None:
    """Adapters beside the products of a decoder layer, fp32 and drawn from (seed, prefix); its own weights are frozen.

    UserError if the layer has none of `adapter.targets`.
    """
    own = sorted({name.rpartition(".")[2] for name, module in block.named_modules() if isinstance(module, nn.Linear)})
    chosen = own if adapter.targets == "all-linear" else adapter.targets
    if missing := [name for name in chosen if name not in own]:
        raise UserError(f"branch.adapter.targets: a layer has no product '{missing[0]}'; it has {', '.join(own)}")
    torch.manual_seed(zlib.crc32(f"{adapter.seed} {prefix}".encode()))  # the same on every rank, and whoever shards
    inject_adapter_in_model(_settings(adapter, chosen), block, NAME)
    for parameter in block.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def _settings(adapter: Adapter, targets: Any) -> LoraConfig:
    return LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, use_rslora=adapter.rslora,
        use_dora=adapter.dora, target_modules=list(targets),
    )  # fmt: skip


def quantised(adapter: Adapter | None) -> dict[str, Any]:
    """How `from_pretrained` loads a student that is kept in four bits; nothing for any other."""
    if adapter is None or adapter.quantize is None:
        return {}
    if find_spec("bitsandbytes") is None:
        raise UserError("branch.adapter.quantize needs bitsandbytes: make gpu; or set it to null")
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type=adapter.quantize, bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )}  # fmt: skip


def check_adapter(adapter: Adapter | None, ranks: int) -> None:
    """UserError for four bits where they are not to be had."""
    quantised(adapter)
    if adapter is not None and adapter.quantize and ranks > 1:
        raise UserError(
            "branch.adapter.quantize: a student in four bits trains on one GPU; set trainer=gpu, or null here"
        )


def written(state: Mapping[str, Tensor], adapter: Adapter, initial: Path, folder: Path) -> None:
    """The adapter as peft's own folder: adapter_config.json and adapter_model.safetensors."""
    folder.mkdir(exist_ok=True)
    named = {f"base_model.model.{name.replace(f'.{NAME}', '')}": value.contiguous() for name, value in state.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in state})
    settings = _settings(adapter, targets)
    settings.base_model_name_or_path, settings.task_type, settings.inference_mode = str(initial), "CAUSAL_LM", True
    settings.save_pretrained(str(folder))
