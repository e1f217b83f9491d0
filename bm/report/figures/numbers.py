"""Numbers as people read them."""

MARKS = {"better": "↑", "worse": "↓", "undecided": "≈"}
SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""


def percent(share: float) -> str:
    return f"{100 * share:.1f}{SPACE}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed, with a true minus."""
    return signed(100 * difference, ".1f")


def signed(value: float, form: str = ".3f") -> str:
    """A number with its sign, a true minus."""
    return f"{value:+{form}}".replace("-", "−")


def measure(test: str, value: float) -> str:
    """What a claim is about: points of a difference or an order, a ratio in percent, or a cosine."""
    if test == "ratio":
        return share(value)
    return signed(value) if test == "cosine" else points(value)


def span(low: float, high: float, digits: int = 1) -> str:
    """An interval of percentages: `57.1–65.2`."""
    return f"{100 * low:z.{digits}f}–{100 * high:z.{digits}f}"  # z: what rounds to 0 has no minus


def duration(seconds: float) -> str:
    """Three significant digits at most, in the unit that suits."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g}{SPACE}{unit}"
    return f"{1000 * seconds:.0f}{SPACE}ms" if seconds else f"0{SPACE}s"


def share(ratio: float) -> str:
    """A ratio as a percentage with two significant digits: `0.54 %`, `103 %`."""
    return f"{100 * ratio:.2g}{SPACE}%" if ratio < 0.1 else f"{100 * ratio:.0f}{SPACE}%"


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def about(number: int) -> str:
    """To two significant digits: `3,700`."""
    return f"{float(f'{number:.2g}'):,.0f}"


def tokens(length: float) -> str:
    """Mean tokens of a response, as the paper's Table 1 has them: `9.6k`, `85`; nothing where nothing was generated."""
    if not length:
        return ""
    return f"{length / 1000:.1f}k" if length >= 1000 else f"{length:.0f}"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
