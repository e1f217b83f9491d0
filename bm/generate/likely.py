"""What a server of vLLM's kind says of a prompt's tokens, read into the likeliest of each place."""

from collections.abc import Mapping, Sequence
from typing import Any

from bm.errors import UserError
from bm.generate.samples import Likely


def likely(text: int, ids: Sequence[int], start: int, said: Sequence[Any] | None, k: int) -> Likely:
    """said: by token of the text None or {token: log-probability}, the k likeliest and the text's own.

    UserError where it is shorter than the text, has fewer than k tokens at a place, or lacks the text's own: then its
    numbers are not of these tokens.
    """
    if said is None or len(said) != len(ids):
        raise UserError(f"what the engine says is of {len(said or ())} tokens and not of the {len(ids)} that were sent")
    entries, log_p = [], []
    for place in range(start, len(ids)):
        held = {int(token): _value(about) for token, about in (said[place] or {}).items()}
        best = sorted(held, key=lambda token: (-held[token], token))[:k]
        if ids[place] not in held or len(best) < k:
            raise UserError(f"the engine says of token {place} the log-probabilities of {len(held)} tokens, which are "
                            f"not its {k} likeliest and the token itself, {ids[place]}")  # fmt: skip
        entries.append(best)
        log_p.append([held[token] for token in best])
    return Likely(text, entries, log_p)


def _value(about: Mapping[str, float] | float) -> float:
    return float(about["logprob"] if isinstance(about, Mapping) else about)
