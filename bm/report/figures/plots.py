"""Figures with two axes: loss curves, cost against score, and the kept-share map of a merge."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bm.report.figures.drawing import LIGHT, MARKERS, SMALL, WIDTH, blank, shorten, tip
from bm.report.figures.numbers import duration, percent
from bm.report.findings.evidence import OUTSIDE, Curve, KeptShare
from bm.report.findings.results import KINDS, Results
from bm.report.findings.traces import Lengths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUND_TIMES = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 360000, 3600000)
"""Seconds that read well on a logarithmic axis."""
FLOW = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PALEST, STRONGEST = 0.04, 0.55
"""Opacity of a map's cells: visible at nothing, and weak enough at most that text on it stays readable."""


def loss(curve: Curve) -> "Figure":
    """Loss of each step (pale) and its running mean over a twentieth of the run."""
    import numpy as np

    figure = blank(190)
    axes = figure.add_axes((0.09, 0.17, 0.9, 0.68))
    colour, window = LIGHT[curve.kind], max(1, len(curve.losses) // 20)
    smooth = np.convolve(curve.losses, np.full(window, 1 / window), mode="valid")
    centres = curve.steps[(window - 1) // 2 :][: len(smooth)]
    note = tip([curve.name, f"mean of the last {window} steps {smooth[-1]:.3f}"])
    axes.plot(curve.steps, curve.losses, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(centres, smooth, color=colour, linewidth=1.8, marker="o" if len(smooth) == 1 else "", gid=note)
    axes.grid(axis="y")
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.set_xlabel("step", labelpad=1)
    figure.text(0, 0.92, shorten(curve.name, WIDTH - 70), color=LIGHT["ink"])
    figure.text(1, 0.92, f"{smooth[-1]:.3f}", ha="right", color=LIGHT["ink"], fontweight="bold")
    return figure


def lengths(responses: Lengths) -> "Figure":
    """Responses by length on a logarithmic axis, kept and rejected one upon the other."""
    import numpy as np

    figure = blank(190)
    axes = figure.add_axes((0.1, 0.17, 0.89, 0.68))
    groups = [np.maximum(1, group) for group in (responses.kept, responses.rejected)]
    both = np.concatenate(groups)
    edges = np.geomspace(both.min(), both.max() + 1, 25)
    colours, names = (LIGHT["expert"], LIGHT["student"]), ("kept", "rejected")
    below = np.zeros(len(edges) - 1, int)
    for name, group, colour in zip(names, groups, colours, strict=True):
        counts, _ = np.histogram(group, edges)
        for low, high, count, bottom in zip(edges, edges[1:], counts, below, strict=False):
            note = tip([name, f"{low:,.0f} to {high:,.0f} characters", f"{count:,}"])
            axes.bar(low, count, high - low, bottom, align="edge", color=colour, gid=note)
        below += counts
    axes.set_xscale("log")
    axes.grid(axis="y")
    axes.locator_params(axis="y", nbins=4, integer=True)
    round_lengths = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    shown = [length for length in round_lengths if edges[0] <= length <= edges[-1]]
    axes.set_xticks(shown, [f"{length:,}" for length in shown])
    axes.set_xticks([], minor=True)
    for x, name, group, colour in zip((0, 0.5), names, groups, colours, strict=True):
        middle = f", median {np.median(group):,.0f}" if len(group) else ""
        figure.text(x, 0.92, f"{name} {len(group):,}{middle}", color=colour)
    return figure


def cost_against_score(results: Results) -> "Figure":
    """Mean score over seconds: a marker at each model's last step, a line to the time of all that it was made from.

    Seconds are logarithmic; models that took none, because they were there before, are left out.
    """
    figure = blank(300)
    axes = figure.add_axes((0.08, 0.12, 0.91, 0.86))
    for row in results.rows:
        mean, own, total = results.mean(row), row.cost.seconds, row.seconds_in_all
        if mean is None or own == 0:
            continue
        note = tip([row.name, percent(mean), f"{duration(own)} of {duration(total)}"])
        look: dict[str, Any] = {"marker": MARKERS[row.kind], "markersize": 8, "markeredgewidth": 0}
        axes.plot([own, total], [100 * mean] * 2, color=LIGHT[row.kind], linewidth=1.2, alpha=0.4, gid=note)
        axes.plot([own], [100 * mean], color=LIGHT[row.kind], gid=note, **look)
    time_axis(axes)
    _name_best(axes, results)
    return figure


def time_axis(axes: "Axes") -> None:
    """Seconds on a logarithmic axis below what is drawn, with ticks in the units that suit."""
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)
    left, right = axes.get_xlim()
    axes.set_xticks([t for t in ROUND_TIMES if left <= t <= right])
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.xaxis.minorticks_off()
    axes.grid()
    axes.set_xlabel("time", labelpad=1)


def _name_best(axes: "Axes", results: Results) -> None:
    """The name of the best model of each kind beside its marker, on the side where there is more room."""
    left, right = axes.get_xlim()
    for row in filter(None, map(results.best, KINDS)):
        if row.cost.seconds == 0:
            continue
        place, early = (row.cost.seconds, 100 * (results.mean(row) or 0)), row.cost.seconds < (left * right) ** 0.5
        side: dict[str, Any] = {"xytext": (8, 7), "ha": "left"} if early else {"xytext": (-8, 7), "ha": "right"}
        axes.annotate(
            shorten(row.name, 170), place, textcoords="offset points", fontsize=SMALL, color=LIGHT["ink"], **side
        )


def kept_share(step: KeptShare, largest: float) -> "Figure":
    """Share of each layer's and module's entries taken from the other model; `largest` has the strongest colour."""
    inside = {place: share for place, share in step.shares.items() if place[0] != OUTSIDE}
    layers, modules = sorted({layer for layer, _ in inside}), sorted({module for _, module in inside}, key=_rank)
    few, names = len(layers) <= 16, [shorten(module, 80, SMALL) for module in modules]
    cell = 20.0 if few else max(5.0, 320 / len(layers))
    left, right, top, bottom = 20, 34, 14 + 3.4 * max(map(len, names)), 6
    width, height = WIDTH - left - right, cell * len(layers)
    figure = blank(top + height + bottom)
    axes = figure.add_axes(
        (left / WIDTH, bottom / (top + height + bottom), width / WIDTH, height / (top + height + bottom))
    )
    axes.set_xlim(0, len(modules))
    axes.set_ylim(len(layers), 0)
    for (layer, module), share in inside.items():
        x, y = modules.index(module) + 0.5, layers.index(layer) + 0.5
        note = tip([f"layer {layer}, {module}", f"{percent(share)} from {step.other}"])
        axes.bar(x, 0.94, 0.96, y - 0.47, color=LIGHT["merge"], alpha=opacity(share, largest), gid=note)
        if few and width / len(modules) >= 24:
            number = f"{100 * share:.0f}"
            axes.text(x, y, number, ha="center", va="center_baseline", fontsize=SMALL, color=LIGHT["ink"])
    _frame(axes, layers, names, every=1 if few else 8)
    return figure


def _rank(module: str) -> tuple[int, str]:
    """Modules in the order a token meets them, where that is known; the others follow by name."""
    return (FLOW.index(module) if module in FLOW else len(FLOW)), module


def opacity(share: float, largest: float) -> float:
    return PALEST + (STRONGEST - PALEST) * (share / largest if largest > 0 else 0)


def _frame(axes: "Axes", layers: Sequence[int], modules: Sequence[str], every: int) -> None:
    """Module names slanted above the map, layer numbers beside it."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    named = [(i, layer) for i, layer in enumerate(layers) if layer % every == 0]
    axes.set_yticks([i + 0.5 for i, _ in named], [str(layer) for _, layer in named])
    axes.xaxis.tick_top()
    axes.set_xticks([i + 0.4 for i in range(len(modules))], modules, rotation=40, rotation_mode="anchor", ha="left")
    axes.tick_params(length=0)
