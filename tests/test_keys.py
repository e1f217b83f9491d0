"""What counts in a key: settings by their values, files by what is in them, devices by their kind."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

import bm
from bm.config import Component, Content, Device, Experiment, NoKey, components, contents, identity
from bm.errors import UserError
from bm.runs import key_of
from bm.stages import Stages
from bm.store import Artefact, Store
from tests.conftest import SHRUNK


def read(domain: str, seed: int, rows: Annotated[Path, Content], parallel: Annotated[int, NoKey] = 1) -> None:
    """A source of a user's own, whose file's parameter is called as it likes."""


@dataclass(frozen=True)
class Settings:
    source: Component
    data: dict[str, Annotated[Path, Content] | None]
    model: Annotated[str, Content]
    device: Annotated[str, Device]
    threads: Annotated[int, NoKey]
    inner: "list[Component]"


def settings(folder: Path, device: str = "cpu", threads: int = 1, model: str = "some/name") -> Settings:
    source = Component(f"{__name__}.read", {"rows": str(folder / "rows.jsonl"), "parallel": threads})
    return Settings(source, {"task": folder / "rows.jsonl", "none": None}, model, device, threads, [source])


def written(folder: Path, text: str = "{}\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text(text)
    return folder


def test_files_count_by_what_is_in_them_wherever_they_are(tmp_path: Path) -> None:
    here, there, other = (written(tmp_path / name, text) for name, text in (("a", "1\n"), ("b", "1\n"), ("c", "2\n")))
    assert identity(settings(here)) == identity(settings(there)) != identity(settings(other))
    assert len(contents(settings(here))) == 3 and len(components(settings(here))) == 2
    written(here, "3\n")
    assert identity(settings(here)) != identity(settings(there))


def test_a_name_counts_as_it_is_and_a_folder_by_its_files(tmp_path: Path) -> None:
    here, there = written(tmp_path / "a"), written(tmp_path / "b")
    assert identity(settings(here))["model"] == "some/name"
    (there / "manifest.json").write_text("another store's")
    assert identity(settings(here, model=str(here))) == identity(settings(here, model=str(there)))


def test_devices_count_by_their_kind_and_numbers_of_threads_not_at_all(tmp_path: Path) -> None:
    here = written(tmp_path / "a")
    assert identity(settings(here, "cuda:1", 8)) == identity(settings(here, "cuda", 1))
    assert identity(settings(here, "cuda")) != identity(settings(here, "cpu"))
    assert identity(settings(here, "auto")) in (identity(settings(here, "cpu")), identity(settings(here, "cuda")))


def composed(*words: str) -> Experiment:
    return bm.compose(*SHRUNK, *words)


@pytest.mark.parametrize(
    "word",
    ["trainer.launch=another", "paths.outputs=elsewhere", "output=there", "tracker=csv", "fresh=[merge]",
     "trainer.devices=8", "trainer.nodes=4", "trainer.sequence_parallel=2", "merge.threads=3"],
)  # fmt: skip
def test_where_and_on_how_many_machines_a_run_is_made_is_not_in_its_key(word: str) -> None:
    words = [w for w in SHRUNK if not (word.startswith("tracker") and w.startswith("tracker"))]
    assert key_of(bm.compose(*words, word)) == key_of(composed())


def test_another_job_of_slurms_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trainer=slurm takes from Slurm's variables: nodes, cores, and the name of the first node."""
    keys, launches = set(), set()
    for nodes, cores, name in (("2", "64", "n1"), ("4", "32", "n7")):
        for variable, value in {"JOB_NUM_NODES": nodes, "CPUS_PER_TASK": cores, "JOB_ID": name}.items():
            monkeypatch.setenv(f"SLURM_{variable}", value)
        monkeypatch.setenv("SLURMD_NODENAME", name)
        config = composed("trainer=slurm")
        keys.add(key_of(config))
        launches.add((config.trainer.nodes, config.trainer.launch))
    assert len(keys) == 1 and len(launches) == 2


