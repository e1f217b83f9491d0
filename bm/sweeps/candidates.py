"""The candidates of a search: the one model that settings make, in memory where it is a merge."""

from collections.abc import Sequence
from pathlib import Path

from bm.config import Experiment, overridden
from bm.errors import UserError
from bm.generate import IN_MEMORY
from bm.measuring import measured
from bm.preflight import preflight
from bm.report.findings.verdicts import graded
from bm.stages import Stages
from bm.store import Artefact, Store
from bm.trials import Candidate


def candidate(config: Experiment, home: Path, mixture: bool) -> Candidate:
    """The model of `config`: its only merge, or its mixture. UserError if there are several, or none."""
    from bm.rounds import chosen_merges
    from bm.runs import key_of

    merges = list(chosen_merges(config))
    _check(config, [name for name, _, _ in merges], mixture)
    preflight(config, config.teacher, config.verify.judge, config.evaluate.engine)
    stages = Stages(Store(config.paths.outputs / "store"), config)
    questions = stages.questions()
    traces = {name: stages.distill(domain) for name, domain in config.domains.items()}
    student = stages.student()
    most = max(len(ids) for ids, _ in graded(stages.evaluate(student, questions).path).values())
    folder = home / "candidates" / key_of(config)
    if config.mixture is not None and mixture:
        model = stages.mixture(student, config.mixture, traces)
        return Candidate(stages, folder, questions, most, model, _trained([student, model]))
    ((_, method, order),) = merges
    taught = [overridden(config.branch, d.branch, f"domains.{d.name}.branch") for d in config.domains.values()]
    teaches = config.mixture if any(settings.teacher == "mixture" for settings in taught) else None
    teacher = stages.mixture(student, teaches, traces) if teaches else None
    experts = {
        name: stages.expert(student, domain, traces[name], mixture=teacher) for name, domain in config.domains.items()
    }
    known = measured(stages, method, student, experts, traces)
    merged = stages.merge_in_memory(method, order, student, experts, known)
    return Candidate(stages, folder, questions, most, merged, _trained([student, *experts.values()]))


def _trained(models: Sequence[Artefact]) -> int:
    """Tokens that their training saw."""
    return sum(a.facts.get("tokens", 0) for a in models if a.manifest["stage"] == "branch")


def _check(config: Experiment, merges: Sequence[str], mixture: bool) -> None:
    """UserError unless the settings make the one model that a candidate is."""
    if mixture and config.mixture is None:
        raise UserError("a search over mixtures needs one: mixture=proportional")
    if not mixture and config.evaluate.engine.target != IN_MEMORY:
        raise UserError(f"evaluate.engine: a search merges in memory, which only {IN_MEMORY} can take models from")
    if not mixture and len(merges) != 1:
        raise UserError(
            f"a candidate of a search is one merge, by one method in one order, not {', '.join(merges) or 'none'}"
        )
