"""Response + reference → verdict and reason. What filters a teacher's responses also grades a model's."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bm.config import Verify
from bm.errors import UserError, nearest
from bm.progress import Bar
from bm.rooms import called
from bm.verify import llm, thinking
from bm.verify.cases import AGREED, DISAGREED, JUDGED, BrokenCaseError, Case, Verdict
from bm.verify.judging import NoJudgementError

__all__ = [
    "AGREED", "DISAGREED", "JUDGED", "Case", "Grader", "Verdict", "check", "disagreement", "verify", "verify_all",
]  # fmt: skip

APART = ("math", "code", "reasoning_gym")
"""Verifiers that wait for processes of their own, and so can judge several responses at a time."""


def check(name: str, settings: Verify) -> None:
    """UserError unless there is a verifier of that name: one of `verify.verifiers`, or `judge`."""
    known = (*settings.verifiers, "judge")
    if name not in known:
        own = f"; a function of your own is +verify.verifiers.{name}._target_=MODULE.FUNCTION"
        raise UserError(f"there is no verifier '{name}'{nearest(name, known)}{own}")


def verify(case: Case, settings: Verify) -> Verdict:
    """Judge one response by what follows its reasoning, all of it if there was none.

    A thought that never ended is refused whatever it contains. UserError if there is no such verifier, or not what it
    needs: a sandbox, an LLM.
    """
    return verify_all([case], settings)[0]


def verify_all(cases: Sequence[Case], settings: Verify) -> list[Verdict]:
    """The verdicts in order, the same as one by one."""
    return Grader(settings).verdicts(cases)


class Grader:
    """Verdicts for one distillation, evaluation or file, and an account of what an LLM said for them."""

    def __init__(self, settings: Verify, asked_by: str = "") -> None:
        """asked_by: who is to bear the cost of what the LLM has not been asked before."""
        self._settings, self._judge = settings, llm.Judge(settings, asked_by)

    def verdicts(self, cases: Sequence[Case], bar: Bar | None = None) -> list[Verdict]:
        """In order, the same as one by one; programs and formulas are judged several at a time. See `verify`."""
        settings = self._settings
        for name in {case.verifier for case in cases}:
            check(name, settings)
        texts = [thinking.answer(case.response).strip() for case in cases]
        asked = [k for k, case in enumerate(cases) if case.verifier == "judge" and texts[k]]
        said = self._judge.verdicts([(texts[k], cases[k]) for k in asked]) if asked else []
        judged = dict(zip(asked, said, strict=True))

        def verdict_of(place: int) -> Verdict:
            verdict = judged.get(place) or _verdict(cases[place], texts[place], settings)
            if bar:
                bar.advance(1)
            return verdict

        apart = [k for k, case in enumerate(cases) if case.verifier in APART]
        with ThreadPoolExecutor(settings.parallel or len(os.sched_getaffinity(0))) as pool:
            under_way = {k: pool.submit(verdict_of, k) for k in apart}
            try:
                return [under_way[k].result() if k in under_way else verdict_of(k) for k in range(len(cases))]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def facts(self) -> dict[str, Any]:
        """Under `judge`, the LLM's engine and what its answers took (`attempts.account`); nothing if none was asked."""
        told = self._judge.facts()
        return {"judge": told} if told else {}


def _verdict(case: Case, text: str, settings: Verify) -> Verdict:
    if thinking.unclosed(case.response):
        return Verdict(False, "unclosed reasoning", "")
    if not text:
        return Verdict(False, "no answer", "")
    try:
        verdict: Any = settings.verifiers[case.verifier](text, case.answer, case.fields(), settings)
    except UserError:
        raise
    except BrokenCaseError as problem:
        return Verdict(False, f"broken question: {problem}", "")
    except NoJudgementError as problem:
        return Verdict(False, str(problem), text)
    except Exception as problem:  # no response may end a run
        return Verdict(False, f"verifier failed: {type(problem).__name__}: {problem}", text)
    if not isinstance(verdict, Verdict):
        raise UserError(f"verify.verifiers.{case.verifier}: returned {verdict!r} in place of a `bm.verify.Verdict`")
    return verdict._replace(reason="") if verdict.accepted else verdict


def disagreement(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    """How many plain numbers math-verify and our own check judged differently, and how many both of them judged."""
    notes = [verdict.note for verdict in verdicts]
    return notes.count(DISAGREED), notes.count(DISAGREED) + notes.count(AGREED)


called(__name__)
