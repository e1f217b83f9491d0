"""What a user is told when the input is at fault."""

import difflib
import errno
from collections.abc import Iterable

REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip
"""What an operating system answers where a path cannot be read or written as asked: no fault of the program's."""


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong, where, and what to do. Shown without a traceback."""


def nearest(word: str, options: Iterable[str], before: str = "") -> str:
    """A hint `; did you mean 'x'?` when an option resembles `word`, else the options themselves when they are few.

    before: what stands in front of each option where the user writes it, as the settings above it.
    """
    options = sorted(option for option in set(options) if not option.startswith("_"))
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{before}{close[0]}'?"
    if 0 < len(options) <= 12:
        return f"; choose from {', '.join(options)}"
    return ""


def refusal(problem: OSError) -> UserError | None:
    """What to tell a user whose disk is full, whose folder is read-only or the like; None for any other error."""
    if problem.errno not in REFUSED:
        return None
    where = "" if problem.filename is None else f"{problem.filename}: "
    return UserError(f"{where}{problem.strerror}; free or choose another place, then rerun the command to resume")
