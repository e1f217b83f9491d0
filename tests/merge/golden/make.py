"""Makes the golden results: what mergekit 0.1.5 answers to `cases.py`. Run in an environment that has it:

python -m tests.merge.golden.make        # from the root; writes methods, tied and configs.safetensors
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from mergekit.merge_methods import get
from mergekit.merge_methods.base import TensorGroup
from safetensors.torch import load_file, save_file

from tests.merge.golden.cases import CONFIGS, FUSIONS, METHODS, TIED, Case
from tests.merge.golden.inputs import coarse, uniform, weights, write_models

HERE = Path(__file__).parent


@contextmanager
def masks_from(seed: int) -> Iterator[None]:
    """torch.bernoulli(p) as `uniform < p`, with the numbers of the draw's place: so the tests know the masks."""
    draws = iter(range(100))

    def bernoulli(probability: torch.Tensor) -> torch.Tensor:
        numbers = torch.from_numpy(uniform(seed, next(draws), tuple(probability.shape)))
        return (numbers < probability).to(probability.dtype)

    with mock.patch("torch.bernoulli", bernoulli):
        yield


def merge_tensor(seed: int, case: Case, few_digits: bool = False) -> torch.Tensor:
    """What mergekit makes of one case, float32; of weights of `few_digits`."""
    base, *others = (torch.from_numpy(w) for w in weights(seed, case.models, case.shape, case.update))
    if few_digits:
        base, *others = coarse([base, *others])
    tensors = [base, *others] if case.base or not others else others
    group = TensorGroup.from_tensors(tensors, base_index=0 if case.base and others else None, name="w")
    with masks_from(seed):
        (merged,) = get(case.method)([group], parameters={**case.shared, **case.per_model})
    return merged


def merge_models(config: dict[str, Any], folders: dict[str, Path], output: Path) -> torch.Tensor:
    """What mergekit makes of one config on the models in `folders`: all parameters in one row, tensors by name."""
    run_merge(
        MergeConfiguration.model_validate(located(config, folders)),
        str(output),
        MergeOptions(quiet=True, write_model_card=False),
    )
    tensors = {name: tensor for shard in output.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def located(config: Any, folders: dict[str, Path]) -> Any:
    """The config with each model's folder in its place, and bfloat16 out where it names no type."""

    def folder(match: re.Match[str]) -> str:
        return f"{match[1]}: {folders[match[2]]}\n"

    text = re.sub(r"(model|source|path): ([A-D])\n", folder, yaml.safe_dump(config))
    placed = yaml.safe_load(text)
    return placed if "dtype" in placed else {**placed, "out_dtype": "bfloat16"}


def main() -> None:
    save_file(
        {name: merge_tensor(seed, case) for seed, (name, case) in enumerate(METHODS.items())},
        HERE / "methods.safetensors",
    )
    seeds = {name: seed for seed, name in enumerate(METHODS)}
    save_file({name: merge_tensor(seeds[name], METHODS[name], True) for name in TIED}, HERE / "tied.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        folders = write_models(Path(scratch))
        merged = {
            name: merge_models(config, folders, Path(scratch, name)) for name, config in (CONFIGS | FUSIONS).items()
        }
    save_file(merged, HERE / "configs.safetensors")


if __name__ == "__main__":
    main()
