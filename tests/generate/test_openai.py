"""The OpenAI-compatible engine: what reaches the endpoint, what comes back, and what each failure means."""

import json
import threading
import time
from collections import Counter

import pytest

from bm.config import Component, typed
from bm.errors import UserError
from bm.generate import Sample, Sampling, endpoint, sample
from bm.generate.engines import openai
from bm.generate.openai_engine import AWAY
from bm.generate.price import Price
from tests.generate.server import FAULTS

SAMPLING = Sampling(n=3, temperature=0.6, top_p=0.95, max_new_tokens=64, seed=1)
ONE = Sampling(1, 0, 1, 64, 0)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)


def engine(server, **changes):
    settings = {"served": "r1", "base_url": server.url, "key": None, "parallel": 4, "timeout": 60, "retries": 2,
                "refused": "stop", "price": None, "budget": None}  # fmt: skip
    return openai(None, **(settings | changes))


def faults(*kinds):
    """The first requests go wrong in these ways."""
    return lambda number: kinds[number - 1] if number <= len(kinds) else None


def test_conversations_sampling_and_seeds_reach_the_endpoint(server, tmp_path):
    asked = engine(server)
    prompts = [asked.render([{"role": "system", "content": "Think."}, {"role": "user", "content": q}]) for q in "ab"]
    got = sample(asked, [*prompts, "plain"], SAMPLING, tmp_path / "j.jsonl")
    assert [[s.response for s in row] for row in got] == [["A"] * 3, ["B"] * 3, ["PLAIN"] * 3]
    assert {(s.prompt_tokens, s.tokens, s.finished) for s in got[2]} == {(5, 10, True)}
    first = next(r for r in server.requests if r["messages"][-1]["content"] == "a")
    assert first["messages"][0] == {"role": "system", "content": "Think."}
    expected = {"model": "r1", "temperature": 0.6, "top_p": 0.95, "max_tokens": 64}
    assert first | expected == first
    assert "stop" not in first
    assert len({r["seed"] for r in server.requests}) == 9
    assert all(0 <= r["seed"] < 2**31 for r in server.requests)
    seeds = Counter((json.dumps(r["messages"]), r["seed"]) for r in server.requests)
    sample(asked, [*prompts, "plain"], SAMPLING, tmp_path / "again.jsonl")
    assert Counter((json.dumps(r["messages"]), r["seed"]) for r in server.requests[9:]) == seeds


def test_as_many_requests_as_told_are_under_way_together(server, tmp_path):
    server.gate = threading.Barrier(3)
    sample(engine(server, parallel=3), ["a", "b"], SAMPLING, tmp_path / "j.jsonl")
    assert len(server.requests) == 6


def test_only_a_window_of_many_questions_is_ever_queued(server):
    """No answer is asked for before there is room for it: what is not yet handed on never exceeds `parallel`."""
    batches = engine(server, parallel=4).generate([f"q{i}" for i in range(5000)], ONE)
    taken = 0
    for _ in range(5):
        taken += len(next(batches))
        time.sleep(0.05)
        assert len(server.requests) <= taken + 4
    batches.close()
    assert len(server.requests) <= taken + 4


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_that_comes_apart_is_put_back(server, tmp_path, field):
    server.message = lambda body: {field: "two and two\n", "content": "4"}
    ((got,),) = sample(engine(server), ["2+2"], ONE, tmp_path / "j.jsonl")
    assert got.response == "<think>\ntwo and two\n</think>\n\n4"
    server.message, server.finish = lambda body: {field: "two and"}, "length"
    ((got,),) = sample(engine(server), ["2+3"], ONE, tmp_path / "j.jsonl")
    assert (got.response, got.finished) == ("<think>\ntwo and", False)


def test_a_thought_within_the_content_stays_as_it_is(server, tmp_path):
    server.message = lambda body: {"content": "<think>\ntwo\n</think>\n\n4"}
    ((got,),) = sample(engine(server), ["2+2"], ONE, tmp_path / "j.jsonl")
    assert got.response == "<think>\ntwo\n</think>\n\n4"


