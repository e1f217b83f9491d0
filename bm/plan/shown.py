"""A plan as JSON, as a table, and as the line that a run begins with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from bm.plan.estimate import GIB, Stage

TWO_DAYS = 2 * 86400
KINDS = {"branch": "training", "merge": "merge", "evaluate": "evaluation"}
"""What the stages that a run is known by are called in its line."""


def document(recipe: str, card: str, gib: float, ram: float, stages: Sequence[Stage]) -> dict[str, Any]:
    """The plan as plain values: `stages`, each with its figures and their `basis`, and `total`.

    gib, ram: of one GPU, and of this machine.
    """
    return {
        "recipe": recipe,
        "gpu": card,
        "gib_per_gpu": gib,
        "gib_ram": round(ram, 2),
        "stages": [_stage(s) for s in stages],
        "total": total(stages),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    memory = stage.memory
    parts = {} if memory is None else {
        "parameters": memory.parameters, "gradients": memory.gradients, "optimizer": memory.optimizer,
        "activations": memory.activations,
    }  # fmt: skip
    return {
        "stage": stage.stage, "label": stage.label, "gpus": stage.gpus,
        "peak_gib_per_gpu": round(stage.gpu_bytes / GIB, 2), "peak_gib_ram": round(stage.ram_bytes / GIB, 3),
        "memory_gib": {name: round(value / GIB, 3) for name, value in parts.items()},
        "fits": stage.fits, "change": stage.change, "tokens": stage.tokens, "flops": stage.flops,
        "seconds": round(stage.seconds, 2), "gpu_hours": round(stage.gpu_hours, 3),
        "disk_gib": round(stage.disk / GIB, 4), "usd": None if stage.money is None else round(stage.money, 4),
        "basis": dict(stage.basis),
    }  # fmt: skip


def total(stages: Sequence[Stage]) -> dict[str, Any]:
    """The time of all stages, one after the other, if nothing of them is there yet."""
    known = all(s.money is not None for s in stages)
    return {
        "seconds": round(sum(s.seconds for s in stages), 1),
        "gpu_hours": round(sum(s.gpu_hours for s in stages), 2),
        "tokens": sum(s.tokens for s in stages), "flops": sum(s.flops for s in stages),
        "disk_gib": round(sum(s.disk for s in stages) / GIB, 3),
        "usd": round(sum(s.money or 0.0 for s in stages), 2) if known else None,
        "fits": all(s.fits for s in stages),
    }  # fmt: skip


def table(plan: Mapping[str, Any]) -> Table:
    gpus = any(stage["gpus"] for stage in plan["stages"])
    where = f"{plan['gpu']}, {plan['gib_per_gpu']:g} GiB each" if gpus else f"CPUs, {plan['gib_ram']:.1f} GiB"
    shown = Table("stage", "", "GiB a GPU" if gpus else "GiB of RAM", "tokens", "FLOPs", "GPUs", "time", "GPU-hours",
                  "disk GiB", "USD", title=f"{plan['recipe']} on {where}")  # fmt: skip
    for s in plan["stages"]:
        peak = f"{_peak(s):.1f}" if _peak(s) else ""
        money = "?" if s["usd"] is None else f"{s['usd']:,.2f}"
        shown.add_row(
            s["stage"], s["label"], peak if s["fits"] else f"[red]{peak}[/red]", f"{s['tokens']:,}",
            f"{s['flops']:.2g}", str(s["gpus"] or ""), duration(s["seconds"]), f"{s['gpu_hours']:,.1f}",
            f"{s['disk_gib']:,.1f}", money,
        )  # fmt: skip
    everything = plan["total"]
    money = "?" if everything["usd"] is None else f"{everything['usd']:,.2f}"
    shown.add_row("", "all", "", f"{everything['tokens']:,}", f"{everything['flops']:.2g}", "",
                  duration(everything["seconds"]), f"{everything['gpu_hours']:,.1f}",
                  f"{everything['disk_gib']:,.1f}", money, style="bold")  # fmt: skip
    return shown


def _peak(stage: Mapping[str, Any]) -> float:
    """GiB of a GPU, or of a process on CPUs."""
    return float(stage["peak_gib_per_gpu"] or stage["peak_gib_ram"])


def remedies(plan: Mapping[str, Any], reserve: float) -> list[str]:
    """A line for each stage that does not fit: what it takes, what there is, and what to change."""
    lines = []
    for s in (s for s in plan["stages"] if not s["fits"]):
        change = f"; it would with {s['change']}" if s["change"] else "; nothing that was tried would"
        card = f"a GPU, and {plan['gpu']} has {plan['gib_per_gpu'] - reserve:g} beside its reserve"
        where = card if s["gpus"] else f"of RAM, and this machine has {plan['gib_ram']:.1f}"
        lines.append(f"{s['label']} ({s['stage']}) does not fit: {_peak(s):.1f} GiB {where}{change}")
    return list(dict.fromkeys(lines))


def line(plan: Mapping[str, Any]) -> str:
    """What a run would take, before anything of it is there."""
    counts = Counter(KINDS[s["stage"]] for s in plan["stages"] if s["stage"] in KINDS)
    stages = ", ".join(f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items())
    everything = plan["total"]
    peak, ram = (max(s[of] for s in plan["stages"]) for of in ("peak_gib_per_gpu", "peak_gib_ram"))
    on = f", {peak:.0f} of {plan['gib_per_gpu']:g} GiB a GPU" if peak else ""
    on += f", {ram:.1f} of {plan['gib_ram']:.0f} GiB of RAM" if ram else ""
    hours = f" ({everything['gpu_hours']:,.0f} GPU-hours)" if everything["gpu_hours"] else ""
    time, disk = duration(everything["seconds"]), f"{everything['disk_gib']:.1f} GiB of disk"
    return f"plan     {stages}: about {time}{hours}{on}, {disk}, less what is there already"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < TWO_DAYS else f"{seconds / 86400:.1f} days"
