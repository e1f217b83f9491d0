"""Where the entries of a tensor come from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from bm.merge.dtypes import Dtype, dtype_of
from bm.merge.lazy import Tensor, torch


class Source(Protocol):
    """Where the entries of one tensor come from: a file, memory, or an earlier merge step."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Dtype: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Flat elements [start, stop) in the stored dtype."""


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor in memory as a source."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> Dtype:
        return dtype_of(self.tensor.dtype)

    def read(self, start: int, stop: int) -> Tensor:
        return self.tensor.reshape(-1)[start:stop]


@dataclass(frozen=True, eq=False)
class Cast:
    """A source in another dtype."""

    source: Source
    dtype: Dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def read(self, start: int, stop: int) -> Tensor:
        return self.source.read(start, stop).to(self.dtype.torch)


class Forgetting(ABC):
    """A source whose entries count as this process's memory once they were looked at."""

    @abstractmethod
    def forget(self, start: int, stop: int) -> None:
        """Until it is told that nobody looks at flat elements [start, stop) any more."""


class Releasing(ABC):
    """A source that holds memory for those who read it."""

    @abstractmethod
    def release(self) -> None:
        """Gives it back."""


def is_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite: seen from their sum, and looked for only where the sum is not finite."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
