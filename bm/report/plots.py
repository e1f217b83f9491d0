"""Figures with two axes: loss curves, cost against score, and the kept-share map of a merge."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bm.report.drawing import LIGHT, MARKERS, SMALL, WIDTH, blank, shorten, tip
from bm.report.evidence import OUTSIDE, Curve, KeptShare
from bm.report.results import KINDS, Results
from bm.report.wording import duration, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_TEXT = 16
"""Height of a cell, in figure units, from which on its share is written into it."""
ROUND_TIMES = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 360000, 3600000)
"""Seconds that read well on a logarithmic axis."""


def loss(curve: Curve) -> "Figure":
    """Loss of each step (pale) and its running mean over a twentieth of the run."""
    import numpy as np

    figure = blank(190)
    axes = figure.add_axes((0.09, 0.17, 0.9, 0.68))
    colour, window = LIGHT[curve.kind], max(1, len(curve.losses) // 20)
    smooth = np.convolve(curve.losses, np.full(window, 1 / window), mode="valid")
    axes.plot(curve.steps, curve.losses, color=colour, linewidth=0.8, alpha=0.35)
    start = (window - 1) // 2
    axes.plot(curve.steps[start : start + len(smooth)], smooth, color=colour, linewidth=1.8, gid=tip([curve.name, f"{window} steps' mean {smooth[-1]:.3f} at the end"]))
    axes.grid(axis="y")
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.set_xlabel("step", labelpad=1)
    figure.text(0, 0.92, shorten(curve.name, WIDTH - 70), color=LIGHT["ink"])
    figure.text(1, 0.92, f"{smooth[-1]:.3f}", ha="right", color=LIGHT["ink"], fontweight="bold")
    return figure


def cost_against_score(results: Results, totals: Mapping[str, float]) -> "Figure":
    """Mean score over seconds, logarithmic: the last step of each model, and a line to the time of all it was made from.

    The best of each kind is named.
    """
    figure = blank(300)
    axes = figure.add_axes((0.08, 0.12, 0.91, 0.86))
    shown = [(row, mean) for row in results.rows if (mean := results.mean(row)) is not None and row.cost.seconds > 0]
    for row, mean in shown:
        colour, seconds = LIGHT[row.kind], row.cost.seconds
        total = max(totals.get(row.name, 0), seconds)
        note = tip([row.name, percent(mean), duration(seconds) + (f" of {duration(total)}" if total > seconds else "")])
        axes.plot([seconds, total], [100 * mean] * 2, color=colour, linewidth=1.2, alpha=0.4, gid=note)
        axes.plot([seconds], [100 * mean], MARKERS[row.kind], color=colour, markersize=8, markeredgewidth=0, gid=note)
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)
    axes.set_xticks([t for t in ROUND_TIMES if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]], minor=False)
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.xaxis.minorticks_off()
    axes.grid(axis="both")
    axes.set_xlabel("time", labelpad=1)
    middle = sum(axes.get_xlim()) / 2 if not shown else (axes.get_xlim()[0] * axes.get_xlim()[1]) ** 0.5
    for kind in KINDS:
        best = results.best(kind)
        if best is None or best.cost.seconds <= 0:
            continue
        right = best.cost.seconds < middle
        axes.annotate(shorten(best.name, 170), (best.cost.seconds, 100 * (results.mean(best) or 0)), xytext=(8 if right else -8, 7),
                      textcoords="offset points", ha="left" if right else "right", fontsize=SMALL, color=LIGHT["ink"])  # fmt: skip
    return figure


def kept_share(step: KeptShare, largest: float) -> "Figure":
    """Share of each layer's and module's entries taken from the other model; `largest` is the share of the darkest cell."""
    layers = sorted({layer for layer, _ in step.shares if layer != OUTSIDE})
    modules = list(dict.fromkeys(module for layer, module in step.shares if layer != OUTSIDE))
    top, left, row = 14 + 3.4 * max(map(len, modules)), 20, 20.0 if len(layers) <= 16 else max(5.0, 320 / len(layers))
    height = top + row * len(layers) + 6
    figure = blank(height)
    axes = figure.add_axes((left / WIDTH, 6 / height, 1 - (left + 34) / WIDTH, row * len(layers) / height))
    axes.set_xlim(0, len(modules))
    axes.set_ylim(len(layers), 0)
    width = (WIDTH - left - 34) / max(1, len(modules))
    for (layer, module), share in step.shares.items():
        if layer == OUTSIDE:
            continue
        x, y = modules.index(module), layers.index(layer)
        axes.bar(x + 0.5, 0.94, 0.96, bottom=y + 0.03, color=LIGHT["merge"], alpha=shade(share, largest),
                 gid=tip([f"layer {layer}, {module}", f"{percent(share)} from {step.other}"]))  # fmt: skip
        if row >= CELL_TEXT and width >= 24:
            axes.text(x + 0.5, y + 0.5, f"{100 * share:.0f}", ha="center", va="center_baseline", fontsize=SMALL, color=LIGHT["ink"])
    _frame(axes, layers, modules, 1 if row >= CELL_TEXT else 8)
    return figure


def shade(share: float, largest: float) -> float:
    """Opacity of a cell: visible at nothing, and weak enough at `largest` that text on it stays readable."""
    return 0.04 + 0.61 * (share / largest if largest > 0 else 0)


def _frame(axes: "Axes", layers: Sequence[int], modules: Sequence[str], every: int) -> None:
    """Module names slanted above the map, layer numbers beside it."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks([])
    places = [i for i, layer in enumerate(layers) if layer % every == 0]
    axes.set_yticks([i + 0.5 for i in places], [str(layers[i]) for i in places])
    axes.tick_params(length=0)
    for i, module in enumerate(modules):
        axes.annotate(module, (i + 0.5, 0), xytext=(-3, 4), textcoords="offset points", rotation=40, rotation_mode="anchor",
                      ha="left", fontsize=SMALL, color=LIGHT["muted"])  # fmt: skip
