"""What the methods of singular vectors share: a matrix's updates, a strip at a time, and what their Gram matrices tell.

Let X_k be the update u_k = θ_k − θ_base of a matrix with its shorter side, s entries, as columns: u_k itself where it
is tall, its transpose where it is wide. The right singular vectors and the singular values of X_k are those of the Gram
matrix X_kᵀX_k [s, s], the left ones follow strip by strip from X_k·V·S⁻¹, and a method's result is a sum of X_k·C_k. So
no method holds a tall matrix (an embedding has s² ≪ its entries); a wide one is turned once. Sums are float64 in an
order that the shape alone decides: the bits do not depend on the number of threads.

A Gram matrix squares singular values, so those below NULL of the largest are rounding and count as zero. What has no
direction of its own gets none: where a paper's SVD fills up the null space with some basis, nothing is put here.
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import Sparse, Weights, add, each
from bm.merge.sources import Source, is_finite
from bm.merge.tensors import Apply, Tensors, Tile

STRIP = 1 << 22  # entries of one model's strip, or as many rows as it has columns
NULL = 1e-7

Strip: TypeAlias = Tensor
"""[models, rows, s] float64."""


def is_matrix(tensors: Tensors) -> bool:
    """Whether a tensor maps vectors to vectors, so that it has singular vectors to speak of."""
    return len(tensors.shape) == 2 and min(tensors.shape) > 1


def averaged(tensors: Tensors, weights: Weights, lam: float) -> Apply:
    """θ_base + λ·mean_k w_k·u_k: what the papers do with everything but matrices."""
    own = each(weights, tensors)
    return add([Sparse(k) for k in range(len(own))], own, lam / len(own), normalize=False)


class Strips:
    """The updates of a matrix, each times its weight, in strips of rows; `turn`: of columns where it is wide."""

    def __init__(self, tensors: Tensors, weights: Weights = 1.0, *, turn: bool = True) -> None:
        self.tensors, self.models = tensors, len(tensors.models)
        self.rows, self.columns = tensors.shape
        own = each(weights, tensors)
        self.weights = torch.tensor(own, dtype=torch.float64, device=tensors.run.device).view(-1, 1, 1)
        self.turned = turn and self.rows < self.columns
        self.width = self.rows if self.turned else self.columns
        self._held = self._read(0, self.rows).to(tensors.run.dtype).transpose(1, 2) if self.turned else None

    def _read(self, first: int, last: int) -> Tensor:
        """Rows [first, last) of every update: [models, rows, columns] float64."""

        def theta(source: Source) -> Tensor:
            values = source.read(first * self.columns, last * self.columns)
            if not is_finite(values):
                raise UserError(
                    f"{self.tensors.name}: NaN or infinity in {self.tensors.name_of(source)}; it cannot be merged"
                )
            return values.to(self.tensors.run.device, torch.float64).view(-1, self.columns)

        if self.tensors.base is None:
            raise UserError(f"{self.tensors.name}: this merge method needs a base model")
        base = theta(self.tensors.base)
        return torch.stack([theta(model) - base for model in self.tensors.models])

    def __iter__(self) -> Iterator[Strip]:
        long = self.columns if self.turned else self.rows
        height = max(self.width, STRIP // self.width)
        for first in range(0, long, height):
            last = min(first + height, long)
            strip = self._read(first, last) if self._held is None else self._held[:, first:last].double()
            yield strip * self.weights

    def cross(self, f: Callable[[Strip], Tensor], g: Callable[[Strip], Tensor]) -> Tensor:
        """Σ f(strip)ᵀ·g(strip), each [rows, any]."""
        return self._sum(lambda strip: f(strip).T @ g(strip))

    def gram(self, f: Callable[[Strip], Tensor]) -> Tensor:
        """Σ f(strip)ᵀ·f(strip)."""

        def product(strip: Strip) -> Tensor:
            part = f(strip)
            return part.T @ part

        return self._sum(product)

    def _sum(self, f: Callable[[Strip], Tensor]) -> Tensor:
        strips = iter(self)
        total = f(next(strips))
        for strip in strips:
            total += f(strip)
        return total

    def merged(self, f: Callable[[Strip], Tensor]) -> Apply:
        """θ_base + f(updates), f row by row: [models, rows, s] → [rows, s]."""
        if not self.turned:

            def by_tile(tile: Tile) -> Tensor:
                updates = torch.stack([model.double() - tile.kept for model in tile.models])
                return (tile.kept + f(updates * self.weights)).to(tile.kept.dtype)

            return by_tile
        whole = torch.cat([f(strip).to(self.tensors.run.dtype) for strip in self]).T.contiguous()
        self._held = None

        def by_rows(tile: Tile) -> Tensor:
            return tile.kept + whole[tile.start // self.columns : tile.stop // self.columns]

        return by_rows


def of(k: int) -> Callable[[Strip], Tensor]:
    """Model k's update."""
    return lambda strip: strip[k]


def total(strip: Strip) -> Tensor:
    """The sum of all updates."""
    return strip.sum(0)


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [s], largest first, and right singular vectors [s, s] of what has this Gram matrix."""
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp(min=0).sqrt()
    return torch.where(values > NULL * values[0], values, 0), vectors.flip(1)


def inverse(values: Tensor) -> Tensor:
    """1/x, and 0 where x is 0."""
    return torch.where(values > 0, 1 / values, 0)


def inverse_root(gram: Tensor) -> Tensor:
    """(XᵀX)^(−½), pseudo-inverse where singular: X·(XᵀX)^(−½) is the orthogonal matrix nearest to X (Procrustes)."""
    values, vectors = spectrum(gram)
    return (vectors * inverse(values)) @ vectors.T
