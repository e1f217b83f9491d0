"""Plain numbers as people write them, exactly: the check of mathematical answers that owes nothing to SymPy."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

LONGEST = 200
"""Characters of a number; also the largest power of ten."""
TAIL = 1000
"""Characters of the end of a prose text in which a number is looked for."""
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
UNITS = {
    name: unit
    for unit, names in {
        "$": "$ dollar dollars usd", "¢": "cent cents ¢", "€": "€ euro euros", "£": "£ pound pounds",
        "mm": "mm millimeter millimeters millimetre millimetres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "m": "m meter meters metre metres", "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
        "mg": "mg milligram milligrams", "g": "g gram grams", "kg": "kg kilogram kilograms",
        "lb": "lb lbs", "oz": "oz ounce ounces",
        "ml": "ml milliliter milliliters", "l": "l liter liters litre litres",
        "s": "s sec secs second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours",
        "day": "day days", "week": "week weeks", "month": "month months", "year": "yr yrs year years",
        "°": "degree degrees deg °", "rad": "rad radian radians", "mph": "mph", "km/h": "kmh kph km/h",
    }.items()
    for name in names.split()
}  # fmt: skip
"""Spellings of units that must not be confused with each other; any other word beside a number is ignored."""
SIZES = {
    name: (measure, Fraction(size))
    for measure, sizes in {
        "$": {"$": "1", "¢": "0.01"},
        "m": {"mm": "0.001", "cm": "0.01", "m": "1", "km": "1000", "in": "0.0254", "ft": "0.3048", "yd": "0.9144",
              "mi": "1609.344"},
        "g": {"mg": "0.001", "g": "1", "kg": "1000", "lb": "453.59237", "oz": "28.349523125"},
        "l": {"ml": "0.001", "l": "1"},
        "s": {"s": "1", "min": "60", "h": "3600", "day": "86400", "week": "604800"},
    }.items()
    for name, size in sizes.items()
}  # fmt: skip
"""What a unit measures, and how much of it."""
POWERS = {2: {"square", "sq", "squared"}, 3: {"cubic", "cu", "cubed"}}
NO_UNIT = {
    "pi", "or", "and", "to", "sqrt", "sin", "cos", "tan", "cot", "sec", "log", "ln", "exp", "over", "times", "plus",
    "minus", "mod", "choose", "factorial", "root", "half", "halves", "third", "thirds", "quarter", "quarters",
    "fourths", "fifth", "fifths", "sixth", "sixths", "eighth", "eighths", "tenth", "tenths",
}  # fmt: skip
"""Words that change the number they stand beside."""

DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:\s\d{3})+|\d+)"
DECIMAL = rf"(?:{DIGITS}(?:\.\d*)?|\.\d+)"
POWER = r"\s*(?:\*|×|·|⋅|[xX]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?\s*([+-]?\d+)\s*\}?"
NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:"
    rf"(?:(?P<whole>{DIGITS})\s*)?\\frac\{{(?P<a>-?{DECIMAL})\}}\{{(?P<b>{DECIMAL})\}}"
    rf"|(?:(?P<whole2>\d+)\s+)?(?P<a2>{DECIMAL})\s*/\s*(?P<b2>{DECIMAL})"
    rf"|(?P<decimal>{DECIMAL})(?:{POWER}|[eE]([+-]?\d+))?"
    rf")(?P<rest>.*)",
    re.DOTALL,
)
"""A number at the beginning of a text without LaTeX's ornaments, and what follows it."""
FACTOR = r"\s*(?:[a-fi-kn-rt-z]\b|pi\b|sqrt|[*×!])"
"""What follows a number that is only a part of one: a letter that is no unit, a root, a product."""
RANGE = (
    rf"(?:\bbetween\b.*{DECIMAL}\s*[^\d\s]*\s*and|{DECIMAL}\s*[^\d\s=]*\s*(?:\bto\b|(?<![eE^])-))"
    rf"\s*[$€£]?{DECIMAL}[^\d=]*$"
)
"""Two numbers at the end of a text, of which neither is the answer."""
DENIED = re.compile(
    r"(?:\b(?:not|other\s+than|rather\s+than|instead\s+of|except)|n['’]t)(?:\s+(?:be|equal))?\s*$", re.IGNORECASE
)
"""What stands before a number that is named only to be refused."""
PART = re.compile(
    r"\b(?:times|plus|minus|over|under|(?:square|cube)\s+root\s+of|(?:half|third|quarter)\s+of|twice"
    r"|(?:less|more|fewer|greater|larger|smaller|higher|lower)\s+than|at\s+(?:least|most)|up\s+to)\s*$",
    re.IGNORECASE,
)
"""What stands before a number that is a bound, or only a part of what is stated; AFTER: what stands behind one."""
AFTER = re.compile(
    r"\s*(?:squared|cubed|or\s+(?:more|less|so))\b|\s*(?:times|plus|minus|over)\s+\d|\s*[±^]", re.IGNORECASE
)
FRACTIONS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


