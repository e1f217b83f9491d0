"""What a collection walks while something else is set aside."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from bm.garbage import set_aside
from tests.conftest import IMPORTED


class Circle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_set_aside() -> Iterator[None]:
    """As in a process of a user: the tests set aside what they have imported."""
    IMPORTED.close()
    yield
    IMPORTED.enter_context(set_aside())


def test_only_what_is_made_within_is_collected() -> None:
    before = weakref.ref(Circle())
    with set_aside():
        within = weakref.ref(Circle())
        gc.collect()
        assert before() is not None and within() is None
    gc.collect()
    assert before() is None


def test_what_was_set_aside_before_stays_so() -> None:
    with set_aside():
        many = gc.get_freeze_count()
        with set_aside():
            pass
        assert gc.get_freeze_count() == many > 0
    assert gc.get_freeze_count() == 0
