"""Ask a teacher, keep what a verifier accepts and is worth learning from, and say what became of the rest."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape

from bm import parquet
from bm.config import Component, Distill, Domain, Verify
from bm.distill.card import card
from bm.distill.funnel import Judged, facts, shortage
from bm.distill.policy import UNCHOSEN, Answered, kept
from bm.distill.quality import fault
from bm.distill.screening import Screen
from bm.distill.selection import UNVERIFIED, Question, Wanted, select
from bm.distill.teachers import Teacher
from bm.errors import UserError
from bm.generate import Sample, sample
from bm.generate.journal import of_engine, remove
from bm.generate.samples import Lasting
from bm.progress import progress, say
from bm.store import write_text
from bm.verify import Case, Grader, Verdict, check
from bm.verify.final import stated
from bm.verify.thinking import OPEN, answer, unclosed

QUESTION = ("id", "domain", "source", "system", "prompt", "answer", "verifier", "metadata")
TRACE = ("id", "domain", "source", "system", "prompt", "response", "answer", "verifier", "metadata")

SCARCE = 0.02
"""Share of responses kept below which something is likely to be wrong with their form."""


def questions(domain: Domain, seed: int, work: Path, beyond: int = 0) -> dict[str, Any]:
    """Write the domain's evaluation questions to `work/questions.parquet`; facts: how many, and repeats passed over.

    beyond: the next so many in their place, which are in no test and were not trained on either.
    """
    test = domain.questions or 0
    asking = f"domains.{domain.name}.questions" + (" with tune.questions" if beyond else "")
    chosen, duplicates, _ = select(domain.source(domain.name, seed=seed), "evaluate", test + beyond, asking)
    chosen = chosen[test:] if beyond else chosen
    if any(question.verifier == UNVERIFIED for question in chosen):
        raise UserError(f"domains.{domain.name}.questions: the source has no reference answers to evaluate with")
    _write(work / "questions.parquet", QUESTION, map(_row, chosen))
    return {"questions": len(chosen), "duplicates": duplicates}


def distill(
    domain: Domain,
    teacher: Component,
    settings: Distill,
    verifying: Verify,
    part: Wanted | None,
    count: int | None,
    seed: int,
    tasks: Mapping[str, Path],
    work: Path,
    skip: int = 0,
    answers: Path | None = None,
) -> dict[str, Any]:
    """Put `count` distinct questions of `part`, but for the first `skip`, to the teacher; good responses become traces.

    tasks: Parquet files with the prompts of each evaluation task, which no question may share words with. Writes
    `traces.parquet` (columns TRACE, all strings) and `rejected.parquet` (and `reason`), both in the order of the
    questions, and `README.md`, the card of the set. answers: the folder of a teacher's model, or of
    all endpoints: what a model has answered is kept there, whatever it was asked for, and not asked again. What costs
    nothing, and all without such a folder, is kept in `work` until the set is complete. Facts: see `bm.distill.funnel`.
    """
    screen = Screen(
        settings, {task: _prompts(path) for task, path in tasks.items()} if settings.decontamination else {}
    )
    short, wanted = domain.expected is not None, count and count + skip
    asking = f"domains.{domain.name}.traces" + (", with those of earlier rounds," if skip else "")
    selection = select(domain.source(domain.name, seed=seed), part, wanted, asking, screen, short)
    chosen = selection.questions[skip:]
    for name in {question.verifier for question in chosen} - {UNVERIFIED}:
        check(name, verifying)  # before a teacher is paid
    asked: Teacher = teacher(chosen, seed=seed)
    prompts = [asked.prompt(question) for question in chosen]
    lasting = answers if isinstance(asked.engine, Lasting) else None
    kept_in = of_engine(lasting, asked.engine, [teacher.entry]) if lasting else None
    journal = (kept_in or work) / (f"{quote(domain.name, safe='')}.jsonl" if kept_in else "responses.jsonl")
    others = sorted(kept_in.glob("*.jsonl")) if kept_in else []
    with progress(f"distill {domain.name}", total=len(chosen) * asked.sampling.n, unit="responses") as bar:
        responses = sample(asked.engine, prompts, asked.sampling, journal, bar, others, work.stem)
    given = [
        (question, asked.response(prompt, sampled), sampled)
        for question, prompt, samples in zip(chosen, prompts, responses, strict=True)
        for sampled in samples
    ]
    grader = Grader(verifying, work.stem)
    judged = _chosen(_judged(given, settings, grader, domain.name), settings)
    _write(work / "traces.parquet", TRACE, [_trace(response) for response in judged if not response.reason])
    refused = [_trace(response) | {"reason": response.reason} for response in judged if response.reason]
    _write(work / "rejected.parquet", (*TRACE, "reason"), refused)
    said = {(p, i): sampled for p, samples in enumerate(responses) for i, sampled in enumerate(samples)}
    told = facts(domain, selection, len(chosen), judged)
    told |= {"teacher": asked.facts(said, work.stem), **grader.facts()}
    with _written(work / "README.md"):
        write_text(work / "README.md", card(domain, settings, told))
    if not kept_in:
        remove(journal)
    _report(domain.name, told)
    return told


def _report(name: str, told: Mapping[str, Any]) -> None:
    """What the teacher's answers cost, and a warning where hardly any of them became a trace."""
    teacher, own, answered = told["teacher"], told["teacher"]["own"], told["answered"]
    if "cost" in own:
        failed = teacher.get("failed_attempts", 0)
        lost = f"; {failed} failed attempts may have cost up to {teacher['failed_at_most']:.4g} more" if failed else ""
        say(f"{name}: {own['responses']} of {answered} responses asked for now, for {own['cost']:.4g}{lost}")
    if 0 < told["kept"] < SCARCE * answered:
        say(f"[yellow]{escape(shortage(name, told))}[/]")


