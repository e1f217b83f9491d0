"""Every token accounted for, and the same plan every time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from bm.branch import Traces
from bm.branch.data import TraceData, epoch_packs
from bm.branch.documents import Documents, certificate, load, realised, tokenise
from bm.branch.parallel import Place
from bm.config import Branch
from bm.errors import UserError
from tests.branch.conftest import branch, sums, trace, write


def prepared(student: Path, traces: list[Traces], config: Branch, work: Path) -> TraceData:
    data = TraceData(student, traces, config, work)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture
def long(tmp_path: Path) -> Traces:
    """48 traces of which two are very long."""
    rows = sums(46, 7)
    rows += [
        trace(f"count to {n}", "<think>\n" + " ".join(map(str, range(n))) + f"\n</think>\n\n{n}") for n in (150, 160)
    ]
    return Traces(write(tmp_path / "long.parquet", rows), "math")


def facts(data: TraceData) -> dict[str, object]:
    return certificate(data.documents, data.packs(), data.config, AutoTokenizer.from_pretrained(data.student))


def test_nothing_is_lost_unless_counted(student: Path, long: Traces, tmp_path: Path) -> None:
    whole = facts(prepared(student, [long], branch(sequence_length=1024), tmp_path / "a"))
    dropped = facts(prepared(student, [long], branch(overlong="drop"), tmp_path / "b"))
    cut = facts(prepared(student, [long], branch(overlong="cut"), tmp_path / "c"))
    assert (whole["documents"], whole["held_out"], whole["dropped"], whole["cut"]) == (46, 2, 0, 0)
    assert (dropped["documents"], dropped["dropped"], dropped["cut"]) == (44, 2, 0)
    assert (cut["documents"], cut["dropped"], cut["cut"]) == (46, 0, 2)
    assert cut["cut_tokens"] == dropped["dropped_tokens"] - 2 * 256
    assert 0.7 < dropped["utilisation"] <= 1


def test_too_many_overlong_traces_stop_the_run(student: Path, long: Traces, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 48 traces are longer than the 256 tokens of branch\.sequence_length"):
        tokenise(student, [long], branch(max_overlong=0.04), tmp_path)
    assert not (tmp_path / "documents").exists()


def test_a_domain_needs_more_traces_than_are_held_out(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"math: 24 traces; branch\.held_out=24 leaves none"):
        tokenise(student, traces, branch(held_out=24), tmp_path)


def test_one_sample_is_shown_where_somebody_looks(
    student: Path,
    traces: list[Traces],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenise(student, traces, branch(), tmp_path / "unseen")
    assert "<|im_start|>" not in capsys.readouterr().err
    monkeypatch.setattr("bm.branch.documents.watched", lambda: True)
    tokenise(student, traces, branch(), tmp_path / "seen")
    assert sums(24, 0)[0]["response"] + "<|im_end|>" in capsys.readouterr().err


def test_documents_are_what_was_rendered(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    documents = prepared(student, traces, branch(), tmp_path).documents
    tokenizer = AutoTokenizer.from_pretrained(student)
    row = sums(24, 1, "and then")[3]
    [place] = np.flatnonzero(documents.ids == row["id"])
    start, length, prompt = documents.starts[place], documents.lengths[place], documents.prompts[place]
    assert tokenizer.decode(documents.tokens[start + prompt : start + length]) == row["response"] + "<|im_end|>"
    assert documents.domain[place] == 1


@pytest.mark.parametrize("mode", ["none", "packing", "neat"])
def test_an_epoch_has_every_document_once(student: Path, traces: list[Traces], tmp_path: Path, mode: str) -> None:
    data = prepared(student, traces, branch(packing=mode), tmp_path)
    for epoch in (0, 1):
        packs = epoch_packs(data.documents, [1, 1], data.config, epoch)
        assert sorted(i for pack in packs for i in pack) == np.flatnonzero(~data.documents.held_out).tolist()
        assert all(data.documents.total([pack]) <= 256 for pack in packs)
        assert mode != "none" or all(len(pack) == 1 for pack in packs)
    assert epoch_packs(data.documents, [1, 1], data.config, 0) != epoch_packs(data.documents, [1, 1], data.config, 1)


def test_weights_are_realised(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    weighted = [dataclasses.replace(t, weight=w) for t, w in zip(traces, (2.5, 0.5), strict=True)]
    data = prepared(student, weighted, branch(epochs=1, held_out=4), tmp_path)
    count = np.bincount(data.documents.domain[[i for pack in data.packs() for i in pack]])
    assert count.tolist() == [50, 10]
    tokens = realised(data.documents, weighted, data.packs())
    assert sum(tokens.values()) == data.documents.total(data.packs())


def test_a_domain_of_weight_zero_is_only_watched(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    watched = [traces[0], dataclasses.replace(traces[1], weight=0.0)]
    data = prepared(student, watched, branch(), tmp_path)
    assert realised(data.documents, watched, data.packs())["science"] == 0
    assert data.documents.held_out[data.documents.domain == 1].sum() == 2


def test_a_fraction_of_an_epoch(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    whole = prepared(student, traces, branch(epochs=2), tmp_path).plan
    part = prepared(student, traces, branch(epochs=1.5), tmp_path).plan
    assert whole[: len(part) - 1] == part[:-1]
    assert [step.epoch for step in whole[len(whole) // 2 - 1 :: len(whole) // 2]] == [1.0, 2.0]
    assert 1.5 <= part[-1].epoch < 1.75


def test_microbatches_hold_the_step(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """Labels follow their positions, documents restart, and a step has the supervised tokens of its plan."""
    data = prepared(student, traces, branch(micro_batch=2, batch=5), tmp_path)
    for step, batches in zip(data.plan, data.train_dataloader(), strict=True):
        assert sum(len(b.targets) for b in batches) == data.documents.supervised(step.packs)
        for batch in batches:
            assert torch.equal(batch.ids[0, batch.labelled + 1], batch.targets)
            assert (batch.positions == 0).sum() == len(batch.documents) == len(batch.segments.lengths)
            assert batch.segments.starts[-1] == batch.ids.shape[1]


def test_in_plain_packing_a_pack_is_one_segment(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    data = prepared(student, traces, branch(packing="packing", micro_batch=2), tmp_path)
    [batch] = data.batches(data.plan[0].packs)
    assert list(batch.segments.lengths) == [data.documents.total([pack]) for pack in data.plan[0].packs]
    assert (batch.positions == 0).sum() == 2 < len(batch.documents)
    assert data.longest_segment() > data.documents.lengths.max()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_a_step_without_overlap(student: Path, traces: list[Traces], tmp_path: Path, ranks: int) -> None:
    data = prepared(student, traces, branch(batch=4), tmp_path)
    for step in data.plan:
        shares = []
        for rank in range(ranks):
            data.place = Place(data_rank=rank, data_size=ranks)
            shares.append(data.batches(step.packs))
        assert len({len(share) for share in shares}) == 1, "every rank makes the same number of passes"
        trained = [i for share in shares for batch in share for i in batch.documents]
        assert sorted(trained) == sorted(i for pack in step.packs for i in pack)


def test_the_cache_is_whole_or_absent(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    tokenise(student, traces, branch(), tmp_path)
    first = load(tmp_path)
    (tmp_path / "documents" / "tokens.npy").unlink()
    (tmp_path / "documents").rename(tmp_path / ".documents")  # as a kill in the middle of writing leaves it
    tokenise(student, traces, branch(), tmp_path)
    for field in dataclasses.fields(Documents):
        assert np.array_equal(getattr(first, field.name), getattr(load(tmp_path), field.name))