class Number(NamedTuple):
    """An exact value as written; a percentage by its figure, a unit by its one name ("" if none that is known)."""

    value: Fraction
    percent: bool
    unit: str
    counted: bool = False
    """A whole number in plain digits: it was counted, and not measured."""


def parse(text: str) -> Number | None:
    """The number that `text` is, with nothing beside it but a unit or currency; None for anything else."""
    if len(text) > LONGEST:
        return None
    text = _plain(text)
    currency = re.match(r"([+-]?)\s*([$€£])\s*", text)
    if currency:
        text = currency[1] + text[currency.end() :]
    match = NUMBER.fullmatch(text)
    value = _value(match) if match else None
    if match is None or value is None:
        return None
    rest = match["rest"].strip()
    if currency:
        rest = rest if _known(rest) else f"{rest} {currency[2]}".strip()
    number = _with_unit(value, rest, touching=match["rest"][:1].isalpha())
    digits = re.fullmatch(rf"{DIGITS}(?:\.0*)?", match["decimal"] or "") and not _exponent(match)
    return number and number._replace(counted=bool(digits) and number.value == value)


def same(reference: Number, answer: Number) -> bool:
    """Exactly equal, or six significant digits and more of a reference that has no end; in the same unit, if given."""
    return any(_equal(r, a) for r, a in _pairs(reference, answer))


def close(reference: Number, answer: Number, tolerance: float) -> bool:
    """Within the relative tolerance, in the same unit, if given; a reference that was counted must be met exactly."""
    most = Fraction(0 if reference.counted else tolerance)
    return any(abs(r - a) <= most * abs(r) for r, a in _pairs(reference, answer))


def _pairs(reference: Number, answer: Number) -> list[tuple[Fraction, Fraction]]:
    """The values to compare, in one unit; none where the two measure different things."""
    measures = [number.unit or "%" * number.percent for number in (reference, answer)]
    if all(measures) and measures[0] != measures[1]:
        (quantity, size), (other, scale) = _measure(reference.unit), _measure(answer.unit)
        return [(reference.value * size, answer.value * scale)] if quantity and quantity == other else []
    if reference.percent == answer.percent:
        return [(reference.value, answer.value)]
    return [(r, a) for r in _readings(reference) for a in _readings(answer)]


def _measure(unit: str) -> tuple[str, Fraction]:
    """What a unit measures, squares and cubes apart ("" if that is not known), and its size."""
    name, _, power = unit.partition("^")
    measure, size = SIZES.get(name, ("", Fraction(1)))
    return (f"{measure}^{power}" if measure and power else measure), size ** int(power or 1)


def last_in(text: str) -> str:
    """The last number of a prose text as it stands there, "" where there is none or a choice of several is offered."""
    text = _plain(text[-TAIL:])
    text = re.sub(r"(?<=[A-Za-z])\^\{?-?\d\}?", "", text)  # of a unit
    unscaled = re.sub(POWER, "", text)
    if re.search(r"\bor\b|[\\^√π]", unscaled) or re.search(RANGE, unscaled):
        return ""
    text = re.sub(r"(?<=[\w%$.])\s*\([^()]*\)$", "", text)  # a remark behind the statement
    matches = re.finditer(rf"(?<![\w.])(?:[-+]?[$€£]?|[$€£]-){DECIMAL}(?:\s*/\s*\d+|[eE][+-]?\d+|{POWER})?\s*%?", text)
    whole = [
        match
        for match in matches
        if not re.match(FACTOR, text[match.end() :]) and not DENIED.search(text[: match.start()])
    ]
    if not whole or PART.search(text[: whole[-1].start()]) or AFTER.match(text[whole[-1].end() :]):
        return ""
    return whole[-1][0].strip().rstrip(".")


