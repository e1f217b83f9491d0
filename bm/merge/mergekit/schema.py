"""A mergekit config (0.1.5) in its own terms: what it may hold, and what of it is refused, each by name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bm.errors import UserError, nearest
from bm.merge.folder import is_adapter
from bm.merge.mergekit.adapters import joined, named, replaced
from bm.merge.schedule import Setting

DType: TypeAlias = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"],
    BeforeValidator(lambda value: value.removeprefix("torch.") if isinstance(value, str) else value),
]
UNUSED = ("name", "residual_weight")
"""Settings that mergekit reads, or that its users write, and that never have an effect."""


ADAPTERS = "write `model+adapter`, the folder of its base model before its own"


def _folder(value: Any) -> Any:
    """A model's local folder out of mergekit's ways to name one: a path, or a mapping around it."""
    value = joined(value)
    if isinstance(value, Mapping):
        extra = sorted(name for name in set(value) - {"model", "path"} if value[name] is not None)
        if extra:
            raise ValueError(f"`{extra[0]}` of a model is not supported; give the folder of a plain model")
        return _folder(value.get("model", value.get("path")))
    if not isinstance(value, str | Path):
        raise ValueError(f"{value!r} is no model; give a folder")
    path = Path(value)
    if is_adapter(path):
        raise ValueError(f"'{value}' is a LoRA adapter; {ADAPTERS}")
    if path.is_dir():
        return path
    if named(str(value)):
        return path
    if "+" in str(value):
        raise ValueError(f"'{value}': needs a model's folder before the + and an adapter's (peft) behind it")
    if "@" in str(value):
        raise ValueError(f"'{value}': revisions are not supported; fetch that one and give its folder")
    raise ValueError(f"'{value}' is not a directory on this disk; models are not downloaded, so fetch it first")


Folder = Annotated[Path, BeforeValidator(_folder)]
Parameters = Annotated[Mapping[str, Setting], BeforeValidator(lambda value: {} if value is None else value)]


class _Part(BaseModel):
    """A mapping of a config. What mergekit does not know it passes over; `unknown` names that."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise ValueError(f"must be a mapping, not {values!r}")
        return values

    def unknown(self) -> Iterator[str]:
        """Every setting here and below that has no effect, with a hint where it resembles one that has."""
        for name in sorted(self.model_extra or ()):
            hint = "" if name in UNUSED else nearest(name, type(self).model_fields)
            yield f"`{name}`{hint if 'did you mean' in hint else ''}"
        for field in type(self).model_fields:
            value = getattr(self, field)
            for part in (
                value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
            ):
                if isinstance(part, _Part):
                    yield from part.unknown()


class Input(_Part):
    """A model that takes part as a whole."""

    model: Folder
    parameters: Parameters = {}


class SliceSource(_Part):
    """Layers [first, end) of one model."""

    model: Folder
    layer_range: tuple[Annotated[int, Field(ge=0)], int]
    parameters: Parameters = {}


class Slice(_Part):
    """Some layers of the output: one merge of the same number of layers of every source."""

    sources: Annotated[tuple[SliceSource, ...], Field(min_length=1)]
    base_model: Folder | None = None
    parameters: Parameters = {}

    @property
    def layers(self) -> int:
        first, end = self.sources[0].layer_range
        return end - first

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = [source.layer_range[1] - source.layer_range[0] for source in self.sources]
        if min(lengths) < 1 or len(set(lengths)) > 1:
            raise ValueError(f"the sources of a slice must have the same number of layers, at least one, not {lengths}")
        return self


class TokenOf(_Part):
    """Another token's embedding in some model."""

    kind: Literal["model_token"]
    model: Folder
    token_id: int | None = None
    token: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.token_id is None) == (self.token is None):
            raise ValueError("a model_token needs either `token` or `token_id`")
        return self


class Zero(_Part):
    """The zero embedding."""

    kind: Literal["zero"]


def _token_source(value: Any) -> Any:
    match value.get("kind") if isinstance(value, Mapping) else None:
        case "model_token":
            return TokenOf.model_validate(value)
        case "zero":
            return Zero.model_validate(value)
    return None if value is None else _folder(value)


class Token(_Part):
    """Where a token's embedding comes from when a model lacks the token, or always with `force`."""

    source: Annotated[TokenOf | Zero | Path | None, BeforeValidator(_token_source)] = None
    force: bool = False


TokenizerSource = Annotated[
    Literal["union", "base"] | Path, BeforeValidator(lambda v: v if v in ("union", "base") else _folder(v))
]


class Tokenizer(_Part):
    """The output's vocabulary, and how embeddings are found for it."""

    source: TokenizerSource = "union"
    tokens: Annotated[Mapping[str, Token], BeforeValidator(lambda value: {} if value is None else value)] = {}
    pad_to_multiple_of: Annotated[int, Field(gt=0)] | None = None


class Config(_Part):
    """A whole mergekit config."""

    merge_method: str
    models: Annotated[tuple[Input, ...], Field(min_length=1)] | None = None
    slices: Annotated[tuple[Slice, ...], Field(min_length=1)] | None = None
    base_model: Folder | None = None
    dtype: DType | None = None
    out_dtype: DType | None = None
    tokenizer_source: TokenizerSource | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    parameters: Parameters = {}

    @model_validator(mode="before")
    @classmethod
    def _one_module(cls, values: Any) -> Any:
        """A config whose `modules` are one module is that module's `models` or `slices`."""
        if not isinstance(values, Mapping) or not isinstance(values.get("modules"), Mapping):
            return values
        rest = {name: value for name, value in values.items() if name != "modules"}
        if rest.get("models") or rest.get("slices"):
            raise ValueError("give either `models`, `slices` or `modules`")
        (module, *others) = values["modules"].values() or [None]
        if others or not isinstance(module, Mapping):
            raise ValueError("`modules`: configs of several modules are not supported; merge each module's folder")
        parameters = {**(rest.get("parameters") or {}), **(module.get("parameters") or {})}
        return {**rest, **module, "parameters": parameters}

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.models is None) == (self.slices is None):
            raise ValueError("give either `models` or `slices`")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise ValueError("give either `tokenizer_source` or `tokenizer`")
        for sources in [self.models] if self.models else [part.sources for part in self.slices or ()]:
            names = [source.model for source in sources]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise ValueError(f"'{twice}' is merged with itself; a merge takes each model once")
        return self

    @property
    def folders(self) -> list[Path]:
        """Every model named, the base first, then in the config's order."""
        named = [source.model for source in self.models or ()]
        named += [source.model for part in self.slices or () for source in part.sources]
        bases = [self.base_model, *(part.base_model for part in self.slices or ())]
        return list(dict.fromkeys([*(base for base in bases if base), *named]))


def read_config(file: Path, folders: Mapping[str, str] = MappingProxyType({})) -> Config:
    """The config in `file`; UserError with one line on the first thing in it that is wrong or not supported.

    folders: by name, what stands in the place of a model (`model+adapter`).
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UserError(f"{file}: cannot be read ({problem.strerror})") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UserError(f"{file}: not YAML ({' '.join(str(problem).split())})") from problem
    try:
        return Config.model_validate(replaced(values, folders))
    except ValidationError as problem:
        first = problem.errors()[0]
        path = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{file}: {path}: {message}" if path else f"{file}: {message}") from problem
