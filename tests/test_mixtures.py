"""Ratios of a mixture, against what they promise."""

from hypothesis import given
from hypothesis import strategies as st

from bm.config import Mixture
from bm.mixtures import ratios

SIZES = st.dictionaries(st.sampled_from(["math", "coding", "science"]), st.integers(1, 100_000), min_size=1)


def mixture(ratio: dict[str, float] | None = None, temperature: float | None = None) -> Mixture:
    return Mixture("m", ratio or {}, temperature, None, {})


@given(SIZES, st.floats(1, 1e6))
def test_temperature_keeps_the_number_of_traces_and_the_law(sizes: dict[str, int], temperature: float) -> None:
    used = {d: ratio * sizes[d] for d, ratio in ratios(mixture(temperature=temperature), sizes).items()}
    assert abs(sum(used.values()) - sum(sizes.values())) < 1e-6 * sum(sizes.values())
    for domain in sizes:
        for other in sizes:  # n_d^(1/T) up to a common factor
            law = (sizes[domain] / sizes[other]) ** (1 / temperature)
            assert abs(used[domain] / used[other] - law) < 1e-9 * law


def test_between_as_it_is_and_equally_many() -> None:
    sizes = {"math": 4000, "coding": 1000}
    assert ratios(mixture(temperature=1.0), sizes) == {"math": 1.0, "coding": 1.0}
    flat = ratios(mixture(temperature=1e9), sizes)
    assert {d: round(flat[d] * sizes[d]) for d in sizes} == {"math": 2500, "coding": 2500}
    assert ratios(mixture(temperature=2.0), {"math": 900, "coding": 100})["coding"] == 1000 * 10 / (30 + 10) / 100


def test_numbers_come_first_and_none_are_none() -> None:
    assert ratios(mixture({"math": 0.5}), {"math": 10, "coding": 20}) == {"math": 0.5}
    assert ratios(mixture({"math": 0.5}, 1.0), {"math": 10, "coding": 20}) == {"math": 0.5, "coding": 1.0}
    assert ratios(mixture({"math": 0.5}), {"coding": 20}) == {}, "a domain that is left out"
