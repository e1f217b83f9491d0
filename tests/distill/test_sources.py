from itertools import islice

import pytest

from bm.distill.selection import part_of, select
from bm.distill.sources.reasoning_gym import Generator, stream
from bm.errors import UserError

SUMS = {"chain_sum": Generator(1, {"max_terms": 2})}


def first(count, generators, seed=3):
    return list(islice(stream("math", generators, seed), count))


def test_the_same_seed_gives_the_same_questions_and_another_others(domain):
    drawn, again, other = (list(islice(domain.source(domain.name, seed=s), 200)) for s in (7, 7, 8))
    assert drawn == again
    assert drawn != other


def test_every_generator_of_a_domain_is_asked_by_its_weight(domain):
    weights = {name: g["weight"] for name, g in domain.source.parameters["generators"].items()}
    sources = [q.source for q in islice(domain.source(domain.name, seed=0), 2000)]
    assert set(sources) == set(weights)
    for name, weight in weights.items():
        assert sources.count(name) / 2000 == pytest.approx(weight / sum(weights.values()), abs=0.05)


def test_no_evaluation_question_is_among_the_training_questions_of_any_seed(domain):
    evaluation = {q.prompt for q in select(domain.source(domain.name, seed=1), "evaluate", domain.questions, "")[0]}
    assert len(evaluation) == domain.questions >= 150
    for seed in (1, 2):
        for part in ("student", "train"):
            training = {q.prompt for q in select(domain.source(domain.name, seed=seed), part, 1000, "")[0]}
            assert not training & evaluation


def test_questions_depend_on_nothing_but_the_arguments(domain):
    """Metadata such as today's date would change the key and the bytes of what is made from it."""
    questions = list(islice(domain.source(domain.name, seed=5), 300))
    assert {part_of(q) for q in questions} == {"evaluate", "student", "train"}
    from datetime import date

    assert not any(str(date.today().year) in q.metadata and str(date.today()) in q.metadata for q in questions)


def test_an_unknown_generator_is_named_with_its_neighbour():
    with pytest.raises(UserError, match="no generator 'chain_summ'; did you mean 'chain_sum'"):
        first(1, {"chain_summ": Generator(1, {})})


@pytest.mark.parametrize("parameters", [{"terms": 2}, {"min_terms": 5, "max_terms": 2}])
def test_refused_parameters_are_one_line(parameters):
    with pytest.raises(UserError, match="chain_sum refuses its parameters") as caught:
        first(1, {"chain_sum": Generator(1, parameters)})
    assert "\n" not in str(caught.value)


def test_questions_of_one_generator_differ():
    assert len({q.prompt for q in first(200, SUMS)}) > 100
