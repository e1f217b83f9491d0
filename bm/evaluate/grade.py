"""Responses to verdicts, as lm-eval's `process_results` wants them: the graders are the verifiers of distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

from bm.evaluate.thinking import CLOSE, OPEN
from bm.verify import verify


def grade(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, Any]:
    """One response to a question that names its verifier: doc has `verifier`, `answer`, `metadata` (JSON).

    A verifier wants a thought before an answer; a model that does not think has an empty one.
    """
    (response,) = results
    if OPEN not in response:
        response = OPEN + response if CLOSE in response else OPEN + CLOSE + response
    verdict = verify(doc["verifier"], response, doc["answer"], doc["metadata"])
    return {"pass@1": float(verdict.accepted), "reason": verdict.reason, "answer": verdict.answer}
