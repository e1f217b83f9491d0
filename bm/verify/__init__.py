"""Response + reference → verdict and reason. What filters a teacher's responses also grades a model's."""

from collections.abc import Callable
from typing import NamedTuple

from bm.errors import UserError, nearest
from bm.verify import reasoning_gym


class Verdict(NamedTuple):
    """Whether a response was accepted, why not (else ""), and the final answer that was judged (if any, else "")."""

    accepted: bool
    reason: str
    answer: str


VERIFIERS: dict[str, Callable[[str, str, str], bool]] = {"reasoning_gym": reasoning_gym.correct}
"""Each takes a final answer, the reference answer and the question's metadata (JSON)."""


def verify(name: str, response: str, answer: str, metadata: str) -> Verdict:
    """Judge a whole response, reasoning included, with the verifier `name` against the reference `answer`.

    Only what follows the end of the reasoning counts, so reasoning that was never opened or never closed is refused
    whatever it contains. UserError if there is no such verifier.
    """
    if name not in VERIFIERS:
        raise UserError(f"no verifier '{name}'{nearest(name, VERIFIERS)}")
    if "<think>" not in response:
        return Verdict(False, "no reasoning", "")
    _, closed, final = response.rpartition("</think>")
    if not closed or "<think>" in final:
        return Verdict(False, "unclosed reasoning", "")
    final = final.strip()
    if not final:
        return Verdict(False, "no answer", "")
    if not VERIFIERS[name](final, answer, metadata):
        return Verdict(False, "wrong answer", final)
    return Verdict(True, "", final)
