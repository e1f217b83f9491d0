"""A procedural question's own scorer, as reasoning-gym ships it, in the sandbox: some of them evaluate the response."""

from bm.config import Verify
from bm.verify.cases import BrokenCaseError, Metadata, Verdict, decided
from bm.verify.scoring import judgement


def judge(text: str, reference: str, metadata: Metadata, settings: Verify) -> Verdict:
    """Whether the generator's scorer gives all of `text` full marks. It rewards near misses in part; they don't count.

    `metadata` is the entry's; its `source_dataset` names the generator.
    """
    if not isinstance(metadata.get("source_dataset"), str):
        raise BrokenCaseError("metadata must name the generator as source_dataset")
    return decided(judgement("score", [text, {"answer": reference, "metadata": metadata}], settings), text)
