"""What has been begun and what it may cost: an attempt is on the disk and on the bill before it begins."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from bm.generate.price import Price
from bm.generate.samples import Engine, Row, Sample


class NoRoomError(Exception):
    """The budget has no room for an attempt while others are under way, or at all."""


class Attempts:
    """How often each row was asked, failures included; `note` puts a change of that number on the disk."""

    def __init__(
        self, begun: Mapping[Row, int] | None = None, note: Callable[[Row, int], None] = lambda row, more: None
    ) -> None:
        self.begun, self._note, self._lock = Counter(begun or {}), note, Lock()

    def count(self, row: Row, more: int) -> None:
        """Called from any thread; returns when it is on the disk."""
        with self._lock:
            self._note(row, more)
            self.begun[row] += more


class Budget:
    """Money that may be spent: `most`, None for any amount. An attempt takes its worst case and gives back the rest."""

    def __init__(self, most: float | None, spent: float) -> None:
        self.spent, self._most, self._lock = spent, most, Lock()

    def take(self, worst: float) -> bool:
        """Whether there is room; if so it is taken."""
        with self._lock:
            if self._most is not None and self.spent + worst > self._most:
                return False
            self.spent += worst
            return True

    def give_back(self, amount: float) -> None:
        with self._lock:
            self.spent -= amount


class Toll:
    """What one row pays at the gate: its first attempt is taken from the budget already when it is asked."""

    def __init__(self, row: Row, worst: float, attempts: Attempts, budget: Budget) -> None:
        self.worst, self._row, self._attempts, self._budget, self._paid = worst, row, attempts, budget, True

    def begin(self) -> None:
        """Before each attempt; NoRoomError if the budget has none for it."""
        if not self._paid and not self._budget.take(self.worst):
            raise NoRoomError
        self._paid = False
        self._attempts.count(self._row, 1)

    def free(self) -> None:
        """The attempt reached nobody, or was turned away: it cost nothing."""
        self._attempts.count(self._row, -1)
        self._budget.give_back(self.worst)


@runtime_checkable
class Billed(Protocol):
    """An engine whose attempts cost money, those that fail as well."""

    price: Price | None
    attempts: Attempts
    """Attempts at the rows that are asked for; whoever keeps a journal puts them there."""

    def bill(self, said: Mapping[Row, Sample]) -> dict[str, Any]:
        """`cost` of these answers, and of failed attempts how many there were and what they may have cost at most."""


def account(engine: Engine, samples: Collection[Sample], asked_by: str) -> dict[str, Any]:
    """How many responses an engine gave, in how many tokens and, where it has a price, for how much.

    `own` has the same of those that were asked for by `asked_by`: the others have been paid for elsewhere.
    """
    price = engine.price if isinstance(engine, Billed) else None

    def counted(some: Collection[Sample]) -> dict[str, Any]:
        return {
            "responses": len(some),
            "prompt_tokens": sum(sample.prompt_tokens for sample in some),
            "tokens": sum(sample.tokens for sample in some),
            **({"cost": round(price.total(some), 6)} if price else {}),
        }

    return {**counted(samples), "own": counted([sample for sample in samples if sample.asked_by == asked_by])}
