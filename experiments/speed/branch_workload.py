"""What the training benchmark trains on, the same tokens for both sides.

Text is words `w0 w1 …` of a word-level tokenizer, so a document of n words has n tokens on any side.
"""

import random
from pathlib import Path

VOCABULARY, LONGEST, DOCUMENTS = 49_152, 2048, 64
TEMPLATE = "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
Document = tuple[list[int], list[int]]


def documents() -> list[Document]:
    """64 pairs of a prompt (a fifth) and a response that ends in `<eos>`, of log-normal length: 33,810 tokens."""
    draw, made = random.Random(0), []
    for _ in range(DOCUMENTS):
        length = min(LONGEST, max(80, int(draw.lognormvariate(6.0, 0.7))))
        ids = [draw.randrange(3, 49_000) for _ in range(length)]
        made.append((ids[: length // 5], [*ids[length // 5 : -1], 2]))
    return made


def one(length: int) -> list[Document]:
    """A single document of `length` tokens."""
    draw = random.Random(length)
    return [([3], [*(draw.randrange(3, 49_000) for _ in range(length - 2)), 2])]


def write(folder: Path, hidden: int, positions: int) -> None:
    """A Llama of 8 layers with random weights, and its tokenizer; 384 wide it has 31 M parameters, 288 wide 21 M."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=8 * hidden // 3, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=positions,
        bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": 0, "<unk>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def text(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)
