"""Cursors: their text, and their order, which must be that of Redis' stream ids."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import InvalidCursor

EPOCHS = st.integers(0, 10**15 - 1)
OFFSETS = st.integers(0, 10**9 - 1)
CURSORS = st.builds(Cursor, EPOCHS, OFFSETS)


@given(CURSORS)
def test_a_cursor_survives_its_text(cursor: Cursor) -> None:
    """What stands in an SSE id comes back in Last-Event-ID."""
    assert Cursor.parse(str(cursor)) == cursor


@given(CURSORS, CURSORS)
def test_order_is_that_of_the_pair(one: Cursor, other: Cursor) -> None:
    """First the epoch, then the offset, both as numbers and never as text."""
    assert (one < other) == ((one.epoch, one.offset) < (other.epoch, other.offset))
    assert START <= one


@given(st.text())
@example("")
@example("-")
@example("1-")
@example("-1")
@example("1-1\n")
@example(" 1-1")
@example("+1-1")
@example("1_0-1")
@example("١-١")
@example("1-1-1")
@example("0x1-1")
@example("1000000000000000-1")
@example("1-1000000000")
@example("$")
@example("1-*")
def test_any_other_text_is_refused(text: str) -> None:
    """A cursor comes from a stranger's header: whatever is accepted is nothing but two short numbers."""
    try:
        cursor = Cursor.parse(text)
    except InvalidCursor:
        return
    epoch, offset = text.split("-")
    assert text.isascii()
    assert cursor == Cursor(int(epoch), int(offset))
    assert len(epoch) <= 15
    assert len(offset) <= 9


@pytest.mark.parametrize("text", ["1000000000000000-1", "1-1000000000", "1-1\n", "١-١", "", "1", "1-1-1"])
def test_an_invalid_cursor_says_what_a_valid_one_looks_like(text: str) -> None:
    """The message tells the client where to take it from, and repeats nothing that the client sent."""
    with pytest.raises(InvalidCursor, match="like 1700000000000-12; take it from the id"):
        Cursor.parse(text)
