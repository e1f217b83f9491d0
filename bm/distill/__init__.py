"""Questions to a teacher, its verified responses to traces."""

from bm.distill.funnel import funnel_table, shortage
from bm.distill.policy import UNCHOSEN
from bm.distill.selection import check_apart
from bm.distill.traces import distill, questions, write_prompts

__all__ = ["UNCHOSEN", "check_apart", "distill", "funnel_table", "questions", "shortage", "write_prompts"]
