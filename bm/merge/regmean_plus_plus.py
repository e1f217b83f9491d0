"""What RegMean++ needs to know of experts (2025, arXiv 2508.03121): their layers' inputs above layers that are merged.

The model is merged from the embedding up. At each layer every expert's own layer is run on what the merged layers below
make of that expert's traces, which gives the Gram matrices of its linear layers; the layer is merged with them, and run
to give the inputs of the next. One model, one layer of an expert, and the hidden states of all traces are in memory. A
killed run resumes above the last layer that it saved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bm.errors import UserError
from bm.merge.checkpoint import checkpoint
from bm.merge.dtypes import dtype_of
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.regmean import regmean
from bm.merge.sources import Held, Source
from bm.merge.statistics import FILE, PARTIAL, SAVE_SECONDS, Example, add_outer, load, save
from bm.merge.tensors import Compute, Tensors
from bm.progress import progress

if TYPE_CHECKING:
    from torch import nn

Grams = dict[str, dict[str, Tensor]]
"""By expert, the mean x·xᵀ [in, in] under the name of each linear layer's weight."""


def measure_together(
    models: Mapping[str, Path],
    examples: Mapping[str, Sequence[Example]],
    alpha: float,
    work: Path,
    device: str = "cpu",
    dtype: str = "float32",
) -> dict[str, Any]:
    """The Gram matrices of every expert into `work/NAME/`; `alpha` as in the merge that they are for.

    UserError where the model has no list of decoder layers, or an expert no traces. Facts: examples, tokens.
    """
    if not all(examples.get(name) for name in models):
        raise UserError("regmean_plus_plus needs at least one trace of each expert's domain")
    with torch.no_grad(), ExitStack() as stack:
        sources = {name: stack.enter_context(checkpoint(folder)) for name, folder in models.items()}
        network = load(next(iter(models.values())), device, dtype)
        grams = _climb(Climb(network, sources, alpha), examples, work)
    for name in models:
        (work / name).mkdir(exist_ok=True)
        save(grams[name], work / name / FILE, len(examples[name]))
    (work / PARTIAL).unlink(missing_ok=True)
    tokens = sum(len(e.prompt_ids) + len(e.response_ids) for own in examples.values() for e in own)
    return {"examples": sum(map(len, examples.values())), "tokens": tokens}


