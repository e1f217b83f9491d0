"""Responses to verdicts inside lm-eval: the graders are the verifiers of distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.filter import Filter

from bm.evaluate.livecodebench import PACKED, unpacked
from bm.progress import progress
from bm.verify import Case, Grader, Verdict

TOGETHER = 64
"""Responses judged at a time where tests are packed: those of a problem may be many megabytes when unpacked."""

Document = Mapping[str, str]
"""A question that names its `verifier`, with `answer` and `metadata` (JSON): see `sets`."""


def grade(doc: Document, results: Sequence[Verdict]) -> dict[str, Any]:
    """What lm-eval's `process_results` gives for a sample that `Graded` has judged."""
    (verdict,) = results
    return {"pass@1": float(verdict.accepted), "reason": verdict.reason, "answer": verdict.answer}


class Graded(Filter):  # type: ignore[misc]  # lm-eval has no types
    """The verdicts on one sample of each question, the one at `index`; they are judged together, so in parallel."""

    def __init__(self, task: str, index: int, grader: Grader) -> None:
        self._task, self._index, self._grader = task, index, grader

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Document]) -> list[list[Verdict]]:
        pairs = [(doc, responses[self._index]) for responses, doc in zip(resps, docs, strict=True)]
        verdicts: list[Verdict] = []
        together = TOGETHER if any(PACKED in doc["metadata"] for doc in docs) else max(len(pairs), 1)
        with progress(f"grade {self._task}", total=len(pairs), unit="responses") as bar:
            for start in range(0, len(pairs), together):
                cases = [_case(*pair) for pair in pairs[start : start + together]]
                verdicts += self._grader.verdicts(cases, bar)
        return [[verdict] for verdict in verdicts]


def _case(doc: Document, response: str) -> Case:
    packed = PACKED in doc["metadata"]
    metadata = unpacked(doc["metadata"]) if packed else doc["metadata"]
    return Case(doc["verifier"], response, doc["answer"], metadata)
