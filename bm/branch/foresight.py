"""A head that foresees whether the verifier will accept a response: from a model's hidden states, before it is written.

SAGE-32B (arXiv 2601.04237) has a head that foresees failures, of which no formula is published; this one is ours: a
logistic regression on the last hidden state of the prompt, and of the prompt and the response's first tokens, its plan.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from bm import parquet
from bm.branch.chat import Rendered
from bm.branch.documents import rendered
from bm.config import Head
from bm.generate.transformers_engine import load

BINS = 10
LEAST = 8
"""Responses of either kind that a fit and its test need."""
STEPS = 50
HEADS = "heads.safetensors"


def foresight(
    model: Path, traces: Path, rejected: Path, unchosen: str, head: Head, device: str, work: Path
) -> dict[str, Any]:
    """Fits a head on half of the questions and scores it on the others; the heads go to `work/heads.safetensors`.

    traces, rejected: files of a distillation whose teacher was `model`; unchosen: how the reason begins of a response
    that was accepted and is no trace. Facts: `responses`, `accepted` (a share), and `scores` by what was seen, `prompt`
    or `plan` (see `scored`); no scores if either half has too few of a kind.
    """
    accepted, refused = (rendered(model, file, pq.read_metadata(file).num_rows) for file in (traces, rejected))
    good = [reason.startswith(unchosen) for reason in parquet.read(rejected)["reason"].to_pylist()]
    samples = [*zip(accepted, [True] * len(accepted), strict=True), *zip(refused, good, strict=True)]
    labels = torch.tensor([good for _, good in samples], dtype=torch.float64)
    fitting = _half([sample.id for sample, _ in samples])
    told: dict[str, Any] = {"responses": len(samples), "accepted": float(labels.mean()), "scores": {}}
    if min(float(part.sum()) for half in (fitting, ~fitting) for part in (labels[half], 1 - labels[half])) < LEAST:
        return told
    heads: dict[str, Tensor] = {}
    for seen, tokens in (("prompt", 0), ("plan", head.plan)):
        states = _last_states(model, [sample for sample, _ in samples], tokens, device)
        weights = fitted(states[fitting], labels[fitting], head.ridge)
        told["scores"][seen] = scored(probabilities(weights, states[~fitting]), labels[~fitting])
        heads[seen] = weights
    save_file(heads, work / HEADS)
    return told


def _half(ids: Sequence[str]) -> Tensor:
    """Which responses are fitted on: every second question in the order of their ids, which are hashes."""
    place = {question: i for i, question in enumerate(sorted(set(ids)))}
    return torch.tensor([place[question] % 2 == 0 for question in ids])


@torch.inference_mode()
def _last_states(model: Path, samples: Sequence[Rendered], tokens: int, device: str) -> Tensor:
    """The last layer's state at the last token of each prompt and of the response's first `tokens`: [N, H], float64."""
    network, _ = load(model, "float32", device)
    states = []
    for sample in samples:
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids[:tokens]]], device=network.device)
        outputs = network(ids, output_hidden_states=True, logits_to_keep=1)
        states.append(outputs.hidden_states[-1][0, -1].double().cpu())
    return torch.stack(states)


def fitted(states: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """Logistic regression by Newton's method: states [N, H], labels [N] in {0, 1}, float64; weights [3, H + 1].

    Minimises Σ −log p(label) + ridge/2 · |w|² over standardised states, the intercept left free. The rows are the
    weights with the intercept last, and the means and deviations that states are standardised by.
    """
    mean, deviation = states.mean(0), states.std(0, correction=0).clamp_min(1e-12)
    x = torch.cat([(states - mean) / deviation, states.new_ones(len(states), 1)], 1)
    penalty = torch.full((x.shape[1],), ridge, dtype=x.dtype)
    penalty[-1] = 0
    w = x.new_zeros(x.shape[1])
    for _ in range(STEPS):
        p = torch.sigmoid(x @ w)
        gradient = x.t() @ (p - labels) + penalty * w
        curvature = (x * (p * (1 - p))[:, None]).t() @ x + torch.diag(penalty + 1e-9)
        step = torch.linalg.solve(curvature, gradient)
        w = w - step * min(1.0, 10.0 / float(step.norm().clamp_min(1e-12)))
        if float(step.norm()) < 1e-10:
            break
    one, zero = mean.new_ones(1), mean.new_zeros(1)
    return torch.stack([w, torch.cat([mean, zero]), torch.cat([deviation, one])])


def probabilities(weights: Tensor, states: Tensor) -> Tensor:
    """What `fitted` weights [3, H + 1] foresee for states [N, H]: [N]."""
    w, mean, deviation = weights
    return torch.sigmoid((states - mean[:-1]) / deviation[:-1] @ w[:-1] + w[-1])


def scored(foreseen: Tensor, labels: Tensor) -> dict[str, float]:
    """Calibration of probabilities [N] against labels [N] in {0, 1}.

    `brier`, mean (p − y)²; `brier_of_share`, the same if every p were the share of labels that are 1; `ece`, the
    expected calibration error: over BINS equal bins of p, Σ n/N · |mean p − mean y|.
    """
    bins = (foreseen * BINS).long().clamp(0, BINS - 1)
    gaps = [(foreseen[bins == b] - labels[bins == b]).sum().abs() for b in range(BINS)]
    share = labels.mean()
    return {
        "brier": float((foreseen - labels).square().mean()),
        "brier_of_share": float(share * (1 - share)),
        "ece": float(torch.stack(gaps).sum() / len(labels)),
        "responses": len(labels),
    }
