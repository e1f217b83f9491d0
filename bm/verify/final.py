"""The final answer within what a response says after its reasoning."""

import re

MARKER = re.compile(
    r"####|(?<!\bthis )(?<!\bthat )\b(?:answer(?!\s+(?:makes|matches|follows|agrees|satisfies|checks|fits|works)\b)"
    r"|(?:correct|right|best)\s+(?:option|choice|statement))\b"
    r"(?:\s+(?!is\b)[^\s:=.]+){0,6}?\s*(?:\bis\b\s*:?|\bbe\b|[:=])"
    r"(?!\s*(?:indeed\s+|also\s+|clearly\s+)?(?:correct|right|clear|reasonable|consistent|valid|verified|confirmed|checked"
    r"|supported|plausible)\b)",
    re.IGNORECASE,
)
"""What announces an answer; a remark on one ("this answer is clear") does not."""
HEADING = re.compile(r"^\W*(?:final\s+)?answer\W*$", re.IGNORECASE)
SPAN = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$([^$\n]+?)(?<!\\)\$", re.DOTALL)
TAIL = 20_000
"""Characters of the end of a response in which an answer is looked for."""


def boxed(text: str) -> str | None:
    r"""What the last \boxed{…} or \fbox{…} holds, with those that belong to it ("\boxed{1} and \boxed{2}"); or None."""
    boxes: list[str] = []
    end = len(text)
    while matches := list(re.finditer(r"\\(?:boxed|fbox)\s*(?=\{|\s?\S)", text[:end])):
        start, inside = matches[-1].start(), matches[-1].end()
        close = _closing(text, inside)
        if close is None:
            break
        if boxes and not re.fullmatch(
            r"[\s$.;,]*(?:and|or|\\text\s*\{\s*(?:and|or)\s*\})?[\s$,]*", text[close + 1 : end]
        ):
            break
        content = text[inside + 1 : close].strip() if text[inside] == "{" else text[inside]
        boxes += [content] * (content not in boxes)
        end = start
    return ", ".join(reversed(boxes)) if boxes else None


def _closing(text: str, opening: int) -> int | None:
    """The brace that closes the one at `opening`; a box without braces is one character long."""
    if text[opening] != "{":
        return opening
    depth = 0
    for brace in re.finditer(r"(?<!\\)[{}]", text[opening:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return opening + brace.start()
    return None


def stated(text: str) -> str:
    """The last box; else what follows the last "answer is", "Answer:", "####" or a heading; else the last line."""
    text = text[-TAIL:]
    box = boxed(text)
    if box is not None:
        return box
    text = re.sub(r"\*\*|__|`", "", text).strip()
    markers = list(MARKER.finditer(text))
    if markers:
        after = text[markers[-1].end() :].strip()
        if after:
            return _first_line(after)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for place in range(len(lines) - 2, -1, -1):
        if HEADING.match(lines[place]):
            return _first_line("\n".join(lines[place + 1 :]))
    return _first_line("\n".join(lines[-1:])) if not text.endswith(("\\]", "$$")) else _last_display(text)


def mathematical(text: str) -> str:
    """A statement reduced to its formula: the span between dollars, if there is one, else the statement as it is."""
    text = conclusion(text)
    spans = [_inside(span) for span in SPAN.finditer(text)]
    if not spans:
        return text.strip()
    outside = SPAN.sub(" ", text)
    if re.fullmatch(r"[\s,;.]*(?:(?:and|or)[\s,;.]*)?", outside):
        return ", ".join(spans)
    return spans[-1] if text.strip().endswith("$") or not SPAN.match(text.strip()) else spans[0]


def conclusion(text: str) -> str:
    """A statement without the reasons given for it."""
    return re.split(r"(?<=\S)[,;]?\s+(?:because|since)\b|\.\s+(?:I hope|This|That|The answer)\b", text)[0].strip()


def _first_line(text: str) -> str:
    display = re.match(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$", text, re.DOTALL)
    line = display[0] if display else text.splitlines()[0] if text else ""
    return line.strip().rstrip(".").strip()


def _last_display(text: str) -> str:
    return _inside(list(SPAN.finditer(text))[-1]) if SPAN.search(text) else ""


def _inside(span: "re.Match[str]") -> str:
    return next(group for group in span.groups() if group).strip()
