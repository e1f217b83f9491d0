"""Multiple choice: the letter in any usual disguise, or the chosen text itself."""

import re
from collections.abc import Sequence

from bm.config import Verify
from bm.verify import final
from bm.verify.cases import BrokenCaseError, Metadata, Verdict, decided

LETTERS = "ABCDEFGHIJ"
LETTER = re.compile(
    r"(?<![\w'’\\])[(\[]?([A-J])[)\]]?(?![\w'’])(?!(?<=[AI])\s+(?!(?:is|was|and|or|because|since|as)\b)[a-z])"
)
"""A letter that stands alone, but not an article or a pronoun."""
DENIED = re.compile(
    r"(?:(?<=n['’]t)|\b(?i:not|cannot|never|neither|nor|except|rather\s+than|instead\s+of|other\s+than"
    r"|(?:any|every)(?:thing|one)?\s+but|all\s+but|rul(?:e|es|ed|ing)\s+out|eliminat(?:e|es|ed|ing)|exclud(?:e|es|ed|ing)"
    r"|doubt|wrong\s+to))"
    r"(?:\s+(?i:be|that|it|is|the|option|choice|answer|letter|choose|pick|select|say))*\s+[(\[]?[A-J](?![\w'’])[)\]]?"
    r"(?:\s+n?or\s+[(\[]?[A-J](?![\w'’])[)\]]?)*"
    r"|(?<![\w'’])[(\[]?[A-J][)\]]?(?:\s+(?i:(?:is|was)(?:n['’]t|\s+(?:an?\s+|the\s+)?(?:not|wrong|incorrect|false|eliminated"
    r"|excluded|ruled\s+out))|cannot|can['’]t|(?:can|could|must)\s+be\s+(?:ruled\s+out|eliminated|excluded)|or\s+not)\b"
    r"|\?\s*(?i:no)\b)"
)
"""Letters that a statement names only to refuse them."""
WRAPPED = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|boldsymbol)\s*(?=\{)|[{}$*`_]|\\[ ,;!()\[\]]")


def judge(text: str, reference: str, metadata: Metadata, settings: Verify) -> Verdict:
    """The letter (or text) that `text` states last. `metadata` may have `choices`; the reference is a letter or one."""
    choices = metadata.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise BrokenCaseError("choices must be a list of strings")
    known = chosen(reference, choices)
    if not known:
        raise BrokenCaseError("the reference answer is not one of the choices")
    stated = final.stated(text)
    given = chosen(stated, choices)
    return decided(given == known, given or stated) if given else Verdict(False, "no choice", stated)


def chosen(statement: str, choices: Sequence[str]) -> str:
    """The letter that a statement chooses, "" if it names none or several."""
    letters = LETTERS[: len(choices) or len(LETTERS)]
    plain = WRAPPED.sub("", statement).strip()
    named = [letter for letter, choice in zip(letters, choices, strict=False) if _alike(plain, choice)]
    alone = re.fullmatch(r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?[(\[]?([A-Ja-j])[)\]]?[.:,]?", plain)
    if len(named) == 1 and not (alone and alone[1].upper() in letters):
        return named[0]
    plain = DENIED.sub(" ", final.conclusion(plain)).strip()
    if alone:
        return alone[1].upper() if alone[1].upper() in letters else ""
    if labelled := re.match(
        r"(?:(?:option|choice|answer)\s+)?(?:[(\[]([A-J])[)\]]|([A-J])[).:])\s+(?!or\b|and\b)", plain, re.I
    ):
        letter = (labelled[1] or labelled[2]).upper()
        rest = plain[labelled.end() :]
        clear = _letters(rest) <= {letter} or any(_alike(rest, choice) for choice in choices)
        return letter if letter in letters and clear else ""
    mentioned = _letters(plain)
    return mentioned.pop() if len(mentioned) == 1 and mentioned <= set(letters) else ""


def _letters(text: str) -> set[str]:
    return set(LETTER.findall(text))


def _alike(text: str, choice: str) -> bool:
    return _bare(text) == _bare(WRAPPED.sub("", choice)) != ""


def _bare(text: str) -> str:
    return re.sub(r"[\s.,;:!\"']+", " ", text).strip().casefold()