def _plain(text: str) -> str:
    """Without LaTeX's ornaments: spacing, text commands, display fractions, escaped signs."""
    text = text.replace("−", "-").replace("–", "-").replace("\u00a0", " ").replace("\\%", "%").replace("\\$", "$")
    text = re.sub("[" + "".join(FRACTIONS) + "]", lambda m: f" {FRACTIONS[m[0]]}", text)
    text = re.sub(r"(?<![\d)] )\b(?:minus|negative)\s+(?=[\d.$])", "-", text)
    text = re.sub(r"(?<=10)[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: "^" + m[0].translate(SUPERSCRIPTS), text)
    text = re.sub(r"^([+-]?)10\s*(?:\^|\*\*)\s*\{?\s*([+-]?\d+)\s*\}?$", r"\g<1>1e\2", text.strip())
    text = re.sub(r"\\[!,;:]\s*|\\(?:left|right|displaystyle)(?![a-zA-Z])|\{,\}", lambda m: "," * (m[0] == "{,}"), text)
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf|mathbf|mathit)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", " ° ", text)
    text = re.sub(r"\\[dtc]?frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\[dtc]?frac\s*(?:\{\s*([^{}]*?)\s*\}|(\d))\s*(?:\{\s*([^{}]*?)\s*\}|(\d))", _fraction, text)
    text = re.sub(r"(?<=\d),\s+(?=\d{3}(?!\d))", ",", text) if "\\" in text else text
    return re.sub(r"\s+", " ", text.replace("\\ ", " ").replace("~", " ")).strip().rstrip(".").strip()


def _fraction(match: "re.Match[str]") -> str:
    return f"\\frac{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}"


def _value(match: "re.Match[str]") -> Fraction | None:
    sign = -1 if match["sign"] == "-" else 1
    if match["decimal"]:
        power = int(_exponent(match) or 0)
        return sign * _decimal(match["decimal"]) * Fraction(10) ** power if abs(power) <= LONGEST else None
    whole, a, b = match["whole"] or match["whole2"], match["a"] or match["a2"], match["b"] or match["b2"]
    bottom = _decimal(b)
    if not bottom or (whole and a.startswith("-")):
        return None
    return sign * (_decimal(whole or "0") + _decimal(a) / bottom)


def _exponent(match: "re.Match[str]") -> str:
    return match[match.re.groups - 2] or match[match.re.groups - 1] or ""


def _decimal(digits: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", digits).rstrip(".") or "0")


def _with_unit(value: Fraction, rest: str, touching: bool) -> Number | None:
    if rest.startswith("%") or re.match(r"(?:percent|pct)\b", rest):
        return Number(value, True, "") if re.fullmatch(r"(?:%|percent|pct)[a-z ]*", rest) else None
    words = re.fullmatch(r"(?:[-A-Za-z]+|[$€£¢°]|km/h|\(|\))(?:\s+[-A-Za-z$€£¢]+)*(?:\s*\^\s*\{?\d\}?)?", rest)
    if rest and not words:
        return None
    spelled = re.sub(r"\s*\^\s*\{?(\d)\}?$", "", rest).lower().split()
    while spelled and spelled[0] in SCALES:
        value *= SCALES[spelled.pop(0)]
    if NO_UNIT & set(spelled) or any(len(w) == 1 and w.isalpha() and w not in UNITS and w != "a" for w in spelled):
        return None
    if touching and spelled and len(spelled[0]) == 1:
        return None  # 5m may be a product
    if spelled and spelled[0] in ("squared", "cubed"):
        return None
    words_left = [word for word in spelled if word not in POWERS[2] | POWERS[3]]
    in_all = words_left[:1] == ["in"] and len(words_left) > 1  # no inches
    unit = UNITS.get(words_left[0], "") if words_left and not in_all else ""
    return Number(value, False, unit and unit + _power(rest, spelled))


def _power(rest: str, spelled: Sequence[str]) -> str:
    """Squares and cubes are units of their own."""
    written = re.search(r"\^\s*\{?(\d)", rest)
    power = written[1] if written else "2" if POWERS[2] & set(spelled) else "3" if POWERS[3] & set(spelled) else ""
    return f"^{power}" if power else ""


def _known(rest: str) -> bool:
    return any(word in UNITS for word in rest.lower().split())


def _readings(number: Number) -> tuple[Fraction, ...]:
    """A percentage as a share, and as its figure where that can be no share: 0.5% is not 0.5."""
    if not number.percent:
        return (number.value,)
    return (number.value / 100, number.value) if abs(number.value) > 1 else (number.value / 100,)


def _equal(reference: Fraction, answer: Fraction) -> bool:
    return reference == answer or (
        _endless(reference) and not _endless(answer) and abs(reference - answer) * 200_000 <= abs(reference)
    )


def _endless(value: Fraction) -> bool:
    """Whether the decimals of `value` never end."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest != 1
