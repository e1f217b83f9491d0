"""The engines by name, for `_target_`. Each imports its library when it is made, not when the settings are read."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bm.generate.samples import Engine


def transformers(
    model: Path | tuple[Any, Any],
    batch: Annotated[int, Field(gt=0)],
    dtype: Literal["auto", "float32", "bfloat16", "float16"],
    device: Literal["auto", "cpu", "cuda"],
) -> Engine:
    """A Hugging Face folder, or a model and its tokenizer in memory (used as they are), decoded in this process.

    batch: rows decoded together; dtype auto: what the folder says; device auto: CUDA where there is some.
    """
    from bm.generate.transformers_engine import TransformersEngine, load

    loaded, tokenizer = model if isinstance(model, tuple) else load(model, dtype, device)
    return TransformersEngine(loaded, tokenizer, batch)
