"""Engines behind one call: prompts × n → samples. A teacher and an evaluation ask the same engines."""

from bm.generate.journal import sample
from bm.generate.samples import Engine, Message, Sample, Sampling, Telling

IN_MEMORY = "bm.generate.engines.transformers"
"""The engine that takes a model and its tokenizer from memory; every other one wants a folder."""

__all__ = ["IN_MEMORY", "Engine", "Message", "Sample", "Sampling", "Telling", "sample"]
