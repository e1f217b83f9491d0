"""A cell that differs in values alone is composed from files that were read once, to what Hydra makes of it."""

from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from bm.cli import conf_dir
from bm.overrides import opened
from bm.sweeps.sweeper import GridSweep

CELLS = [
    ["merge=ties", "merge.methods.ties.density=0.3", "seed=3"],
    ["merge=ties", "merge.methods.ties.density=0.7", "seed=4"],
    ["merge=[linear,arcee_fusion]", "~mixture", "seed=3"],
    ["recipe=smollm2", "experiment=table2", "merge.out_dtype=float16"],
    ["domain=[math,coding]", "domains.math.traces=5", "++tracker.mode=disabled"],
    ["merge=arcee_fusion", "merge.schedule.lam=[1,2]", "evaluate.tasks=[a,b]"],
]


@pytest.mark.parametrize("stage", ["run"])
def test_a_cell_is_what_hydra_makes_of_it(stage: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        master = compose(stage, return_hydra_config=True)
        with open_dict(master):
            master.hydra.job.config_name = stage
        loader = GlobalHydra.instance().config_loader()
        sweep: Any = GridSweep({}, [], None, [], "continue", None)
        sweep.context, sweep.composed, sweep.stage = SimpleNamespace(config_loader=loader), master, stage
        sweep.parser = OverridesParser.create(config_loader=loader)
        for words in [*CELLS, CELLS[0]]:  # the first once more: nothing of other cells stays behind
            words = opened(stage, words)
            whole = loader.load_sweep_config(master, words)
            with open_dict(whole):
                del whole["hydra"]
            assert OmegaConf.to_container(sweep._composed(words)) == OmegaConf.to_container(whole)
        assert len(sweep._files) == 5
