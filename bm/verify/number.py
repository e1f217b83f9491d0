"""Answers that are measured rather than counted: a number within a relative tolerance."""

from bm.config import Verify
from bm.verify import final, quantities
from bm.verify.cases import BrokenCaseError, Metadata, Verdict, decided


def judge(text: str, reference: str, metadata: Metadata, settings: Verify) -> Verdict:
    """The number that `text` states last against the reference; their units, if both have one, must be the same."""
    known = quantities.parse(final.mathematical(reference))
    if known is None:
        raise BrokenCaseError("the reference answer is not a number")
    stated = final.mathematical(final.stated(text)).rpartition("=")[2].strip()
    stated = stated if quantities.parse(stated) else quantities.last_in(stated)
    given = quantities.parse(stated)
    if given is None:
        return Verdict(False, "no number", stated)
    return decided(quantities.close(known, given, settings.tolerance), stated)
