"""What the benchmark of on-policy distillation asks: the same prompts, and responses of one length, for both sides.

Student and teacher have random weights, so that a response ends by itself once in 49,152 tokens: nearly all are as
long as they may be, and both sides generate, and learn from, as many tokens.
"""

import random
from pathlib import Path

from experiments.speed.branch_workload import text, write

PROMPTS, RESPONSE, BATCH = 64, 128, 8
LONGEST = 2048
"""Tokens of a pack, which holds about BATCH prompts with their responses."""


def prompts() -> list[list[int]]:
    """PROMPTS prompts of log-normal length, 16 to 512 tokens."""
    draw, made = random.Random(0), []
    for _ in range(PROMPTS):
        length = min(512, max(16, int(draw.lognormvariate(4.6, 0.6))))
        made.append([draw.randrange(3, 49_000) for _ in range(length)])
    return made


def traces() -> list[tuple[str, str]]:
    """Each prompt as text, and a response in whose place comes the student's own."""
    draw = random.Random(1)
    return [(text(p), text([draw.randrange(3, 49_000) for _ in range(RESPONSE - 1)])) for p in prompts()]


def models(folder: Path) -> tuple[Path, Path]:
    """A student of 31 M parameters, and a teacher of 55 M with the same words."""
    write(folder / "student", hidden=384, positions=LONGEST)
    write(folder / "teacher", hidden=576, positions=LONGEST)
    return folder / "student", folder / "teacher"
