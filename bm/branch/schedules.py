"""Learning-rate schedules: the share of the peak rate after warm-up, as a function of progress in [0, 1]."""

import math


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line from 1 to 0."""
    return 1 - progress


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear}


def rate(step: int, steps: int, warmup_ratio: float, schedule: str) -> float:
    """Share of the peak rate at optimiser step `step` of `steps` (from 0): a linear ramp first, then the schedule."""
    warmup = round(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))
