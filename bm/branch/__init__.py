"""Branch: supervised fine-tuning of a student on traces."""

from bm.branch.architecture import check_trainable
from bm.branch.barrier import barrier
from bm.branch.card import card
from bm.branch.data import Part
from bm.branch.documents import Traces, rendered
from bm.branch.foresight import foresight
from bm.branch.moments import MOMENTS
from bm.branch.telling import tell
from bm.branch.training import train
from bm.branch.watch import FACTS, rung

__all__ = ["FACTS", "MOMENTS", "Part", "Traces", "barrier", "card", "check_trainable", "foresight", "rendered", "rung",
           "tell", "train"]  # fmt: skip
