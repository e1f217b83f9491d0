"""What a training tells the tracker of itself, and what its metrics are drawn over."""

from bm.branch.launch import Job
from bm.config import resolved
from bm.track import About

OVER_TOKENS = ("loss", "held_out_*", "cosine_*")
"""Metrics of learning, comparable between batch sizes; the others are drawn over optimiser steps."""


def about(job: Job) -> About:
    settings = {"branch": resolved(job.config), "trainer": resolved(job.trainer), "name": job.name, "key": job.key,
                "domains": {t.domain: t.weight for t in job.traces}}  # fmt: skip
    return About(job.key, job.name, "branch", settings, axes=dict.fromkeys(OVER_TOKENS, "tokens"))
