"""The engines by name, for `_target_`. Each imports its library when it is made, not when the settings are read."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from bm.config import Device, NoKey
from bm.errors import UserError
from bm.generate.members import members
from bm.generate.price import Price
from bm.generate.samples import Engine, Thinking

Positive = Annotated[int, Field(gt=0)]


def _variable(key: str | None) -> str | None:
    """Whoever writes the secret itself here must not see it again in a message or a manifest."""
    if key is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", key):
        raise ValueError("must be the name of an environment variable, such as OPENAI_API_KEY, and not the key itself")
    return key


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.username or parts.password or parts.query:
        raise ValueError("must be http(s)://host/path, without user, password or query: keys come from the environment")
    return url


def transformers(
    model: Path | tuple[Any, Any],
    batch: Positive,
    dtype: Literal["auto", "float32", "bfloat16", "float16"],
    device: Annotated[Literal["auto", "cpu", "cuda"], Device],
    enable_thinking: bool | None = None,
    thinking_budget: Positive | None = None,
) -> Engine:
    """A Hugging Face folder, or a model and its tokenizer in memory (used as they are), decoded in this process.

    batch: rows decoded together; dtype auto: what the folder says; device auto: CUDA where there is some.
    enable_thinking: what the chat template is told, null: nothing; thinking_budget: tokens after which a thought is
    ended, so that an answer follows, null: none.
    """
    from bm.generate.transformers_engine import TransformersEngine, load

    loaded, tokenizer = model if isinstance(model, tuple) else load(model, dtype, device)
    return TransformersEngine(loaded, tokenizer, batch, Thinking(enable_thinking, thinking_budget))


def vllm(
    model: Path,
    dtype: Literal["auto", "bfloat16", "float16", "float32"],
    tensor_parallel: Positive,
    data_parallel: Positive,
    memory: Annotated[float, Field(gt=0, le=1)],
    parallel: Annotated[Positive, NoKey],
    timeout: Annotated[float, Field(gt=0), NoKey],
    python: Annotated[Path, NoKey],
    enable_thinking: bool | None = None,
    thinking_budget: Positive | None = None,
) -> Engine:
    """A Hugging Face folder in vLLM: `data_parallel` processes of `tensor_parallel` GPUs each.

    memory: share of a GPU's memory to take; parallel: rows that a process has under way at a time; timeout: seconds of
    silence that end the run. Sequences may be as long as the longest prompt and response together, up to the model's
    context. python: the interpreter of vLLM's environment, since it needs another torch. UserError if it is not there.
    enable_thinking, thinking_budget: see `transformers`.
    """
    from bm.generate.vllm_engine import VLLMEngine

    if members(model):
        raise UserError(f"{model} is an ensemble, whose members answer together in the engine transformers alone")
    thinking = Thinking(enable_thinking, thinking_budget)
    return VLLMEngine(model, dtype, tensor_parallel, data_parallel, memory, parallel, timeout, python, thinking)


def openai(
    model: Any,
    served: str,
    base_url: Annotated[str, AfterValidator(_without_secrets), NoKey],
    key: Annotated[str | None, AfterValidator(_variable), NoKey],
    parallel: Annotated[int, Field(gt=0, le=1000), NoKey],
    timeout: Annotated[float, Field(gt=0), NoKey],
    retries: Annotated[int, Field(ge=0), NoKey],
    refused: Literal["stop", "empty"],
    price: Annotated[Price | None, NoKey],
    budget: Annotated[float | None, Field(gt=0), NoKey],
    enable_thinking: bool | None = None,
) -> Engine:
    """An OpenAI-compatible endpoint that serves a model under the name `served`; the folder `model` stays unread.

    key: the environment variable that holds the secret, null where none is needed; parallel: requests under way at a
    time; timeout: seconds of silence that count as a failure; retries: how often a request that failed is asked again,
    with growing pauses; refused: whether a request that the endpoint takes none the like of (a filter, a length) ends
    in an error or counts as an empty response; price: null where it costs nothing; budget: in the price's currency,
    for all that one distillation or evaluation asks. enable_thinking: sent as `chat_template_kwargs`, which vLLM's,
    SGLang's and transformers' servers know; null: not sent.
    """
    from bm.generate.endpoint import Endpoint
    from bm.generate.openai_engine import OpenAIEngine

    if budget is not None and price is None:
        raise UserError("a budget needs a price: engine.price={input: …, output: …}, per million tokens")
    endpoint = Endpoint(served, base_url, key, timeout, retries)
    return OpenAIEngine(endpoint, parallel, refused, price, budget, Thinking(enable_thinking))
