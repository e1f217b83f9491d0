"""Run by torchrun: this many ranks compute the gradients of one process, over every mesh that they can form."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from bm.branch.attention import ISOLATED
from bm.branch.data import flat
from bm.branch.model import load, prove_isolation
from bm.branch.module import clip
from bm.branch.parallel import Place, summed
from tests.branch.conftest import trainer


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    whole = {name: p.grad for name, p in model.named_parameters()}
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in whole.items() if g is not None}


def compare(
    folder: Path, data: int, sequence: int, draw: np.random.Generator, resources: dict[str, object], tolerance: float
) -> None:
    """Two micro-batches a data rank, of documents of random lengths; `tolerance` is relative, of loss and gradients."""
    mesh = init_device_mesh("cpu", (data, sequence), mesh_dim_names=("data_parallel", "tensor_parallel"))
    place = Place.on(mesh)
    single, sharded = (
        load(folder, ISOLATED, 40, trainer(), None),
        load(folder, ISOLATED, 40, trainer(sequence_parallel=sequence, **resources), mesh),
    )
    loss, labels, total = torch.zeros(()), 0.0, torch.zeros(())
    batches = []
    for _ in range(2 * data):
        lengths = draw.integers(2, 40, draw.integers(1, 5)).tolist()
        prompts = [int(draw.integers(1, n)) for n in lengths]
        batches.append(flat([draw.integers(1, 61, n).astype(np.int32) for n in lengths], prompts, lengths))
        labels += sum(lengths) - sum(prompts)
    for index, batch in enumerate(batches):
        part = single(batch, labels)
        part.backward()
        loss += part.detach()
        if index % data == place.data_rank:
            mine = sharded(batch.stretch(place), labels)
            mine.backward()
            total += mine.detach()
    torch.testing.assert_close(summed(total), loss, rtol=tolerance, atol=0)
    expected, actual = gradients(single), gradients(sharded)
    assert expected.keys() == actual.keys()
    for name in expected:
        error = (actual[name] - expected[name]).norm() / expected[name].norm()
        assert error < tolerance, (data, sequence, name, error)
    torch.testing.assert_close(clip(sharded, 0.1), clip(single, 0.1), rtol=tolerance, atol=0)
    clipped = gradients(sharded)
    norm = torch.cat([g.flatten() for g in clipped.values()]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.1), rtol=1e-4, atol=0)
    prove_isolation(sharded, place, torch.device("cpu"))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks, draw = dist.get_world_size(), np.random.default_rng(0)
    for sequence in (n for n in (1, 2, 4) if ranks % n == 0):
        mesh = (ranks // sequence, sequence)
        for checkpointing in ("none", "selective", "full"):
            compare(folder, *mesh, draw, {"activation_checkpointing": checkpointing}, 1e-5)
        compare(folder, *mesh, draw, {"precision": "bf16-mixed"}, 3e-2)
    if dist.get_rank() == 0:
        print("all meshes agree")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