@pytest.mark.parametrize("kind", FAULTS)
def test_what_may_succeed_later_is_asked_again(server, tmp_path, kind):
    """A busy machine may be silent by itself, for longer than the half second that is waited here."""
    server.fault = faults(kind, kind)
    patience = {"timeout": 0.5, "retries": 30} if kind == "silence" else {}
    ((got,),) = sample(engine(server, **patience), ["a"], ONE, tmp_path / "j.jsonl")
    assert got.response == "A"
    assert len(server.requests) == 3 or (kind == "silence" and len(server.requests) > 3)
    assert len({r["seed"] for r in server.requests}) == 1


def test_retry_after_holds_back_every_request(server, tmp_path):
    server.fault = faults(None, None, None, None, "rate limit")
    sample(engine(server, parallel=1), list("abcdefgh"), ONE, tmp_path / "j.jsonl")
    assert server.impatient == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("Fri, 31 Dec 1999 23:59:59 GMT", 0), ("soon", 0)],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header, seconds):
    problem = Exception()
    problem.response = type("Response", (), {"headers": {"retry-after": header}})
    assert endpoint._retry_after(problem) == seconds


def test_a_request_that_always_fails_does_not_lose_the_others(server, tmp_path):
    journal, questions = tmp_path / "j.jsonl", [f"q{i}" for i in range(40)]
    bad = {"q3", "q17"}
    server.fault = lambda number: "busy" if server.requests[-1]["messages"][0]["content"] in bad else None
    with pytest.raises(UserError, match=r"2 of 40 responses are missing \(.*busy.*rerun the command to resume") as said:
        sample(engine(server), questions, ONE, journal)
    assert str(said.value).count("\n") == 0
    assert len(journal.read_text().splitlines()) == 38
    bad, before = set(), len(server.requests)
    assert len(sample(engine(server), questions, ONE, journal)) == 40
    assert sorted(r["messages"][0]["content"] for r in server.requests[before:]) == ["q17", "q3"]


def test_a_dead_endpoint_is_given_up(server, tmp_path):
    server.fault = lambda number: "busy"
    with pytest.raises(UserError, match="500 of 500 responses are missing"):
        sample(engine(server, retries=0), [f"q{i}" for i in range(500)], ONE, tmp_path / "j.jsonl")
    assert len(server.requests) <= AWAY + 4


