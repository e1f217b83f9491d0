"""Engines behind one call: prompts × n → samples. A teacher and an evaluation ask the same engines."""

from bm.generate.journal import sample
from bm.generate.samples import Engine, Message, Sample, Sampling

__all__ = ["Engine", "Message", "Sample", "Sampling", "sample"]