class Climb:
    """A network of which ever more is merged, and the experts' tensors that it is merged from."""

    def __init__(self, network: Any, sources: Mapping[str, Mapping[str, Source]], alpha: float) -> None:
        self.network, self.sources, self.alpha = network, sources, alpha
        self.layers: Sequence[nn.Module] = getattr(network.base_model, "layers", ())
        if not self.layers:
            raise UserError(f"{type(network).__name__}: no decoder layers, so regmean_plus_plus cannot merge it")
        self.names = {id(parameter): name for name, parameter in network.named_parameters()}

    def named(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """A module's parameters by their names in the network."""
        return {self.names[id(p)]: p for p in module.parameters() if id(p) in self.names}

    def put(self, module: nn.Module, expert: str) -> None:
        """An expert's weights into a module."""
        for name, parameter in self.named(module).items():
            source = self.sources[expert][name]
            parameter.copy_(source.read(0, parameter.numel()).view(parameter.shape))

    def merge(self, module: nn.Module, grams: Grams) -> None:
        """The experts' weights into a module, merged as `regmean` does."""
        for name, parameter in self.named(module).items():
            known = [Held(grams[expert][name]) for expert in self.sources if name in grams[expert]]
            models = [source[name] for source in self.sources.values()]
            run = Compute(dtype_of(parameter.dtype), str(parameter.device))
            tensors = Tensors(name, None, models, names=list(self.sources), statistics=known, run=run)
            apply = regmean(tensors, alpha=self.alpha)
            tiles = tensors.map(apply)
            parameter.copy_(torch.cat([t for t in tiles if isinstance(t, torch.Tensor)]).view(parameter.shape))

    @contextmanager
    def measuring(self, module: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Σ x·xᵀ of the inputs of a module's linear layers while it is run inside."""
        sums: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for layer in module.modules():
                if isinstance(layer, torch.nn.Linear) and id(layer.weight) in self.names:
                    total = layer.weight.new_zeros(layer.in_features, layer.in_features)
                    sums[self.names[id(layer.weight)]] = total
                    stack.callback(layer.register_forward_pre_hook(add_outer(total)).remove)
            yield sums


def _climb(climb: Climb, examples: Mapping[str, Sequence[Example]], work: Path) -> Grams:
    """Every layer measured and merged in turn, the head last."""
    grams = _saved(work, climb.sources)
    base, saved = climb.network.base_model, time.monotonic()
    climb.merge(base.get_input_embeddings(), grams)
    states = {name: [_entered(climb, example) for example in own] for name, own in examples.items()}
    tokens = {name: sum(hidden.shape[1] for hidden, _ in own) for name, own in states.items()}
    with progress("regmean++ statistics", len(climb.layers), "layers") as bar:
        for index, layer in enumerate(climb.layers):
            if not all(name in grams[expert] for expert in grams for name in _linear(climb, layer)):
                for expert, own in states.items():
                    climb.put(layer, expert)
                    with climb.measuring(layer) as sums:
                        for hidden, calls in own:
                            _through(layer, hidden, calls[index])
                    grams[expert] |= {name: total / tokens[expert] for name, total in sums.items()}
                if time.monotonic() - saved > SAVE_SECONDS:
                    flat = {f"{expert}/{name}": gram for expert, own in grams.items() for name, gram in own.items()}
                    save(flat, work / PARTIAL, index + 1)
                    saved = time.monotonic()
            climb.merge(layer, grams)
            for name, own in states.items():
                states[name] = [(_through(layer, hidden, calls[index]), calls) for hidden, calls in own]
            bar.advance(1)
    return _with_head(climb, states, tokens, grams)


def _linear(climb: Climb, module: nn.Module) -> list[str]:
    return [
        climb.names[id(m.weight)]
        for m in module.modules()
        if isinstance(m, torch.nn.Linear) and id(m.weight) in climb.names
    ]


def _saved(work: Path, experts: Mapping[str, Any]) -> Grams:
    grams: Grams = {expert: {} for expert in experts}
    if (work / PARTIAL).exists():
        from safetensors.torch import load_file

        for key, gram in load_file(work / PARTIAL).items():
            expert, _, name = key.partition("/")
            grams[expert][name] = gram
    return grams


def _entered(climb: Climb, example: Example) -> tuple[Tensor, list[Any]]:
    """What the first layer is given, [1, tokens, hidden], and what each layer is given besides (positions, masks)."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def hook(_: nn.Module, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        calls.append((arguments, more))

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in climb.layers]
    ids = torch.tensor([[*example.prompt_ids, *example.response_ids]], device=climb.network.device)
    climb.network.base_model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    (arguments, more) = calls[0]
    hidden = arguments[0] if arguments else more["hidden_states"]
    rest = [(own[1:], {name: value for name, value in m.items() if name != "hidden_states"}) for own, m in calls]
    return hidden, rest


def _through(layer: nn.Module, hidden: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    out = layer(hidden, *call[0], **call[1])
    after: Tensor = out[0] if isinstance(out, tuple) else out
    return after


def _with_head(
    climb: Climb, states: Mapping[str, Sequence[tuple[Tensor, Any]]], tokens: Mapping[str, int], grams: Grams
) -> Grams:
    """And the head's inputs, where it has weights of its own: those of the merged last norm."""
    head, norm = climb.network.get_output_embeddings(), getattr(climb.network.base_model, "norm", None)
    if norm is None or head.weight is climb.network.get_input_embeddings().weight:
        return grams
    climb.merge(norm, grams)
    for expert, own in states.items():
        climb.put(head, expert)
        with climb.measuring(head) as sums:
            for hidden, _ in own:
                head(norm(hidden))
        grams[expert] |= {name: total / tokens[expert] for name, total in sums.items()}
    return grams
