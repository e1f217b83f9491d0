from pathlib import Path

import pytest

from bm.config import Component, Distill, Domain, typed
from bm.yaml import read_yaml

CONF = Path(__file__).parents[2] / "conf"
DOMAINS = sorted(path.stem for path in (CONF / "domain").glob("*.yaml") if "reasoning_gym" in path.read_text())


@pytest.fixture(params=DOMAINS)
def domain(request) -> Domain:
    """A domain of the project's own, as its YAML has it."""
    return typed(Domain, {"name": request.param, **read_yaml(CONF / "domain" / f"{request.param}.yaml")})


@pytest.fixture
def teacher() -> Component:
    """The worked teacher, clumsy enough to be caught."""
    node = read_yaml(CONF / "teacher" / "worked.yaml")
    return Component(node["_target_"], {"slip": 0.1})


def distilling(domain: Domain | None = None, **overrides) -> Distill:
    """The settings of conf/, as a domain has them, with some of them otherwise."""
    own = dict(domain.distill) if domain else {}
    return typed(Distill, {**read_yaml(CONF / "settings" / "distill.yaml"), **own, **overrides})
