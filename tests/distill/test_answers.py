"""A teacher's answers are kept by what was asked of whom: nothing that changes around them is paid for again."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bm.cli import conf_dir
from bm.config import Experiment, load
from bm.stages import Stages
from bm.store import Store
from tests.generate.server import Server

Asked = Callable[..., int]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.message = lambda body: {"reasoning_content": "It is known.", "content": "42"}
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def asked(server: Server, tmp_path: Path) -> Asked:
    """How many requests a distillation with these overrides sends, over a source of 40 rows."""
    file = tmp_path / "set.jsonl"
    if not file.exists():
        file.write_text(
            "".join(json.dumps({"question": f"What is {n} + {n}?", "answer": 2 * n}) + "\n" for n in range(40))
        )

    def run(*overrides: str) -> int:
        before = len(server.requests)
        given = [f"paths.outputs={tmp_path / 'outputs'}", "domain=jsonl", f"domains.jsonl.source.path={file}",
                 "domains.jsonl.traces=10", "domains.jsonl.questions=2", "teacher.engine.served=m",
                 f"teacher.engine.base_url={server.url}", *overrides]  # fmt: skip
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = load(Experiment, compose("distill", ["teacher=server", *given]))
        made = Stages(Store(config.paths.outputs / "store"), config).distill(config.domains["jsonl"])
        assert made.facts["answered"] == int(config.domains["jsonl"].traces or 0) * config.teacher.parameters["samples"]
        return len(server.requests) - before

    return run


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ("domains.jsonl.traces=12", 2),
        ("verify.seconds=20", 0),
        ("distill.min_characters=1", 0),
        ("distill.policy=all_correct", 0),
        ("teacher.samples=3", 20),
        ("teacher.engine.key=SOME_KEY", 0),
        ("teacher.engine.served=another", 10),
        ("teacher.temperature=1", 10),
        ("teacher.prompt.system=Think.", 10),
    ],
)
def test_only_what_is_new_is_asked(asked: Asked, change: str, new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    assert asked() == 10
    assert asked(change) == new
