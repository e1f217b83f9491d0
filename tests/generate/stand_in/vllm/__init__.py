"""vLLM's classes as the engine uses them, so that its processes, queues and time-outs run without a GPU.

Every keyword is checked against what EngineArgs of the pinned version takes, and a cache that cannot hold one sequence
is refused as vLLM refuses it.
"""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from vllm.sampling_params import RequestOutputKind

BREAK, HANG, DIE = [2, 2], [3, 3], [4, 4]
"""Prompts at which it fails, at which it says no more, and at which its process is killed."""
PLACE = Path(os.environ["STAND_IN"])
CARD = float(os.environ.get("STAND_IN_BYTES", 1 << 30))
"""Bytes of each of its GPUs."""
TAKES = set((Path(__file__).parent / "engine_args.txt").read_text().split())
"""The fields of vLLM's EngineArgs."""


@dataclass
class SamplingParams:
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop: list[str]
    output_kind: RequestOutputKind
    repetition_penalty: float
    prompt_logprobs: int | None = None


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class EngineArgs:
    def __init__(self, **settings):
        for name in settings:
            if name not in TAKES:
                raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument '{name}'")
        self.settings = settings


class Completion:
    """Ends with the end-of-text token, as vLLM's do, or where it may be no longer."""

    def __init__(self, tokens, most):
        over = len(tokens) >= most
        self.token_ids, self.finish_reason = (tokens[:most], "length") if over else ([*tokens, 1], "stop")
        self.stop_reason = None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[Completion]
    finished: bool = True
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None


class LLMEngine:
    """Answers one request a step, the latest first: no order may be relied upon."""

    @classmethod
    def from_engine_args(cls, args):
        engine, settings = cls(), args.settings
        engine.settings, engine.model = settings, None
        assert settings["enable_prefix_caching"]
        config = json.loads((Path(settings["model"]) / "config.json").read_text())
        heads, width = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
        token = 2 * config["num_hidden_layers"] * heads * width * 4 / settings["tensor_parallel_size"]
        weights = sum(f.stat().st_size for f in Path(settings["model"]).glob("*.safetensors"))
        cache = settings["gpu_memory_utilization"] * CARD - weights / settings["tensor_parallel_size"]
        if settings["max_model_len"] * token > cache:
            raise ValueError(
                f"To serve at least one request with the model's max seq len ({settings['max_model_len']}), "
                "more KV cache is needed than there is"
            )
        engine.longest, engine.waiting, engine.most = settings["max_model_len"], [], 0
        engine.place = PLACE / f"{os.getpid()}"
        engine.place.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        return engine

    def add_request(self, request_id, prompt, params):
        tokens = prompt["prompt_token_ids"]
        assert len(tokens) < self.longest and params.output_kind is RequestOutputKind.FINAL_ONLY
        self.waiting.append((request_id, tokens, params))
        self.most = max(self.most, len(self.waiting))
        self.place.with_suffix(".most").write_text(str(self.most))

    def step(self):
        request, tokens, params = self.waiting.pop()
        if tokens == BREAK:
            raise RuntimeError("CUDA out of memory\nlong story")
        if tokens == HANG:
            time.sleep(600)
        if tokens == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        said = [*tokens, *(10 + int(d) for d in str(params.seed))]
        told = params.prompt_logprobs and self.told(tokens, params.prompt_logprobs)
        return [RequestOutput(request, [Completion(said, params.max_tokens)], prompt_logprobs=told)]

    def told(self, tokens, k):
        """By the model itself: of the first token nothing, of the others the k likeliest and their own."""
        import torch
        from transformers import AutoModelForCausalLM

        if k > self.settings.get("max_logprobs", 20):
            raise ValueError(f"Requested prompt logprobs of {k}, which is greater than max allowed: 20")
        if self.model is None:
            self.model = AutoModelForCausalLM.from_pretrained(self.settings["model"])
        with torch.no_grad():
            log_p = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        said = [None]
        for place, token in enumerate(tokens[1:]):
            ranked = log_p[place].argsort(descending=True).tolist()
            kept = dict.fromkeys([token, *ranked[:k]])
            said.append({t: Logprob(log_p[place, t].item(), ranked.index(t) + 1, "?") for t in kept})
        return said
