"""Branch: supervised fine-tuning of a student on traces."""

from bm.branch.architecture import check_trainable
from bm.branch.card import card
from bm.branch.documents import Traces, rendered
from bm.branch.training import train

__all__ = ["Traces", "card", "check_trainable", "rendered", "train"]
