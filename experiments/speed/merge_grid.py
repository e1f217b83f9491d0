"""One process: ten values of λ on one pair in one pass, to disk, to memory or to digests."""

import sys
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from bm.config import Merge, typed
from bm.merge import merge_grid, merge_many
from bm.merge.methods import arcee_fusion
from bm.merge.order import parse
from bm.merge.sinks import Digest, Memory
from experiments.speed.merge import LAMBDAS

CONF = Path(__file__).parents[2] / "conf"


def main(target: str, base: Path, expert: Path, output: Path) -> None:
    settings = OmegaConf.load(CONF / "settings" / "merge.yaml")
    config = typed(Merge, {"methods": {}, **OmegaConf.to_container(settings)})
    methods = {
        f"lambda-{lam}": partial(arcee_fusion, lam=lam, variant="exact", difference="absolute") for lam in LAMBDAS
    }
    order, models = parse("expert & base", ["expert", "base"]), {"expert": expert, "base": base}
    if target == "disk":
        merge_grid(order, methods, models, None, config, output)
    else:
        sinks = [Digest() if target == "digest" else Memory() for _ in methods]
        merge_many(order, list(methods.values()), models, None, config, sinks)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
