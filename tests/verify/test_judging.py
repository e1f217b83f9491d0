"""Responses that mean harm to whatever evaluates them: nothing is read, nothing written, and no process ends."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from reasoning_gym import create_dataset
from reasoning_gym.factory import DATASETS

from bm.errors import UserError
from bm.verify import Case, Verdict, reasoning_gym, verify, verify_all
from bm.verify.scorers import PLAIN, _check, _value
from tests.verify.conftest import BUBBLEWRAP, verifying

SETTINGS = verifying(seconds=20)
EVALUATE = ["spiral_matrix", "string_insertion", "binary_matrix", "n_queens", "countdown", "puzzle24",
            "simple_integration", "intermediate_integration", "polynomial_multiplication"]  # fmt: skip
"""Generators whose scorers evaluate the response."""
NO_DATA = {"composite"}
"""Has nothing to ask with default settings; a file may name it all the same."""

pytestmark = BUBBLEWRAP


def hostile(secret: Path, target: Path) -> list[str]:
    read, write = f"open({str(secret)!r}).read()", f"open({str(target)!r}, 'w').write('was here')"
    system = f"__import__('os').system('touch {target}')"
    chained = "(eval)((chr)(49))"
    return [
        read, write, system, f"[{read}]", f"[{write}]", f"[{system}]", f"[[{write}]]", "exit(3)", "[exit(3)]",
        "[__import__('os')._exit(0)]", "__import__('os').kill(__import__('os').getppid(), 9)",
        "[__import__('os').kill(-1, 9)]", "__import__('os').environ['API_KEY']", "[__import__('os').environ]",
        f"(lambda: {write})()", f"sympify({write!r})", f"S({write!r})", f"exec({write!r})", f"[exec({write!r})]",
        f"eval({write!r})", chained, "().__class__.__base__.__subclasses__()", "[*range(10**12)]", "9**9**9**9",
        "[0]*10**12", "(" * 5000, "[" * 5000, "\ud83d\ude00 \ud83d", "\x00", "1" * 100_000,
    ]  # fmt: skip


def entry(name: str) -> dict[str, Any]:
    problem: dict[str, Any] = create_dataset("chain_sum" if name in NO_DATA else name, seed=1, size=1)[0]
    problem["metadata"]["source_dataset"] = name
    return problem


def harm(names: list[str], folder: Path) -> tuple[list[Verdict], list[Case]]:
    secret, target = folder / "secret", folder / "target"
    secret.write_text("open sesame")
    cases = []
    for name in names:
        asked = entry(name)
        metadata = json.dumps(asked["metadata"], default=str)
        texts = hostile(secret, target)
        cases += [Case("reasoning_gym", text, asked["answer"] or "-", metadata) for text in texts]
    verdicts = verify_all(cases, verifying(seconds=1))
    assert len(verdicts) == len(cases)
    assert sorted(path.name for path in folder.iterdir()) == ["secret"]
    assert not any("sesame" in verdict.reason for verdict in verdicts)
    return verdicts, cases


@pytest.mark.parametrize("names", [["spiral_matrix"], ["countdown"]])
def test_thirty_hostile_responses_do_no_harm(names, tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY", "open sesame")
    verdicts, _ = harm(names, tmp_path)
    assert len(verdicts) == 30 and not any(verdict.accepted for verdict in verdicts)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DATASETS))
def test_hostile_responses_to_every_generator(name, tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY", "open sesame")
    harm([name], tmp_path)


@pytest.mark.slow
def test_every_generator_accepts_its_own_answer():
    entries = [entry(name) for name in sorted(set(DATASETS) - NO_DATA)]
    asked = [problem for problem in entries if isinstance(problem["answer"], str)]  # a few have no single answer
    cases = [
        Case("reasoning_gym", problem["answer"], problem["answer"], json.dumps(problem["metadata"], default=str))
        for problem in asked
    ]
    refused = [
        json.loads(case.metadata)["source_dataset"]
        for case, verdict in zip(cases, verify_all(cases, SETTINGS), strict=True)
        if not verdict.accepted
    ]
    assert len(cases) > 90 and refused == []


@pytest.mark.parametrize("name", ["arc_agi", "rearc", "spiral_matrix", "countdown", "simple_integration"])
def test_a_generator_accepts_its_own_answer_after_json(name):
    problem = entry(name)
    case = Case("reasoning_gym", problem["answer"], problem["answer"], json.dumps(problem["metadata"], default=str))
    assert verify(case, SETTINGS).accepted
    assert not verify(case._replace(response="7"), SETTINGS).accepted


def test_the_scorer_is_asked_once_whether_it_honours_its_own_answer(monkeypatch):
    asked: list[Any] = []

    def scorer(_: str, arguments: list[Any], __: Any) -> bool:
        asked.append(arguments)
        return bool(arguments[0] == arguments[1]["answer"])

    monkeypatch.setattr(reasoning_gym, "judgement", scorer)
    monkeypatch.setattr(reasoning_gym, "_honoured", set())
    metadata = json.dumps({"source_dataset": "a generator of this test"})
    cases = [Case("reasoning_gym", text, reference, metadata) for text, reference in
             [("5", "6"), ("6", "6"), ("7", "7"), ("5", "6"), ("7", "8")]]  # fmt: skip
    assert [verify(case, SETTINGS).accepted for case in cases] == [False, True, True, False, False]
    assert [arguments[0] for arguments in asked] == ["5", "6", "7"]


def test_the_metadata_of_a_file_is_no_program_either(tmp_path):
    target = tmp_path / "target"
    problem = entry("simple_integration")
    metadata = problem["metadata"] | {"integrand": f"open({str(target)!r}, 'w')"}
    assert not verify(Case("reasoning_gym", "y", "x", json.dumps(metadata)), SETTINGS).accepted
    assert not target.exists()


def test_what_stands_in_for_an_evaluator_reads_values_only():
    assert _value("[[1, -2], 'a']") == [[1, -2], "a"] and _value("(0x1f + 2) * 3") == 99
    for text in ("exit", "f()", "[x for x in ()]", "(1).real", "f'{1}'"):
        with pytest.raises(ValueError, match="no literal"):
            _value(text)
    for text in ("2*x**2/3 + sqrt(x)*exp(-.5*x) + C", "(1 + 2.)*3 - 4", "log(x)"):
        _check(text, {})
    for text in ("exit(3)", "eval (x)", "(eval)(x)", "x.diff", "2 .real", "'a'", "x[0]", "a=1", "__a", "lambda: 1"):
        with pytest.raises(ValueError, match="no formula"):
            _check(text, {})
    assert PLAIN


def test_a_scorers_exception_is_a_refusal_with_its_reason():
    problem = entry("prime_factorization")
    case = Case("reasoning_gym", "it is 2 and 3", problem["answer"], json.dumps(problem["metadata"]))
    verdict = verify(case, SETTINGS)
    assert not verdict.accepted and verdict.reason.startswith("scorer failed: ValueError")
    assert verdict.kind == "scorer failed"
    unknown = verify(case._replace(metadata='{"source_dataset": "nothing"}'), SETTINGS)
    assert "no generator 'nothing'" in unknown.reason


def broken(*_: Any) -> Verdict:
    raise KeyError("surprise")


def test_any_verifiers_exception_is_a_refusal(monkeypatch):
    monkeypatch.setattr("bm.verify.number.judge", broken)
    verdict = verify(Case("number", "1", "1", ""), SETTINGS)
    assert verdict == Verdict(False, "verifier failed: KeyError: 'surprise'", "1")


def test_a_verifier_that_returns_no_verdict_is_a_mistake_of_its_author(monkeypatch):
    monkeypatch.setattr("bm.verify.number.judge", lambda *_: True)
    with pytest.raises(
        UserError, match=r"verify\.verifiers\.number: returned True in place of a `bm\.verify\.Verdict`"
    ):
        verify(Case("number", "1", "1", ""), SETTINGS)


def test_an_accepted_response_has_no_reason_whatever_its_verifier_says(monkeypatch):
    monkeypatch.setattr("bm.verify.number.judge", lambda *_: Verdict(True, "too far", "1"))
    assert verify(Case("number", "1", "1", ""), SETTINGS) == Verdict(True, "", "1")


def test_a_comparison_cannot_see_files_and_sandboxes_are_kept(tmp_path):
    """Also where runs keep their judges' answers in folders of their own."""
    from bm.verify.judging import judgement

    assert verify(Case("math", "\\boxed{\\pi/2}", "\\frac{\\pi}{2}", ""), SETTINGS).accepted
    before = {id(running) for idle in judgement._idle.values() for _, running in idle.queue}
    elsewhere = verifying(seconds=20, answers=tmp_path)
    assert verify(Case("math", "\\boxed{\\pi/3}", "\\frac{\\pi}{3}", ""), elsewhere).accepted
    after = {id(running) for idle in judgement._idle.values() for _, running in idle.queue}
    assert before == after and before
    for idle in list(judgement._idle.values()):
        for _, running in list(idle.queue):
            command = Path(f"/proc/{running._process.pid}/cmdline").read_bytes()
            assert Path(os.fsdecode(command.split(b"\0")[0])).name == "bwrap"
