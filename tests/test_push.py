"""`bm push` by the real client of the hub against a stand-in of it: what arrives, who may see it, what is refused."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub._commit_api
import numpy as np
import pytest
from safetensors.numpy import save_file

from bm.push.lineage import front
from bm.report.findings.results import Cost, Results, Row, Run, Score, write
from bm.store import Artefact, Store
from tests.conftest import Bm
from tests.hub import TOKEN, Hub, served

CARD = "---\nlibrary_name: transformers\ntags: [merge]\n{licence}---\n\n# {name}\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub._commit_api, "is_xet_available", lambda: False)  # it has a server of its own
    with served() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def model(name: str, licence: str = ""):
    def build(work: Path) -> dict[str, int]:
        save_file({"w": np.full(3, len(name), np.float32)}, work / "model.safetensors")
        (work / "config.json").write_text("{}")
        (work / "tokenizer.json").write_text("{}")
        (work / "README.md").write_text(CARD.format(name=name, licence=f"license: {licence}\n" if licence else ""))
        (work / "log.csv").write_text("step,loss\n")
        return {}

    return build


def traces(work: Path) -> dict[str, int]:
    (work / "traces.parquet").write_bytes(b"PAR1 traces")
    (work / "rejected.parquet").write_bytes(b"PAR1 rejected")
    (work / "README.md").write_text(CARD.format(name="math", licence=""))
    return {}


@pytest.fixture
def merged(tmp_path: Path) -> Artefact:
    """A merged model in a store, with what it was made from, and a run that tested it."""
    store = Store(tmp_path / "outputs/store")
    student = store.make("student", "tiny", {}, [], [], model("tiny", "apache-2.0"))
    distilled = store.make("distill", "math", {}, [], [], traces)
    expert = store.make("branch", "math", {}, [student, distilled], [], model("math"))
    made = store.make("merge", "linear", {}, [student, expert], [], model("linear"))
    row = Row("linear", "merge", {"math": Score(0.61, 0.55, 0.66, 150, 4)}, Cost(1.0, 0.0, 0), made.key)
    run = Run(None, "tiny", 1, (), "bm run merge=linear", "abcd")
    write(Results((row,), (), run=run), tmp_path / "outputs/runs/tiny-abcd/results.json")
    return made


def test_a_model_arrives_private_with_its_card(hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path) -> None:
    said = bm("push", f"folder={merged.path}", "repo=me/merged", "licence=apache-2.0", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    repository = hub.repositories["models/me/merged"]
    assert repository.private and "private  http" in said.stderr
    assert set(repository.files) == {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    assert repository.files["model.safetensors"] == (merged.path / "model.safetensors").read_bytes()
    card = repository.files["README.md"].decode()
    assert front(card) | {"license": "apache-2.0", "library_name": "transformers"} == front(card)
    assert front(card)["tags"] == ["merge", "branch-merge"]
    assert "| math | 61.0 | 55.0 to 66.0 | 150 x 4 |" in card
    assert "| student | tiny |" in card and "| apache-2.0 |" in card and "| distill | math |" in card
    assert "bm run merge=linear" in card
    assert "distill math: its card states none" in said.stderr and "student tiny" not in said.stderr
    assert str(tmp_path) not in card and TOKEN not in card + said.stderr


def test_it_is_pushed_again_into_the_same_repository(hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path) -> None:
    for _ in range(2):
        assert bm("push", f"folder={merged.path}", "repo=me/merged", cwd=tmp_path).returncode == 0
    assert len(hub.repositories) == 1 and hub.repositories["models/me/merged"].private


def test_traces_become_a_data_set_without_what_was_rejected(hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path) -> None:
    (folder,) = (tmp_path / "outputs/store/distill").glob("[0-9a-f]*")
    said = bm("push", f"folder={folder}", "repo=me/traces", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert set(hub.repositories["datasets/me/traces"].files) == {"traces.parquet", "README.md"}


def test_nothing_is_public_without_a_word_on_a_terminal(
    hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("push", f"folder={merged.path}", "repo=me/open", "public=true")
    said = bm(*words, cwd=tmp_path)
    assert (said.returncode, hub.repositories) == (2, {}) and "no terminal to ask on; say yes=true" in said.stderr

    def answers(text: str) -> int:
        terminal = io.StringIO(text)
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", terminal)
        return bm(*words, cwd=tmp_path).returncode

    assert (answers("n\n"), answers("\n"), hub.repositories) == (2, 2, {})
    assert answers("y\n") == 0 and not hub.repositories["models/me/open"].private


def test_a_script_says_yes_and_a_private_repository_is_opened(
    hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path
) -> None:
    words = ("push", f"folder={merged.path}", "repo=me/open")
    assert bm(*words, cwd=tmp_path).returncode == 0
    assert bm(*words, "public=true", "yes=true", cwd=tmp_path).returncode == 0
    assert not hub.repositories["models/me/open"].private
    said = bm(*words, cwd=tmp_path)
    assert said.returncode == 2 and "is public, and so would be what is pushed" in said.stderr


def test_scores_of_an_evaluation_can_be_named(hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path) -> None:
    (tmp_path / "E").mkdir()
    (tmp_path / "E/scores.json").write_text(
        '{"aime24": {"mean": 0.5, "low": 0.4, "high": 0.6, "questions": 30, "samples": 16, "version": 1}}'
    )
    assert bm("push", f"folder={merged.path}", "repo=me/m", "results=E", cwd=tmp_path).returncode == 0
    card = hub.repositories["models/me/m"].files["README.md"].decode()
    assert "| aime24 | 50.0 | 40.0 to 60.0 | 30 x 16 |" in card and "| math | 61.0" not in card


MISTAKES = {
    "no folder": ({"folder": "nowhere"}, "folder: nowhere is not a directory"),
    "an empty folder": ({"folder": "empty"}, "is not a model"),
    "no name": ({"repo": "merged"}, "repo"),
    "no results": ({"results": "empty"}, "neither results.json"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_sent(
    mistake: str, hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    changed, told = MISTAKES[mistake]
    words = {"folder": merged.path, "repo": "me/merged"} | changed
    said = bm("push", *(f"{name}={value}" for name, value in words.items()), cwd=tmp_path)
    assert said.returncode == 2 and told in said.stderr and len(said.stderr.splitlines()) == 1
    assert not hub.repositories


def test_a_damaged_model_is_not_sent(hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path) -> None:
    (merged.path / "model.safetensors").write_bytes(b"half of it")
    said = bm("push", f"folder={merged.path}", "repo=me/merged", cwd=tmp_path)
    assert said.returncode == 2 and "is damaged: model.safetensors has" in said.stderr and not hub.repositories


def test_what_the_hub_refuses_is_one_line(
    hub: Hub, bm: Bm, merged: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("push", f"folder={merged.path}", "repo=me/merged", "licence=mit")
    hub.refuses = 403
    assert "the token may not write there" in bm(*words, cwd=tmp_path).stderr
    hub.refuses = 400
    assert "no room left in your plan" in bm(*words, cwd=tmp_path).stderr
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = bm(*words, cwd=tmp_path)
    assert said.returncode == 2 and "does not know the token" in said.stderr and "hf_wrong" not in said.stderr
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = bm(*words, cwd=tmp_path)
    assert said.returncode == 2 and "cannot be reached" in said.stderr and "Traceback" not in said.stderr