@pytest.mark.parametrize("word", ["seed=7", "evaluate.race=0.05", "merge.examples=9", "trainer.precision=bf16-mixed"])
def test_what_decides_the_results_is_in_a_runs_key(word: str) -> None:
    assert key_of(composed(word)) != key_of(composed())


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("domains.math.source", "source"),
        ("student.build", "student"),
        ("teacher", "teacher"),
        ("evaluate.engine", "engine"),
        ("tracker", "tracker"),
        ("merge.methods.linear", "merge method"),
    ],
)
def test_a_target_of_another_kind_is_refused_and_not_imported(
    where: str, kind: str, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')\n\ndef function(command): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("harmful.function", "shutil.rmtree"):
        with pytest.raises(UserError, match=f"`{target}` is not an? {kind}: such a function takes"):
            composed(f"{where}._target_={target}")
    with pytest.raises(UserError, match=r"there is no function `os\.system`, or it is not written in Python"):
        composed(f"{where}._target_=os.system")


def test_no_training_begins_on_an_evaluation_question(tmp_path: Path, monkeypatch: Any) -> None:
    """However a caller comes to train."""
    stages = Stages(Store(tmp_path / "store"), composed())
    questions = stages.questions()["math"]
    leaked = Artefact(tmp_path, {"stage": "distill", "key": "leaked", "label": "math", "files": {}})
    (tmp_path / "traces.parquet").write_bytes((questions.path / "questions.parquet").read_bytes())
    student = Artefact(tmp_path, {"stage": "student", "key": "student", "label": "student", "files": {}})
    for train in (
        lambda: stages.expert(student, stages.config.domains["math"], leaked),
        lambda: stages.mixture(student, stages.config.mixture, {"math": leaked}),  # type: ignore[arg-type]
    ):
        monkeypatch.setitem(leaked.manifest, "facts", {"kept": 12})  # type: ignore[arg-type]
        with pytest.raises(UserError, match="is a training trace too"):
            train()
    assert not (tmp_path / "store/branch").exists()


def test_a_users_own_source_is_made_again_when_its_file_or_its_code_changes(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "source_of_mine.py").write_text(
        "from pathlib import Path\nfrom typing import Annotated\n\n"
        "from bm.config import Content\nfrom bm.distill.selection import Question\n\n"
        "def stream(domain: str, seed: int, where: Annotated[Path, Content]):\n"
        "    for line in where.read_text().split():\n"
        "        yield Question(domain, 'mine', '', f'{ASKED} {line}', line, 'number', '{}', ())\n\n"
        "ASKED = 'What is'\n"
    )
    rows = tmp_path / "rows.txt"
    rows.write_text(" ".join(map(str, range(400))))
    monkeypatch.syspath_prepend(tmp_path)
    source = Component("source_of_mine.stream", {"where": str(rows)})

    def asked() -> Artefact:
        from tests.test_code import version

        version()  # as a process of its own would read the code
        config = composed()
        domain = replace(config.domains["math"], source=source, questions=5)
        config = replace(config, domains={**config.domains, "math": domain})
        return Stages(Store(tmp_path / "store"), config).questions()["math"]

    first = asked()
    assert asked().key == first.key
    rows.write_text(" ".join(map(str, range(1, 401))))
    second = asked()
    assert second.key != first.key
    file = tmp_path / "source_of_mine.py"
    file.write_text(file.read_text().replace("What is", "Say"))
    assert asked().key not in (first.key, second.key)


def test_a_stage_states_the_gpus_of_its_engine(tmp_path: Path) -> None:
    stages = Stages(Store(tmp_path / "store"), composed())
    facts: list[dict[str, Any]] = [{"engine": {"gpus": 4}}, {"teacher": {"gpus": 2}}, {"gpus": 8}, {"tokens": 1}]
    made = [stages.make("evaluate", str(i), {"i": i}, [], lambda work, fact=fact: fact) for i, fact in enumerate(facts)]
    assert [artefact.facts["gpus"] for artefact in made] == [4, 2, 8, 0]


def test_a_lookup_reads_its_own_artefact_and_no_other(tmp_path: Path, monkeypatch: Any) -> None:
    """However many there are: 10,000 artefacts take no longer than one."""
    store = Store(tmp_path)
    made = store.make("branch", "math", {}, [], [], lambda work: {})

    def listed(*_: object) -> None:
        raise AssertionError("the store was listed")

    for name in ("glob", "rglob", "iterdir"):
        monkeypatch.setattr(Path, name, listed)
    assert store.make("branch", "math", {}, [], [], lambda work: {}) == made


def test_an_evaluation_does_not_write_into_the_models_own_folder(tmp_path: Path) -> None:
    from bm.commands import evaluate
    from bm.config import EvaluateFolder

    config = composed()
    whole = {name: getattr(config, name) for name in Experiment.__dataclass_fields__}
    config = EvaluateFolder(**whole | {"output": tmp_path, "model": tmp_path})
    with pytest.raises(UserError, match="output: is the model's own folder"):
        evaluate(config)
    assert list(tmp_path.iterdir()) == []


def test_a_marked_file_that_is_not_there_is_found_before_anything_is_made(tmp_path: Path) -> None:
    from bm.config import absent

    nowhere = tmp_path / "nowhere"
    assert absent(settings(nowhere)) == [
        ("source.rows", nowhere / "rows.jsonl"),
        ("data.task", nowhere / "rows.jsonl"),
        ("inner.rows", nowhere / "rows.jsonl"),
    ]
    assert absent(settings(written(tmp_path / "a"))) == []
