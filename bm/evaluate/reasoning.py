"""Short questions of logic, counting and order with their choices, in the manner of BBH: an ability to lose."""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bm.evaluate.sets import Split, made

NAMES = ("Ann", "Ben", "Cara", "Dan", "Eva", "Finn")
THINGS = ("apple", "pear", "plum", "cup", "spoon", "chair", "lamp", "book")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
KINDS_OF = (("roses", "flowers", "plants"), ("sparrows", "birds", "animals"), ("oaks", "trees", "plants"),
            ("hammers", "tools", "objects"), ("violins", "instruments", "objects"))  # fmt: skip


class Asked(NamedTuple):
    question: str
    choices: list[str]
    answer: str


def _boolean(drawing: random.Random) -> Asked:
    """The value of an expression of three truth values."""
    a, b, c = (drawing.random() < 0.5 for _ in range(3))
    inner, outer = drawing.choice(("and", "or")), drawing.choice(("and", "or"))
    text = f"({a} {inner} {b}) {outer} not {c}"
    first = (a and b) if inner == "and" else (a or b)
    value = (first and not c) if outer == "and" else (first or not c)
    return Asked(f"Is the expression `{text}` True or False?", ["True", "False"], str(value))


def _count(drawing: random.Random) -> Asked:
    """How many things there are in all."""
    things = drawing.sample(THINGS, 3)
    counts = [drawing.randint(1, 4) for _ in things]
    listed = ", ".join(f"{n} {thing}{'s' * (n > 1)}" for n, thing in zip(counts, things, strict=True))
    total = sum(counts)
    wrong = drawing.sample([n for n in range(max(1, total - 3), total + 4) if n != total], 3)
    choices = sorted([total, *wrong])
    return Asked(f"I have {listed}. How many things do I have in all?", list(map(str, choices)), str(total))


def _order(drawing: random.Random) -> Asked:
    """Who is the tallest of three, by two comparisons."""
    first, second, third = drawing.sample(NAMES, 3)
    facts = [f"{first} is taller than {second}.", f"{third} is shorter than {second}."]
    drawing.shuffle(facts)
    highest = drawing.random() < 0.5
    asked = "tallest" if highest else "shortest"
    return Asked(f"{' '.join(facts)} Who is the {asked}?", sorted((first, second, third)), first if highest else third)


def _day(drawing: random.Random) -> Asked:
    """The day of the week some days from another."""
    start, ahead = drawing.randrange(7), drawing.randint(1, 6)
    right = DAYS[(start + ahead) % 7]
    choices = sorted([right, *drawing.sample([day for day in DAYS if day != right], 3)], key=DAYS.index)
    days = "day" if ahead == 1 else "days"
    return Asked(f"Today is {DAYS[start]}. Which day is it {ahead} {days} from now?", choices, right)


def _syllogism(drawing: random.Random) -> Asked:
    """Whether a conclusion follows from two statements about kinds of things."""
    low, middle, high = drawing.choice(KINDS_OF)
    follows = drawing.random() < 0.5
    conclusion = f"all {low} are {high}" if follows else f"all {high} are {low}"
    text = f"All {low} are {middle}. All {middle} are {high}. Does it follow that {conclusion}?"
    return Asked(text, ["Yes", "No"], "Yes" if follows else "No")


DRAWN: tuple[Callable[[random.Random], Asked], ...] = (_boolean, _count, _order, _day, _syllogism)


def questions(each: int, seed: int, file: str | None = None, **_: Any) -> Split:
    """`each` different questions of every kind: rows of question, choices and the answer's place, drawn from the seed.

    A kind with fewer different questions gives what it has. UserError if a file is put in their place.
    """
    return made(_drawn(each, random.Random(seed)), file)


def _drawn(each: int, drawing: random.Random) -> Iterator[dict[str, Any]]:
    """One of each kind, then the next of each: the first questions are of every kind."""
    seen: set[str] = set()
    for _ in range(each):
        for draw in DRAWN:
            asked = next((a for a in (draw(drawing) for _ in range(100)) if a.question not in seen), None)
            if asked:
                seen.add(asked.question)
                yield {
                    "question": asked.question,
                    "choices": asked.choices,
                    "answer": asked.choices.index(asked.answer),
                }
