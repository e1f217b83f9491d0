"""Models of different vocabularies on one: `tokenizer_source` and the `tokenizer` section.

Each row of an output embedding is, for every model, its own row of the same token. A model that lacks a token takes the
row that `tokens` names; else the only model's that has it, else the base's, else the mean over the models that have it,
else zeros. (mergekit asks only the models of one slice; here all of the config are asked.)
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from bm.errors import UserError
from bm.merge.dtypes import Dtype
from bm.merge.lazy import Tensor, torch
from bm.merge.mergekit.schema import Config, Token, Tokenizer, TokenOf, Zero
from bm.merge.tensors import Source

INDEXED = re.compile(r"(^|\.)(embed_tokens|word_embeddings|embed_in|wte|lm_head|embed_out)\.(weight|bias)$")
"""Parameters whose first dimension counts tokens."""

Checkpoints: TypeAlias = Mapping[Path, Mapping[str, Source]]
Known: TypeAlias = Mapping[Path, Mapping[str, int]]
"""Every model's tokens and their rows."""
Row: TypeAlias = tuple[tuple[Path, int], ...]
"""Whose rows are averaged to one output row; none: zeros."""


@dataclass(frozen=True)
class Vocabulary:
    """The output's tokenizer, and for each model where every output row comes from, with `padding` mean rows after."""

    tokenizer: Any
    rows: Mapping[Path, Sequence[Row]]
    padding: int

    @property
    def size(self) -> int:
        """Rows of the output's embeddings."""
        return len(next(iter(self.rows.values()))) + self.padding

    def aligned(self, checkpoints: Checkpoints) -> Checkpoints:
        """The checkpoints with every token-indexed parameter in the output's vocabulary."""
        return {
            folder: {
                name: self._aligned(folder, name, checkpoints) if INDEXED.search(name) else tensor
                for name, tensor in tensors.items()
            }
            for folder, tensors in checkpoints.items()
        }

    def _aligned(self, folder: Path, name: str, checkpoints: Checkpoints) -> "Aligned":
        own = checkpoints[folder][name]
        sources = {other: tensors.get(name) for other, tensors in checkpoints.items()}
        runs: list[Run] = []
        for place, row in enumerate(self.rows[folder]):
            parts = tuple((_held(sources[other], name, other), index) for other, index in row)
            if runs and runs[-1].goes_on_with(parts, place):
                continue
            runs.append(Run(place, parts))
        return Aligned((self.size, *own.shape[1:]), own.dtype, runs, self.padding)


def _held(source: Source | None, name: str, folder: Path) -> Source:
    if source is None:
        raise UserError(f"{folder} has no {name}, which a token's row should come from")
    return source


@dataclass(frozen=True)
class Run:
    """Output rows from `start` to the next run's: the mean over `parts` of the rows from `index` on."""

    start: int
    parts: tuple[tuple[Source, int], ...]

    def goes_on_with(self, parts: tuple[tuple[Source, int], ...], place: int) -> bool:
        offset = place - self.start
        return [(s, i + offset) for s, i in self.parts] == list(parts)


@dataclass(frozen=True, eq=False)
class Aligned:
    """A token-indexed parameter in another vocabulary, made of stored rows as they are read."""

    shape: tuple[int, ...]
    dtype: Dtype
    runs: Sequence[Run]
    padding: int

    @property
    def width(self) -> int:
        return math.prod(self.shape[1:])

    def read(self, start: int, stop: int) -> Tensor:
        """Flat elements [start, stop)."""
        first, last = start // self.width, -(-stop // self.width)
        rows = self._rows(first, min(last, self.shape[0] - self.padding))
        if last > self.shape[0] - self.padding:
            rows = torch.cat([rows, self.mean.expand(last - first - len(rows), -1)])
        return rows.reshape(-1)[start - first * self.width : stop - first * self.width]

    @cached_property
    def mean(self) -> Tensor:
        """The mean of all rows but the padding."""
        tokens = self.shape[0] - self.padding
        parts = [self._rows(i, min(i + 4096, tokens)).double().sum(0) for i in range(0, tokens, 4096)]
        return (torch.stack(parts).sum(0) / tokens).to(self.dtype.torch)

    def _rows(self, first: int, last: int) -> Tensor:
        """[last − first, width]."""
        pieces, starts = [torch.empty(0, self.width, dtype=self.dtype.torch)], [run.start for run in self.runs]
        while first < last:
            place = bisect_right(starts, first)
            end = min([last, *starts[place : place + 1]])
            pieces.append(self._piece(self.runs[place - 1], first, end))
            first = end
        return torch.cat(pieces)

    def _piece(self, run: Run, first: int, end: int) -> Tensor:
        blocks = []
        for source, index in run.parts:
            begin = (index + first - run.start) * self.width
            blocks.append(source.read(begin, begin + (end - first) * self.width).view(-1, self.width))
        if len(blocks) == 1:
            return blocks[0].to(self.dtype.torch)
        total = torch.zeros(end - first, self.width, dtype=torch.float64)
        return (sum((block.double() for block in blocks), total) / max(1, len(blocks))).to(self.dtype.torch)


