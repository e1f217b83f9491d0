"""Losses of relations: how the traces of a pack lie to each other in the space of representations."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

NotNegative = Annotated[float, Field(ge=0)]


def rkd(features: Tensor, teacher: Tensor, *, distance: NotNegative, angle: NotNegative) -> Tensor:
    """Relational distillation: distance · L_D + angle · L_A, the traces' geometry as the teacher sees it.

    features [N, H] and teacher [N, H'] may differ in width. L_D is the mean over pairs of Huber's loss between
    ‖xᵢ − xⱼ‖/μ of teacher and student, μ their mean over pairs; L_A the same of cos ∠ xᵢxⱼxₖ over triples. RKD, arXiv
    1904.05068, equations 4 to 9 (Huber's δ = 1). Zero for fewer than two traces.
    """
    if len(features) < 2:
        return features.sum() * 0.0
    loss = distance * smooth_l1_loss(_distances(features), _distances(teacher))
    if len(features) > 2:
        loss = loss + angle * smooth_l1_loss(_angles(features), _angles(teacher))
    return loss


def _distances(x: Tensor) -> Tensor:
    """‖xᵢ − xⱼ‖ over their mean, for every pair i < j: [N (N − 1) / 2]."""
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    apart: Tensor = torch.linalg.vector_norm(x[i] - x[j], dim=-1)
    return apart / apart.mean().clamp_min(torch.finfo(x.dtype).tiny)


def _angles(x: Tensor) -> Tensor:
    """cos ∠ xᵢxⱼxₖ at every j, for i ≠ j ≠ k ≠ i: [N (N − 1) (N − 2)]."""
    from_j = normalize(x[None] - x[:, None], dim=-1)  # [j, i, H]
    cosines = from_j @ from_j.transpose(1, 2)
    same = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return cosines[~(same[:, :, None] | same[:, None, :] | same[None])]


def contrast(
    features: Tensor, domains: Tensor, *, weight: NotNegative, temperature: Annotated[float, Field(gt=0)]
) -> Tensor:
    """Supervised contrast: traces of a domain are near each other, and far from those of the others.

    weight · mean over i, and over i's partners p of the same domain, of −log (exp(sᵢₚ) / Σ_{a ≠ i} exp(sᵢₐ)), s the
    cosine over the temperature: SupCon, arXiv 2004.11362, equation 2. PCKD (arXiv 2410.14143) contrasts the categories
    of images so; domains in their place are an adaptation. Zero where a pack has one domain, or no two traces of any.
    """
    same = domains[:, None] == domains[None]
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    partners = same & ~itself
    if bool(same.all()) or not bool(partners.any()):
        return features.sum() * 0.0
    x = normalize(features, dim=-1)
    alike = (x @ x.t() / temperature).masked_fill(itself, -torch.inf)
    likelihood = alike - alike.logsumexp(1, keepdim=True)
    of_partners = torch.where(partners, likelihood, 0.0).sum(1) / partners.sum(1).clamp_min(1)
    return -weight * of_partners[partners.any(1)].mean()
