"""What merge methods need to know of a model, measured on traces: one safetensors artefact.

All go through the examples one by one, add up what they measure, and divide at the end. A killed run resumes after the
last example it saved.
"""

import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import safe_open

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.progress import progress

if TYPE_CHECKING:
    from torch import nn

FILE = "model.safetensors"
PARTIAL = "partial.safetensors"
SAVE_SECONDS = 300


class Example(Protocol):
    """A rendered trace: token ids of the prompt, at least one, and of the response."""

    @property
    def prompt_ids(self) -> Sequence[int]: ...

    @property
    def response_ids(self) -> Sequence[int]: ...


def measure(kind: str, model: Path, examples: Sequence[Example], device: str, work: Path) -> dict[str, Any]:
    """The statistics that methods weighed by `kind` need of a model."""
    return {"fisher": fisher, "regmean": regmean, "activations": activations}[kind](model, examples, work, device)


def fisher(
    model: Path, examples: Sequence[Example], work: Path, device: str = "cpu", dtype: str = "float32"
) -> dict[str, Any]:
    """The diagonal of the empirical Fisher matrix (Matena & Raffel 2022, arXiv 2111.09832, section 3), in `work`.

    F = mean over examples of (∂ log p(response | prompt) / ∂θ)², the observed response in place of samples from the
    model; one tensor a parameter, of its name and shape, in `dtype`. Needs memory for the model, its gradient and F.
    Facts: examples, tokens (of the responses).
    """
    network = load(model, device, dtype)
    sums = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}

    def measure(example: Example) -> None:
        network.zero_grad(set_to_none=True)
        log_likelihood(network, example).backward()  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                sums[name].addcmul_(parameter.grad, parameter.grad)

    _measure_all("fisher", measure, examples, sums, work)
    tokens = sum(len(example.response_ids) for example in examples)
    return _finish({name: total / len(examples) for name, total in sums.items()}, examples, tokens, work)


def regmean(
    model: Path, examples: Sequence[Example], work: Path, device: str = "cpu", dtype: str = "float32"
) -> dict[str, Any]:
    """The Gram matrices of the inputs of a model's linear layers (Jin et al. 2023, arXiv 2212.09849), in `work`.

    G = mean over the examples' tokens of x·xᵀ, x [in] the layer's input: one [in, in] tensor for each `nn.Linear`,
    under the name of its weight, in `dtype`. A mean, so that experts with more traces do not count more.
    Facts: examples, tokens (of prompts and responses).
    """
    network = load(model, device, dtype)
    own = dict(network.named_parameters())
    layers = {f"{name}.weight": layer for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)}
    layers = {name: layer for name, layer in layers.items() if name in own}  # a tied head is the embedding's parameter
    sums = {name: layer.weight.new_zeros(layer.in_features, layer.in_features) for name, layer in layers.items()}

    for name, layer in layers.items():
        layer.register_forward_pre_hook(add_outer(sums[name]))
    return _means_of_inputs("regmean", network, examples, sums, work)


def activations(
    model: Path, examples: Sequence[Example], work: Path, device: str = "cpu", dtype: str = "float32"
) -> dict[str, Any]:
    """How large the inputs of a model's linear layers and norms are (AIM, arXiv 2502.02421, section 3), in `work`.

    The mean over the examples' tokens of |x|: one [in] tensor for each module with a weight that is no embedding, under
    the name of that weight, in `dtype`. Facts: examples, tokens (of prompts and responses).
    """
    network = load(model, device, dtype)
    own = dict(network.named_parameters())
    modules = {f"{name}.weight": m for name, m in network.named_modules() if not isinstance(m, torch.nn.Embedding)}
    modules = {name: module for name, module in modules.items() if name in own}
    sums = {name: own[name].new_zeros(own[name].shape[-1]) for name in modules}
    for name, module in modules.items():
        module.register_forward_pre_hook(_add_magnitude(sums[name]))
    return _means_of_inputs("activations", network, examples, sums, work)


def add_outer(total: Tensor) -> Callable[["nn.Module", tuple[Tensor, ...]], None]:
    """A hook that adds Σ x·xᵀ of a module's inputs to `total` [in, in]."""

    def hook(_: "nn.Module", inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().flatten(0, -2)
        total.addmm_(x.T, x)

    return hook


def _add_magnitude(total: Tensor) -> Callable[["nn.Module", tuple[Tensor, ...]], None]:
    def hook(_: "nn.Module", inputs: tuple[Tensor, ...]) -> None:
        total.add_(inputs[0].detach().abs().flatten(0, -2).sum(0))

    return hook


def _means_of_inputs(
    kind: str, network: Any, examples: Sequence[Example], sums: dict[str, Tensor], work: Path
) -> dict[str, Any]:
    """Runs the examples through a network whose hooks add to `sums`, and keeps the means over tokens."""

    def measure(example: Example) -> None:
        ids = [*example.prompt_ids, *example.response_ids]
        with torch.no_grad():
            network(torch.tensor([ids], device=network.device))

    _measure_all(kind, measure, examples, sums, work)
    tokens = sum(len(example.prompt_ids) + len(example.response_ids) for example in examples)
    return _finish({name: total / tokens for name, total in sums.items()}, examples, tokens, work)


def log_likelihood(network: Any, example: Example) -> Tensor:
    """log p(response | prompt), summed over the response's tokens: a scalar."""
    response = torch.tensor(example.response_ids, device=network.device)
    ids = torch.tensor([[*example.prompt_ids, *example.response_ids]], device=network.device)
    logits = network(ids, logits_to_keep=len(response) + 1).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(1, response[:, None]).sum()


def load(model: Path, device: str, dtype: str) -> Any:
    from bm.generate.weights import load_model

    network: Any = load_model(model, getattr(torch, dtype))
    return network.to(device).eval()


def _measure_all(
    kind: str, measure: Callable[[Example], None], examples: Sequence[Example], sums: dict[str, Tensor], work: Path
) -> None:
    """Measures every example in turn into `sums`, which are saved from time to time."""
    if not examples or not all(example.prompt_ids and example.response_ids for example in examples):
        raise UserError(f"{kind} statistics need at least one trace, each with a prompt and a response")
    done, saved = _resume(sums, work), time.monotonic()
    with progress(f"{kind} statistics", len(examples), "traces", done) as bar:
        for count, example in enumerate(islice(examples, done, None), done + 1):
            measure(example)
            bar.advance(1)
            if time.monotonic() - saved > SAVE_SECONDS:
                save(sums, work / PARTIAL, count)
                saved = time.monotonic()


def _resume(sums: dict[str, Tensor], work: Path) -> int:
    """Fills `sums` with what an earlier run saved; how many examples that was."""
    if not (work / PARTIAL).exists():
        return 0
    with safe_open(work / PARTIAL, framework="pt") as file:
        for name, total in sums.items():
            total.copy_(file.get_tensor(name))
        return int(file.metadata()["examples"])


def save(tensors: dict[str, Tensor], path: Path, examples: int) -> None:
    from safetensors.torch import save_file

    beside = path.with_name(path.name + ".part")
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(held, beside, metadata={"examples": str(examples)})  # two keys would be written in an order of chance
    os.replace(beside, path)


def _finish(means: dict[str, Tensor], examples: Sequence[Example], tokens: int, work: Path) -> dict[str, Any]:
    save(means, work / FILE, len(examples))
    (work / PARTIAL).unlink(missing_ok=True)
    return {"examples": len(examples), "tokens": tokens}
