"""Greedy continuations by llama.cpp, in its own environment; requests and answers as of plain_transformers.py.

python llama_cpp.py FILE.gguf REQUEST.json ANSWERS.json
"""

import json
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = 1024
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.warmup = False
server = xllamacpp.Server(params)
with open(sys.argv[2]) as file:
    request = json.load(file)
answers = []
for prompt in request["prompts"]:
    asked = {"prompt": prompt, "max_tokens": request["tokens"], "temperature": 0, "n_probs": 10, "cache_prompt": False}
    made = server.handle_completions(asked)
    steps = made["choices"][0]["logprobs"]["content"]
    answers.append({
        "prompt_tokens": made["usage"]["prompt_tokens"], "continuation": [step["id"] for step in steps],
        "text": made["choices"][0]["text"], "first": {top["id"]: top["logprob"] for top in steps[0]["top_logprobs"]},
    })  # fmt: skip
with open(sys.argv[3], "w") as file:
    json.dump(answers, file)
