"""Mathematical answers: math-verify's equality, and for plain numbers an exact check of our own that decides."""

import re
from functools import lru_cache

from bm.config import Verify
from bm.verify import final, quantities
from bm.verify.cases import AGREED, DISAGREED, Metadata, Verdict, decided
from bm.verify.judging import NoJudgementError, judgement

LONGEST = 1000
"""Characters of an answer or a reference; a longer one is refused."""
TEXT = re.compile(r"\(?\s*([A-Za-z][A-Za-z'’-]*(?:[\s,]+[A-Za-z'’-]+)*)\s*\)?[.!]?")
BASE = re.compile(r"(-?[0-9A-Za-z.]+?)_\{?(\w+)\}?")
THOUSANDS = re.compile(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?=\s*(?:\\[a-zA-Z]|[a-zA-Z(]))")
FUNCTIONS = quantities.NO_UNIT | {"e", "i", "x", "y", "z", "infinity", "infty"}


def judge(text: str, reference: str, metadata: Metadata, settings: Verify) -> Verdict:
    """The final answer of `text` (the last box, else what it states last) against a reference in LaTeX or plain."""
    reference = final.mathematical(reference)
    stated = final.stated(text)
    answer = final.mathematical(stated).rstrip(" .,;:")
    if not answer:
        return Verdict(False, "no answer", "")
    if len(answer) > LONGEST or len(reference) > LONGEST:
        return Verdict(False, "answer too long", answer[:LONGEST])
    if word := _words(reference):
        return decided(_words(answer, marked=True).split(" is ")[-1] == word, answer)
    known, given = quantities.parse(reference), quantities.parse(answer)
    if known and not given and _prose(answer):
        answer = quantities.last_in(answer) or answer
        given = quantities.parse(answer)
    return _compared(reference, answer, known, given, settings)


def _compared(
    reference: str, answer: str, known: quantities.Number | None, given: quantities.Number | None, settings: Verify
) -> Verdict:
    number = known and given and decided(quantities.same(known, given), answer)
    try:
        equal = _equal(THOUSANDS.sub(_joined, reference), THOUSANDS.sub(_joined, answer), settings)
    except NoJudgementError as problem:
        return number._replace(note=DISAGREED) if number else Verdict(False, str(problem), answer)
    if number:
        return number._replace(note=AGREED if equal == number.accepted else DISAGREED)
    return decided(equal and _allowed(reference, answer), answer)


@lru_cache(1 << 14)
def _equal(reference: str, answer: str, settings: Verify) -> bool:
    """math-verify's word, asked once about a pair: samples of a question often end alike."""
    return judgement("equal", [reference, answer], settings)


def _allowed(reference: str, answer: str) -> bool:
    """What math-verify passes over: bases, repeated elements, a tuple's order, variables that look like units."""
    ordered_as_set = reference.startswith(("(", "\\left(")) and answer.startswith(("\\{", "\\left\\{"))
    agree = _bases_agree(reference, answer) and _as_many(reference, answer) and _variables_agree(reference, answer)
    return agree and not ordered_as_set


def _joined(number: "re.Match[str]") -> str:
    return number[0].replace(",", "")


def _bases_agree(reference: str, answer: str) -> bool:
    """52_8 is 52_{8}, and may be given as 52, but is not 52_9; a base that nobody asked for must be ten."""
    known, given = (BASE.fullmatch(re.sub(r"\\text\s*\{(\w+)\}|[\s$]", r"\1", t)) for t in (reference, answer))
    if given is None:
        return True
    return given[2] == (known[2] if known else "10")


def _as_many(reference: str, answer: str) -> bool:
    """A set that repeats an element equals one that does not: count what stands between commas."""
    if re.search(r"\\(?:pm|mp|le|ge|in|ne|lt|gt)(?![a-z])|\\[lg]eq|[<>±≤≥]", reference + answer):
        return True
    return _elements(reference) == _elements(answer)


def _elements(text: str) -> int:
    text = re.sub(r"(?<=\d),(?:\\!)?\s?(?=\d{3}(?!\d))|\\[,;:!]|\{,\}", "", text)
    text = re.sub(r",?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)", ",", text)
    return len(re.findall(r"[^\s,](?=\s*(?:,|$))", text)) if "," in text else 1


def _variables_agree(reference: str, answer: str) -> bool:
    """3t is not 3, though t may be taken for a unit: a last letter of one must occur in the other."""
    for text, other, units in ((reference, answer, set()), (answer, reference, set(quantities.UNITS))):
        last = re.search(r"(?:[\d})]|[\d})]\s+)([A-Za-z])$", text.strip())
        if last and last[1] not in other and last[1] not in units:
            return False
    return True


def _words(text: str, marked: bool = False) -> str:
    r"""A textual answer (\text{even}, Evelyn, (C), no solution) in small letters; "" for anything that is a formula."""
    if re.search(r"\d", text):
        return ""
    bare = re.sub(r"\\(?:text|mbox|mathrm|textbf|mathbf|mathit|textit|bf|rm)\b\s*|[{}$]|\\[ ,;!]", " ", text).strip()
    match = TEXT.fullmatch(bare)
    if not match:
        return ""
    words = re.sub(r"[\s,]+", " ", match[1]).lower()
    marked = marked or "\\text" in text or "\\mbox" in text or "\\mathrm" in text or "\\mathbf" in text
    is_formula = (len(words) < 3 and not marked) or bool(FUNCTIONS & set(words.split()) and not marked)
    return "" if is_formula else words


def _prose(text: str) -> bool:
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[a-zA-Z]+", " ", text))
    return len(words) >= 2 or any(len(word) >= 4 for word in words)