def vocabulary(config: Config, checkpoints: Checkpoints) -> Vocabulary | None:
    """The output's vocabulary when the config asks for one and some model has another; None: rows stay as they are."""
    folders, lead = config.folders, config.folders[0]
    section = config.tokenizer or (Tokenizer(source=config.tokenizer_source) if config.tokenizer_source else None)
    if section is None:
        _check_same(folders)
        return None
    tokenizers = {folder: _tokenizer(folder) for folder in folders}
    output = _output(section, lead, tokenizers)
    ids = output.get_vocab()
    sizes = {folder: _embedding_rows(folder, checkpoints[folder]) for folder in folders}
    known = {f: {token: i for token, i in tokenizers[f].get_vocab().items() if i < sizes[f]} for f in folders}
    same = len(set(sizes.values())) == 1 and all(vocabulary == ids for vocabulary in known.values())
    if same and not section.tokens and not section.pad_to_multiple_of:
        return None
    order: list[str | None] = [None] * (1 + max(ids.values()))
    for token, index in ids.items():
        order[index] = token
    lacking = {token: _default(token, section.tokens.get(token), known, sizes, config.base_model) for token in ids}
    rows = {folder: [_row(folder, token, known, lacking, section) for token in order] for folder in folders}
    return Vocabulary(output, rows, -len(order) % (section.pad_to_multiple_of or 1))


def _check_same(folders: Sequence[Path]) -> None:
    """UserError unless every folder that has a tokenizer gives the same ids to the same tokens."""
    contents = {folder: (folder / "tokenizer.json").read_bytes() for folder in folders if _has_tokenizer(folder)}
    if len(set(contents.values())) < 2:
        return
    first, *others = ((folder, _tokenizer(folder).get_vocab()) for folder in contents)
    for folder, ids in others:
        token = next((t for t in sorted({*ids, *first[1]}) if ids.get(t) != first[1].get(t)), None)
        if token is not None:
            raise UserError(
                f"token {token!r} has id {first[1].get(token)} in {first[0]}, {ids.get(token)} in {folder}; "
                "`tokenizer_source: base` or `union` aligns vocabularies"
            )


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as problem:
        raise UserError(f"{folder}: its tokenizer cannot be loaded ({str(problem).splitlines()[0]})") from problem


def _output(section: Tokenizer, lead: Path, tokenizers: Mapping[Path, Any]) -> Any:
    """A folder's tokenizer, the base's (or first model's), or that with all others' tokens; and the tokens named."""
    output = _tokenizer(section.source if isinstance(section.source, Path) else lead)
    if section.source == "union":
        special = [token for tokenizer in tokenizers.values() for token in tokenizer.added_tokens_decoder.values()]
        names = {token.content for token in special}
        for tokenizer in tokenizers.values():
            output.add_tokens(_missing(output, [token for token in _in_order(tokenizer) if token not in names]))
        output.add_tokens([token for token in special if token.content not in output.get_vocab()])
    output.add_tokens(_missing(output, section.tokens))
    return output


def _in_order(tokenizer: Any) -> list[str]:
    ids: dict[str, int] = tokenizer.get_vocab()
    return sorted(ids, key=lambda token: ids[token])


def _missing(tokenizer: Any, tokens: Iterable[str]) -> list[str]:
    ids = tokenizer.get_vocab()
    return [token for token in tokens if token not in ids]


def _embedding_rows(folder: Path, tensors: Mapping[str, Source]) -> int:
    counts = {tensor.shape[0] for name, tensor in tensors.items() if INDEXED.search(name) and tensor.shape}
    if len(counts) != 1:
        raise UserError(f"{folder}: embeddings of {sorted(counts) or 'no'} rows are found; they cannot be aligned")
    return counts.pop()


def _default(token: str, wanted: Token | None, known: Known, sizes: Mapping[Path, int], base: Path | None) -> Row:
    """The row of a token for the models that lack it."""
    if wanted and wanted.source is not None:
        return _wanted(token, wanted.source, known, sizes)
    having = {folder: ids[token] for folder, ids in known.items() if token in ids}
    return ((base, having[base]),) if base in having else tuple(having.items())


def _wanted(token: str, source: TokenOf | Zero | Path, known: Known, sizes: Mapping[Path, int]) -> Row:
    if isinstance(source, Zero):
        return ()
    folder = source.model if isinstance(source, TokenOf) else source
    if folder not in known:
        raise UserError(f"tokenizer.tokens.{token}: {folder} is not among the models merged")
    name = token if isinstance(source, Path) or source.token is None else source.token
    index = source.token_id if isinstance(source, TokenOf) and source.token is None else known[folder].get(name)
    if index is None or not 0 <= index < sizes[folder]:
        raise UserError(f"tokenizer.tokens.{token}: {folder} has no such token")
    return ((folder, index),)


def _row(
    folder: Path,
    token: str | None,
    known: Known,
    lacking: Mapping[str, Row],
    section: Tokenizer,
) -> Row:
    if token is None:
        return ()
    forced = token in section.tokens and section.tokens[token].force
    return lacking[token] if forced or token not in known[folder] else ((folder, known[folder][token]),)
