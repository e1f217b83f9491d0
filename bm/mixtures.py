"""The ratios of a mixture: how much of each domain's traces the baseline is trained on."""

from collections.abc import Mapping

from bm.config import Mixture


def ratios(mixture: Mixture, traces: Mapping[str, int]) -> dict[str, float]:
    """By domain, the share of its traces that is used, above 1 for traces seen more than once; absent: all, once.

    traces: how many each domain of the mixture has, n_d. Temperature sampling (Devlin et al. 2018; Conneau and Lample
    2019) draws from domain d in proportion to n_d^(1/T), here so that the traces are as many as before: T = 1 takes
    each as it is, T → ∞ equally many of each. A ratio that is given by number comes before.
    """
    given = {domain: ratio for domain, ratio in mixture.ratio.items() if domain in traces}
    if mixture.temperature is None:
        return given
    weights = {domain: n ** (1 / mixture.temperature) for domain, n in traces.items()}
    share = sum(traces.values()) / sum(weights.values())
    return {domain: share * weight / traces[domain] for domain, weight in weights.items()} | given
