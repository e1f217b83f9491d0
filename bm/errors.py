"""What a user is told when the input is at fault."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong, where, and what to do. Shown without a traceback."""


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?` when an option resembles `word`, else the options themselves when they are few."""
    options = sorted(set(options))
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    if 0 < len(options) <= 12:
        return f"; choose from {', '.join(options)}"
    return ""
