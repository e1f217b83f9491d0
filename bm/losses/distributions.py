"""What a loss of tokens compares: the student's and a teacher's distributions over the same outcomes."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Likeliest:
    """A teacher's likeliest tokens at each label, where its logits are not there: what `teacher` of a loss then is."""

    entries: Tensor
    """[S, k] int64: the tokens, no two of a row alike."""
    log_p: Tensor
    """[S, k + 1], log-probabilities at the temperature of the loss; the last is that of all other tokens together, and
    is left out ([S, k]) where there are no others."""
    vocabulary: int
    """Tokens that there are, V; what a head has beyond them is padding, and no loss sees it."""


def distributions(logits: Tensor, teacher: Tensor | Likeliest, temperature: float) -> tuple[Tensor, Tensor]:
    """log p and log q over the same outcomes, [S, outcomes]: p of the teacher, q of the student's logits [S, V].

    By a teacher's logits the outcomes are the tokens. By its k likeliest tokens they are these and one more, in which
    all other tokens are counted together: then KL(p‖q) is that over the vocabulary less p(others) · KL(p‖q among the
    others), by the chain rule of relative entropy (Cover and Thomas, Elements of Information Theory, theorem 2.5.3).
    It is never more than that, is equal to it for k = V, and still 0 just where the student agrees on all k tokens.
    """
    if isinstance(teacher, Tensor):
        return torch.log_softmax(teacher / temperature, -1), torch.log_softmax(logits / temperature, -1)
    q = torch.log_softmax(logits / temperature, -1)
    chosen = q.gather(1, teacher.entries)
    if teacher.log_p.shape[1] == chosen.shape[1]:
        return teacher.log_p, chosen
    others = q.scatter(1, teacher.entries, -torch.inf).logsumexp(-1, keepdim=True)
    return teacher.log_p, torch.cat([chosen, others], 1)
