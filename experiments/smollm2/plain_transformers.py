"""Greedy continuations by transformers alone; `bm` plays no part in it.

    python plain_transformers.py MODEL REQUEST.json ANSWERS.json

A request has `prompts`, rendered, and `tokens`, how many to make at most. Answers: `tokens` of each prompt and of its
`continuation`, the `text` of that, and the log probabilities of the `first` token of the continuation, by token.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer))
model = model.to(torch.float32).eval()
with open(sys.argv[2]) as file:
    request = json.load(file)
answers = []
for prompt in request["prompts"]:
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=request["tokens"], do_sample=False, output_logits=True,
                          return_dict_in_generate=True)  # fmt: skip
    length = inputs["input_ids"].shape[1]
    continuation = [token for token in made.sequences[0, length:].tolist() if token != tokenizer.eos_token_id]
    first = made.logits[0][0].log_softmax(-1)
    best = first.topk(10)
    answers.append({
        "tokens": inputs["input_ids"][0].tolist(), "continuation": continuation, "text": tokenizer.decode(continuation),
        "first": dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
    })  # fmt: skip
assert not [name for name in sys.modules if name.split(".")[0] == "bm"]
with open(sys.argv[3], "w") as file:
    json.dump(answers, file)
