"""Questions to a teacher, its verified responses to traces."""

from bm.distill.traces import distill, questions

__all__ = ["distill", "questions"]
