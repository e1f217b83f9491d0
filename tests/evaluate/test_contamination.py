"""Questions that a model was trained on are found whatever their case and spacing, and counted beside the score."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bm.evaluate import evaluate, seen
from bm.store import Store
from tests.evaluate.conftest import scripted, tiny
from tests.verify.conftest import verifying


def traces(path: Path, prompts: list[str]) -> Path:
    pq.write_table(pa.table({"id": [str(k) for k in range(len(prompts))], "prompt": prompts}), path)
    return path


def test_questions_among_the_traces_are_counted(tmp_path, sums):
    path, script = sums
    work = tmp_path / "w"
    work.mkdir()
    evaluate(
        Path("x"), tiny(engine=scripted(script)), verifying(), ["math", "other"], {"math": path, "other": path}, work
    )
    samples = work / "samples.parquet"
    some = traces(tmp_path / "some.parquet", ["what is  3 + 1?\n", "What is 4 + 1?", "What is 3 + 1 now?"])
    more = traces(tmp_path / "more.parquet", ["What is 4 + 1?", "What is 9 + 1?"])
    assert seen(samples, []) == {"math": 0, "other": 0}
    assert seen(samples, [some]) == {"math": 2, "other": 2}
    assert seen(samples, [some, more]) == {"math": 3, "other": 3}


def test_lineage_leads_to_the_traces(tmp_path):
    store = Store(tmp_path / "store")

    def wrote(work: Path) -> dict:
        (work / "file").write_text("x")
        return {}

    math, coding, unused = (store.make("distill", name, {"name": name}, [], [], wrote) for name in "abc")
    experts = [store.make("branch", t.label, {}, [t], [], wrote) for t in (math, coding)]
    merged = store.make("merge", "m", {}, experts, [], wrote)
    assert {a.key for a in store.behind(merged.path, "distill")} == {math.key, coding.key}
    assert [a.key for a in store.behind(experts[0].path, "distill")] == [math.key]
    assert store.behind(tmp_path, "distill") == []
    assert unused.key not in json.dumps([a.key for a in store.behind(merged.path, "distill")])
