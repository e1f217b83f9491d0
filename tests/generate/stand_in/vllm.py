"""vLLM's two classes as the engine uses them, so that its processes, queue and time-out run without a GPU."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

BREAK, HANG = [2, 2], [3, 3]
"""Prompts at which it fails, and at which it says no more."""
PLACE = Path(os.environ["STAND_IN"])


@dataclass
class SamplingParams:
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop: list[str]


class Completion:
    """Ends with the end-of-text token, as vLLM's do."""

    def __init__(self, tokens):
        self.token_ids, self.finish_reason, self.stop_reason = [*tokens, 1], "stop", None


class Output:
    def __init__(self, tokens):
        self.outputs = [Completion(tokens)]


class LLM:
    def __init__(self, **settings):
        assert settings["enable_prefix_caching"]
        self.devices = os.environ["CUDA_VISIBLE_DEVICES"]
        (PLACE / f"{os.getpid()}").write_text(self.devices)

    def generate(self, prompts, params, use_tqdm):
        assert not use_tqdm
        tokens = [prompt["prompt_token_ids"] for prompt in prompts]
        if BREAK in tokens:
            raise RuntimeError("CUDA out of memory\nlong story")
        if HANG in tokens:
            time.sleep(600)
        time.sleep(0.05)
        return [Output([*t, *(10 + int(d) for d in str(p.seed))]) for t, p in zip(tokens, params, strict=True)]
