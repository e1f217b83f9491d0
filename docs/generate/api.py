"""The API reference: one page per package, from its docstrings, by mkdocstrings."""

import importlib

PACKAGES = {
    "bm.api": "From Python",
    "bm.merge": "Merging",
    "bm.merge.tensors": "What a merge method sees",
    "bm.merge.methods": "Merge methods",
    "bm.losses": "Losses",
    "bm.optimizers": "Optimisers",
    "bm.branch": "Training",
    "bm.distill": "Distillation",
    "bm.verify": "Verification",
    "bm.generate": "Generation",
    "bm.evaluate": "Evaluation",
    "bm.report.findings.regimes": "Regimes",
    "bm.report.findings.law": "The law",
    "bm.report.findings.forecast": "Forecasts",
    "bm.statistics": "Statistics",
    "bm.store": "The store",
    "bm.config": "Settings",
    "bm.errors": "Errors",
}
"""What a researcher imports or reads, and how its page is called."""


def pages() -> dict[str, str]:
    return {f"api/{name.replace('.', '-')}.md": page(name, title) for name, title in PACKAGES.items()}


def page(name: str, title: str) -> str:
    """What a package offers, each thing by the module that it is written in; all that is public of a module."""
    package = importlib.import_module(name)
    offered = getattr(package, "__all__", [])
    homes = {one: getattr(getattr(package, one), "__module__", "") for one in offered}
    whole = [f"{home}.{one}" for one, home in homes.items() if home.startswith("bm.")] or [name]
    options = "\n    options: {show_root_heading: true, heading_level: 2}" if offered else ""
    return "\n\n".join([f"# {title}", f"`{name}`", *(f"::: {one}{options}" for one in whole)]) + "\n"
