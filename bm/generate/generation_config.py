"""What a model's own generation_config.json asks for, beside the sampling that whoever asks has set."""

from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from bm.progress import say

LOST = {
    "top_k": (0,), "min_p": (0,), "typical_p": (1,), "top_h": (), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
    "no_repeat_ngram_size": (0,), "bad_words_ids": (), "suppress_tokens": (), "begin_suppress_tokens": (),
    "sequence_bias": (), "exponential_decay_length_penalty": (), "min_length": (0,), "min_new_tokens": (0,),
    "num_beams": (1,), "penalty_alpha": (0,), "guidance_scale": (1,), "forced_bos_token_id": (),
    "forced_eos_token_id": (),
}  # fmt: skip
"""Settings that change what Hugging Face's own generation writes and that no engine here applies, with those of their
values that change nothing."""


def saved(folder: Path) -> GenerationConfig | None:
    """What the model of a Hugging Face folder has to say about generation, if it says anything."""
    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None


def repetition_penalty(config: GenerationConfig | None, name: str) -> float:
    """The penalty that a model asks for, 1 for none. What else it asks for and does not get is said in one line."""
    lost = {key: value for key, neutral in LOST.items() if (value := _asked(config, key)) and value not in neutral}
    if lost:
        listed = ", ".join(f"{key}={value}" for key, value in lost.items())
        say(f"{name}: its generation_config asks for {listed}, which is not applied")
    return float(_asked(config, "repetition_penalty") or 1.0)


def _asked(config: GenerationConfig | None, key: str) -> Any:
    return getattr(config, key, None)
