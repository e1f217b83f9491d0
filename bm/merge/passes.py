"""The scores of one tensor, as the passes of `order_statistics` ask for them, tile by tile."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.quantiles import SAMPLE, SIGMAS
from bm.merge.tile import Tile

if TYPE_CHECKING:
    from bm.merge.tensors import Tensors

SAMPLED_TILES = 128  # at least, of a tensor whose scores are not held
COLLECTED = 1 << 24  # scores inside brackets that are held at once
ROW_DRAWS = 8  # draws that a row of theirs is worth


class TensorScores:
    """The scores f gives the tiles of a tensor, as `order_statistics` wants them."""

    def __init__(self, tensors: "Tensors", f: Callable[[Tile], Tensor]) -> None:
        self.tensors, self.f, self.elements = tensors, f, tensors.elements
        self.bits = 8 * tensors.run.dtype.itemsize

    def sample(self) -> tuple[Tensor, int]:
        """An even share of held scores; else evenly spaced tiles, where scores of a row are alike: few draws' worth."""
        scores = self.tensors.hold(self.f)
        if scores is not None:
            values = scores[:: max(1, self.elements // SAMPLE) | 1]
            return values, len(values)
        tiling = self.tensors.tiling
        wide = 3 * SIGMAS * self.elements / COLLECTED  # three brackets of the sample collect no more than that
        sampled = max(SAMPLED_TILES, round(wide**2 / (ROW_DRAWS * tiling.rows)))
        step = max(1, tiling.tiles // sampled)
        tasks = [range(i, i + 1) for i in range(step // 2, tiling.tiles, step)]
        share = max(1, len(tasks) * tiling.rows * tiling.columns // SAMPLE) | 1
        sizes = [-(-(stop - start) // share) for start, stop in map(tiling.span, tasks)]
        values = torch.empty(sum(sizes), dtype=self.tensors.run.dtype, device=self.tensors.run.device)
        places = dict(zip(tasks, torch.split(values, sizes), strict=True))

        def draw(task: range) -> None:
            places[task].copy_(self.f(next(self.tensors.tiles(task))).reshape(-1)[::share])

        self.tensors.run.map(draw, tasks)
        return values, ROW_DRAWS * len(tasks) * tiling.rows

    def total(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        def block(tiles: range) -> Tensor:
            total: Any = 0
            for tile in self.tensors.tiles(tiles):
                total = total + f(tile.of(self.f).to(self.tensors.run.dtype))
            summed: Tensor = total
            return summed

        tensors = self.tensors
        return torch.stack(tensors.run.map(block, tensors.run.blocks(tensors.tiling, len(tensors.models) + 1))).sum(0)

    def each(self, f: Callable[[Tensor], None]) -> None:
        self.tensors.map(lambda tile: f(self._finite(tile.of(self.f).to(self.tensors.run.dtype))))

    def _finite(self, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores.sum()) and not torch.isfinite(scores).all():
            raise UserError(f"{self.tensors.name}: NaN or infinity in one of the models; it cannot be merged")
        return scores