@pytest.mark.parametrize(("status", "line"), [(401, "refuses the key"), (402, "credit"), (404, "no such model")])
def test_what_no_retry_changes_stops_at_once(server, tmp_path, status, line, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-s3cret")
    server.status = status
    with pytest.raises(UserError, match=line) as said:
        sample(engine(server, key="SOME_KEY"), [f"q{i}" for i in range(50)], ONE, tmp_path / "j.jsonl")
    assert len(server.requests) <= 4
    assert "s3cret" not in str(said.value)
    assert "Bearer ***" in str(said.value), "the endpoint's own words, the key taken out"
    assert said.value.__cause__ is None


def test_a_refused_question_is_an_error_or_an_empty_response_but_never_if_all_are(server, tmp_path):
    questions = [f"q{i}" for i in range(12)]
    server.status = 400
    with pytest.raises(UserError, match="12 of 12"):
        sample(engine(server, refused="empty"), questions, ONE, tmp_path / "all.jsonl")
    server.status = None
    sample(engine(server), questions[:1], ONE, tmp_path / "j.jsonl")
    server.status = 400
    with pytest.raises(UserError, match="11 of 11"):
        sample(engine(server), questions, ONE, tmp_path / "j.jsonl")
    got = sample(engine(server, refused="empty"), questions, ONE, tmp_path / "j.jsonl")
    assert [row[0].response for row in got] == ["Q0"] + [""] * 11
    assert got[1] == [Sample(1, 0, "", 0, False)]


def test_stop_strings_and_keys(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    sample(engine(server, key="SOME_KEY"), ["a"], Sampling(1, 0, 1, 64, 0, ("Q:",)), tmp_path / "j.jsonl")
    assert server.requests[0]["stop"] == ["Q:"]
    assert server.secret == "Bearer s3cret"
    assert "s3cret" not in json.dumps(engine(server, key="SOME_KEY").facts())
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(UserError, match="set the environment variable SOME_KEY"):
        engine(server, key="SOME_KEY")


@pytest.mark.parametrize("changes", [{"key": "sk-s3cret"}, {"base_url": "https://me:s3cret@x.org/v1"}])
def test_a_secret_in_the_settings_is_refused_without_repeating_it(changes):
    from bm.config import Target

    node = {"_target_": "bm.generate.engines.openai", "served": "m", "base_url": "https://x.org/v1", "key": None}
    assert isinstance(typed(Target, node), Component)
    with pytest.raises(UserError, match="environment") as said:
        typed(Target, node | changes)
    assert "s3cret" not in str(said.value)


PRICE = Price(input=1.0, output=1e4)
"""A question of two characters costs 2e-6 and the four tokens of its answer 0.04; at worst it is 0.64."""


def test_a_budget_is_never_passed_and_more_of_it_goes_on(server, tmp_path):
    journal, questions = tmp_path / "j.jsonl", [f"{a}{b}" for a in "abcdef" for b in "0123456789"]
    with pytest.raises(
        UserError, match=r"budget of 1.5 .*: (0.8\d*|0.9) spent, \d+ answered, \d+ to go; raise it"
    ) as said:
        sample(engine(server, price=PRICE, budget=1.5), questions, ONE, journal)
    assert str(said.value).count("\n") == 0
    first = len([line for line in journal.open() if "response" in line])
    assert first == len(server.requests) == sum(server.answered.values())
    assert PRICE.of(server.bill["prompt"], server.bill["output"]) <= 1.5
    assert PRICE.of(server.bill["prompt"], server.bill["output"]) + 0.64 + 0.04 > 1.5, "stopped no earlier than it must"
    got = sample(engine(server, price=PRICE, budget=100), questions, ONE, journal)
    assert set(server.answered.values()) == {1}
    assert len(server.requests) == 60
    paid = PRICE.total(s for row in got for s in row)
    assert paid == pytest.approx(PRICE.of(server.bill["prompt"], server.bill["output"]), rel=1e-12)


def test_a_budget_needs_a_price_and_token_counts(server, tmp_path):
    with pytest.raises(UserError, match="needs a price"):
        engine(server, budget=1)
    server.usage = False
    with pytest.raises(UserError, match="no token counts"):
        sample(engine(server, price=PRICE, budget=100), ["a"], ONE, tmp_path / "j.jsonl")
    assert sample(engine(server, price=PRICE), ["a"], ONE, tmp_path / "j.jsonl")[0][0].response == "A"


WORST = PRICE.of(len("q0") + 64, 64)
"""The most that an attempt at a question of two characters can cost."""


def billed_attempts(server, kind):
    """Every attempt goes wrong in this way, and each is on the endpoint's bill with all that it could generate."""
    server.fault = lambda number: kind


@pytest.mark.parametrize("kind", ["busy", "cut within", "silence", "error within", "broken off"])
def test_a_budget_holds_where_failed_attempts_are_billed_and_a_resume_does_not_pass_it(server, tmp_path, kind):
    """Room for one attempt begins one: neither its retries, nor the other questions, nor the next run, have any."""
    billed_attempts(server, kind)
    for most, begun in ((1.5 * WORST, 1), (1.5 * WORST, 1), (3.5 * WORST, 3), (3.5 * WORST, 3)):
        with pytest.raises(UserError, match=rf"budget of {most:g} .* 0 answered, 6 to go") as said:
            patience = 0.3 if kind == "silence" else 60
            limited = engine(server, price=PRICE, budget=most, retries=5, timeout=patience)
            sample(limited, [f"q{i}" for i in range(6)], ONE, tmp_path / "j.jsonl")
        assert len(server.requests) == begun
        assert f"{begun * WORST:.4g} spent" in str(said.value)
        assert f"{begun} failed attempt" in str(said.value)


def test_an_attempt_is_charged_on_the_disk_before_it_begins(server, tmp_path):
    """A process that is killed with requests under way has them on its bill."""
    journal, seen = tmp_path / "j.jsonl", []
    server.fault = lambda number: seen.append(journal.read_text().count('"attempts": 1'))
    sample(engine(server, price=PRICE, parallel=1), [f"q{i}" for i in range(3)], ONE, journal)
    assert seen == [1, 2, 3]


def test_requests_that_were_turned_away_cost_nothing(server, tmp_path):
    server.fault = faults(*["rate limit"] * 4)
    limited = engine(server, price=PRICE, budget=1.5 * WORST, retries=5)
    ((got,),) = sample(limited, ["q0"], ONE, tmp_path / "j.jsonl")
    assert got.response == "Q0"
    assert limited.failed({(0, 0): got}) == {}


def test_a_retry_without_room_is_asked_when_what_is_under_way_has_left_some(server, tmp_path):
    server.fault = faults("cut within")
    limited = engine(server, price=PRICE, budget=2.2 * WORST, parallel=2)
    got = sample(limited, [f"q{i}" for i in range(4)], ONE, tmp_path / "j.jsonl")
    assert [s.response for (s,) in got] == ["Q0", "Q1", "Q2", "Q3"]
    bill = limited.bill({(p, 0): s for p, (s,) in enumerate(got)})
    assert bill == {"cost": 0.160008, "failed_attempts": 1, "failed_at_most": pytest.approx(WORST)}


def waits(*_):
    raise AssertionError("it waits for what will not come")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/v1", "http://nobody.invalid/v1"])
def test_an_endpoint_that_cannot_be_reached_is_one_line_at_once(tmp_path, address, monkeypatch):
    monkeypatch.setattr(endpoint.Endpoint, "_pause", waits)
    asked = openai(None, "r1", address, None, 4, 60, 8, "stop", None, None)
    with pytest.raises(UserError, match=rf"{address} \(r1\) cannot be reached: .*check its base_url") as said:
        sample(asked, [f"q{i}" for i in range(50)], ONE, tmp_path / "j.jsonl")
    assert "\n" not in str(said.value)


def test_a_server_that_dies_is_asked_again_and_that_is_shown(server, tmp_path, capsys):
    asked = engine(server, retries=1, parallel=1)
    sample(asked, ["a"], ONE, tmp_path / "j.jsonl")
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"2 of 2 responses are missing .*refused.*rerun the command to resume"):
        sample(asked, ["b", "c"], ONE, tmp_path / "j.jsonl")
    shown = capsys.readouterr().err.split("asked again in")
    assert len(shown) == 2, "one line for all in ten seconds"
    assert "attempt 2 of 2" in shown[1]


def test_an_emoji_in_two_halves_is_one_and_costs_nothing_again(server, tmp_path):
    server.message = lambda body: {"content": "\ud83d\ude00"}  # the server sends each half in a piece of its own
    for _ in range(2):
        ((got,),) = sample(engine(server), ["a"], ONE, tmp_path / "j.jsonl")
        assert got.response == "\U0001f600"
    server.message = lambda body: {"content": "x\ud83d"}
    for _ in range(2):
        ((got,),) = sample(engine(server), ["b"], ONE, tmp_path / "j.jsonl")
        assert got.response == "x\ufffd"
    assert len(server.requests) == 2


def test_an_address_that_answers_with_a_web_page_is_one_line_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint.Endpoint, "_pause", waits)
    server.fault = lambda number: "page"
    with pytest.raises(UserError, match=r"cannot be reached: a web page came back.*check its base_url") as said:
        sample(engine(server, price=PRICE), [f"q{i}" for i in range(9)], ONE, tmp_path / "j.jsonl")
    assert "\n" not in str(said.value)


def test_a_web_page_in_the_middle_is_asked_again(server, tmp_path):
    server.fault = faults(None, "page")
    got = sample(engine(server, parallel=1), ["a", "b"], ONE, tmp_path / "j.jsonl")
    assert [s.response for (s,) in got] == ["A", "B"]
    assert len(server.requests) == 3


def test_an_endpoint_uses_no_gpu_of_this_machine(server):
    assert engine(server).facts()["gpus"] == 0
