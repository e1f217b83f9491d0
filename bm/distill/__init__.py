"""Questions to a teacher, its verified responses to traces."""

from bm.distill.selection import check_apart
from bm.distill.traces import distill, questions

__all__ = ["check_apart", "distill", "questions"]
