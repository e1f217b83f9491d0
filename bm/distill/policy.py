"""Which of a question's good responses are kept."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from bm.config import Distill

UNCHOSEN = "not chosen by "
"""How the reason begins of a good response that a policy leaves out."""


class Answered(NamedTuple):
    """A response to a question as far as the choice depends on it."""

    good: bool
    """Accepted by the verifier, and without a fault."""
    vote: str | None
    """What it says the answer is, the same for all answers that the verifier accepted; None: it says none."""
    length: int
    """Length of the whole response, in characters."""


def kept(responses: Sequence[Answered], settings: Distill) -> list[int]:
    """Places of the responses that are kept, in order. The responses are all those to one question.

    first_correct: the first good one; shortest_correct: the shortest, the first of several; all_correct: every good
    one, up to `keep`; agreement: the first good one, if more responses agree with it than with any other answer.
    """
    good = [place for place, response in enumerate(responses) if response.good]
    if not good:
        return []
    match settings.policy:
        case "first_correct":
            return good[:1]
        case "shortest_correct":
            return [min(good, key=lambda place: responses[place].length)]
        case "all_correct":
            return good[: settings.keep]
    return _agreed(responses, good)


def _agreed(responses: Sequence[Answered], good: Sequence[int]) -> list[int]:
    votes = Counter(response.vote for response in responses if response.vote is not None)
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return []
    return [place for place in good if responses[place].vote == ranked[0][0]][:1]
