"""Worked solutions from facts of nature: what an animal has, how a calendar turns, how a body rotates."""

from datetime import date
from typing import Any

from bm.distill.teachers.worked.hand import Hand

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
RINGS = {
    "front": ("top", "front", "bottom", "back"),
    "back": ("top", "back", "bottom", "front"),
    "left": ("top", "left", "bottom", "right"),
    "right": ("top", "right", "bottom", "left"),
    "bottom": ("top", "bottom", "top", "bottom"),
}
"""Per side brought to the top: the four sides that move, each taking what its successor had."""


def leg_counting(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """One kind of animal a line, then the sum."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    steps, total = [], None
    for animal, count in facts["animals"].items():
        legs = hand.reckon(count * ANIMALS[animal])
        steps.append(f"{count} {animal}{'s' if count > 1 else ''} * {ANIMALS[animal]} = {legs}")
        if total is None:
            total = legs
            continue
        result = hand.reckon(total + legs)
        steps.append(f"{total} + {legs} = {result}")
        total = result
    return steps, str(total)


def calendar_arithmetic(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """The weekday this many days away: whole weeks change nothing, the remainder is counted day by day."""
    start, offset = date.fromisoformat(facts["start_date"]).weekday(), facts["offset_days"]
    days = hand.choose(abs(offset) % 7, [(abs(offset) + 1) % 7, (abs(offset) - 1) % 7])
    forward = 1 if offset > 0 else -1
    passed = [WEEKDAYS[(start + forward * i) % 7] for i in range(days + 1)]
    return [f"{abs(offset)} % 7 = {days}", ", ".join(passed)], passed[-1]


def color_cube_rotation(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """Backwards through the rotations: where the side asked for came from, and its colour there."""
    side, steps = facts["target_side"], []
    for top in facts["rotations"][::-1]:
        ring = RINGS[top]
        origin = ring[(ring.index(side) + 1) % 4] if side in ring else side
        if top == "bottom" and side in ("front", "back"):
            origin = "back" if side == "front" else "front"
        origin = hand.choose(origin, [s for s in facts["initial_state"] if s != origin])
        steps.append(f"{top} to top: {side} was {origin}")
        side = origin
    color = facts["initial_state"][side]
    return [*steps, f"{side} {color}"], color
