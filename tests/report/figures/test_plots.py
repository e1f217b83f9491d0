import pytest

from bm.report.figures.drawing import LIGHT, inline, style
from bm.report.figures.lineage import depths
from bm.report.figures.plots import kept_share, loss, opacity
from bm.report.findings.evidence import Cost, Curve, KeptShare, Node


def test_a_curve_of_one_step_is_a_visible_mark() -> None:
    with style():
        of_one_step, of_two_steps = (
            inline(loss(Curve("math", "expert", steps, (2.5,) * len(steps))), "loss", "") for steps in ((1,), (1, 2))
        )
    assert "fill: var(--expert)" in of_one_step
    assert "fill: var(--expert)" not in of_two_steps


def test_curve_shows_every_step_and_its_running_mean() -> None:
    steps = tuple(range(1, 101))
    with style():
        axes = loss(Curve("math", "expert", steps, tuple(float(s) for s in steps))).axes[0]
    every, mean = axes.get_lines()
    assert list(every.get_xdata()) == list(every.get_ydata()) == list(steps)
    assert list(mean.get_ydata()) == pytest.approx(list(mean.get_xdata()), abs=0.5), "centred: a line stays"
    assert len(mean.get_xdata()) == 96


def test_map_has_a_cell_per_module_and_stronger_ones_for_more() -> None:
    shares = {(layer, m): (layer + 1) / 10 for layer in range(3) for m in ("q_proj", "mlp.up_proj")} | {
        (-1, "norm"): 0.9
    }
    with style():
        cells = kept_share(KeptShare("fusion", 1, "base", "other", shares, 0.2), largest=0.3).axes[0].patches
    assert len(cells) == 6
    alphas = [cell.get_alpha() for cell in cells]
    assert alphas == sorted(alphas)
    assert alphas[0] < alphas[-1] == opacity(0.3, 0.3)
    assert {cell.get_facecolor()[:3] for cell in cells} == {
        tuple(int(LIGHT["merge"][i : i + 2], 16) / 255 for i in (1, 3, 5))
    }


def test_a_node_stands_right_of_everything_it_was_made_from() -> None:
    inputs = {"merge": ("math", "student"), "math": ("student", "traces", "elsewhere"), "student": (), "traces": ()}
    depth_of = depths([Node(key, "stage", key, sources, Cost(1, 0, 0)) for key, sources in inputs.items()])
    assert depth_of == {"student": 0, "traces": 0, "math": 1, "merge": 2}
