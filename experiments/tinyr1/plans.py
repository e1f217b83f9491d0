"""`python -m experiments.tinyr1.plans`: what each student takes on each size of machine, as the tables of PLANS.md.

Memory does not depend on the card, so one simulation a row says which cards it fits.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bm import compose
from bm.config import Adapter, Experiment, Trainer
from bm.plan.architecture import architecture
from bm.plan.estimate import GIB, Estimates
from bm.plan.memory import training_memory

STUDENTS = ("1.5b", "7b", "14b", "32b")
MACHINES = {"1 GPU": ["trainer=gpu"], "8 GPUs": ["trainer=fsdp"], "32 GPUs": ["trainer=slurm", "trainer.nodes=4"]}
CARDS = {"24 GB": "RTX4090", "40 GB": "A100-40", "80 GB": "H800", "141 GB": "H200"}
HERE = Path(__file__).parent


def main() -> None:
    lines = ["| student | GPUs | trained | GiB a GPU | fits on | experts, H800 GPU-hours | time | mixture, GPU-hours |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for student in STUDENTS:
        for machine, words in MACHINES.items():
            config = compose("recipe=tinyr1", f"student=r1-distill-qwen-{student}", *words)
            for line in rows(config, student, machine):
                lines.append(line)
                print(line, flush=True)
    (HERE / "PLANS.md").write_text("\n".join(lines) + "\n")


def rows(config: Experiment, student: str, machine: str) -> Iterator[str]:
    """All weights, an adapter, and on one GPU an adapter beside weights in four bits."""
    adapter = config.plan.adapter
    ways: dict[str, Adapter | None] = {"all weights": None, "LoRA": adapter}
    if machine == "1 GPU":
        ways["QLoRA"] = replace(adapter, quantize="nf4")
    for way, of in ways.items():
        changed = replace(config, branch=replace(config.branch, adapter=of))
        peak, trainer = tightest(changed, config.trainer)
        cards = [
            size for size, card in CARDS.items() if peak <= (config.plan.cards[card].gib - config.plan.reserve_gib)
        ]
        hours = {s.label: s for s in Untried(changed, []).stages() if s.stage == "branch"}
        experts = [hours[name] for name in config.domains]
        total, seconds = sum(s.gpu_hours for s in experts), sum(s.seconds for s in experts)
        note = "" if trainer == config.trainer else f", sequence_parallel={trainer.sequence_parallel}"
        yield (
            f"| {student.upper()} | {machine.split()[0]} | {way}{note} | {peak:.1f} | {', '.join(cards) or 'none'} | "
            f"{total:,.0f} | {seconds / 86400:,.1f} days | {hours['mixture'].gpu_hours:,.0f} |"
        )


class Untried(Estimates):
    """Hours alone: whether a training fits is told for every card at once."""

    def _fit(self, settings: object) -> None:  # type: ignore[override]
        return None


def tightest(config: Experiment, trainer: Trainer) -> tuple[float, Trainer]:
    """GiB of a GPU as the recipe is; where no card holds that, with a sequence shared by as many ranks as help."""
    made, largest = architecture(config), max(card.gib for card in config.plan.cards.values()) - config.plan.reserve_gib
    peak = training_memory(made, config.branch, trainer).peak / GIB
    if peak > largest and trainer.devices > 1:
        trainer = replace(trainer, sequence_parallel=4)
        peak = training_memory(made, config.branch, trainer).peak / GIB
    return peak, trainer


if __name__ == "__main__":
    main()