def _judged(
    given: Sequence[tuple[Question, str, Sample]], settings: Distill, grader: Grader, name: str
) -> list[Judged]:
    """Each response with the verifier's word and, if that is good, with what else may be wrong with it.

    Whatever a verifier says, a trace must contain reasoning. A response without a reference counts as accepted.
    """
    cases = [Case(q.verifier, text, q.answer, q.metadata) for q, text, _ in given if q.verifier != UNVERIFIED]
    with progress(f"verify {name}", total=len(cases), unit="responses") as bar:
        verdicts = iter(grader.verdicts(cases, bar))
    judged = []
    for question, response, sampled in given:
        verdict = next(verdicts) if question.verifier != UNVERIFIED else _unverified(response)
        if OPEN not in response:
            verdict = Verdict(False, "no reasoning", "")
        if sampled.left_out:
            verdict = Verdict(False, "question longer than the teacher's context", "")
        reason = fault(response, question.prompt, sampled.tokens, settings) if verdict.accepted else verdict.reason
        judged.append(Judged(question, response, sampled.tokens, verdict, reason))
    return judged


def _unverified(response: str) -> Verdict:
    """What can be said of a response without a reference: whether it ended, and what it answers."""
    final = answer(response).strip()
    if unclosed(response) or not final:
        return Verdict(False, "unclosed reasoning" if unclosed(response) else "no answer", "")
    return Verdict(True, "", stated(final))


def _chosen(judged: Iterable[Judged], settings: Distill) -> list[Judged]:
    """The same, where good responses that the policy does not keep have that as their reason."""
    result: list[Judged] = []
    for _, of_one in groupby(judged, key=lambda response: response.question.id):
        responses = list(of_one)
        places = kept([_answered(response) for response in responses], settings)
        for place, response in enumerate(responses):
            left_out = not response.reason and place not in places
            result.append(response._replace(reason=f"{UNCHOSEN}{settings.policy}") if left_out else response)
    return result


def _answered(judged: Judged) -> Answered:
    """All answers that a verifier accepted are the same one; without a verifier they are what they say."""
    verified = judged.verdict.accepted and judged.question.verifier != UNVERIFIED
    vote = f"accepted: {judged.question.answer}" if verified else judged.verdict.answer or None
    return Answered(not judged.reason, vote, len(judged.response))


def _prompts(path: Path) -> list[str]:
    prompts: list[str] = parquet.read(path, columns=["prompt"])["prompt"].to_pylist()
    return prompts


def write_prompts(prompts: Iterable[str], path: Path) -> None:
    """What an evaluation task asks, as `distill` takes it."""
    _write(path, ("prompt",), [{"prompt": prompt} for prompt in prompts])


def _row(question: Question) -> dict[str, str]:
    return {"id": question.id, **asdict(question)}


def _trace(judged: Judged) -> dict[str, str]:
    return _row(judged.question) | {"response": judged.response}


def _write(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """A Parquet file of strings, complete or absent."""
    rows = list(rows)
    table = pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in columns})
    unfinished = path.with_suffix(".unfinished")
    with _written(path):
        pq.write_table(table, unfinished, compression="zstd")
        os.replace(unfinished, path)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """One line for a disk that is full or a folder that takes nothing."""
    try:
        yield
    except OSError as problem:
        why = os.strerror(problem.errno) if problem.errno else str(problem)
        raise UserError(
            f"{path} cannot be written ({why}): the answers are kept; rerun the command to resume"
        ) from None
