"""What a model is made of, without a weight of it."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from bm.config import Experiment
from bm.errors import UserError


def architecture(config: Experiment) -> PreTrainedConfig:
    """The student's, by the settings where they say it, else by its folder or the hub; UserError if neither has it."""
    student = config.student
    name = student.build.parameters.get("name")
    if student.architecture is not None:
        values = dict(student.architecture)
        made: PreTrainedConfig = AutoConfig.for_model(values.pop("model_type"), **values)
        return made
    try:
        if name is None:
            raise ValueError("its builder names no model")
        read: PreTrainedConfig = AutoConfig.from_pretrained(str(name))
    except (OSError, ValueError) as problem:
        raise UserError(
            f"student.architecture: what `{student.name}` is made of is not known before it is built; give the figures "
            "of its config.json there, {model_type: …, hidden_size: …}"
        ) from problem
    return read


def shaped(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without weights; UserError if its architecture has none as a causal language model."""
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as problem:  # whatever its code objects to
        raise UserError(f"{config.model_type}: cannot be planned as a causal language model: {problem}") from problem
    return model


def heads(config: PreTrainedConfig) -> int:
    """Attention heads of a layer; 0 in a model that keeps a state instead of keys."""
    return getattr(config, "num_attention_heads", 0)
