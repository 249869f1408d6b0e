"""Bytes become text without half characters and without stop strings, however they are cut."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sibyl.engines.text import TextStream

# Few letters, so that stop strings are begun, broken off, overlapping and completed often.
LETTERS = "ab你"
texts = st.text(LETTERS, max_size=40)
stops = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=4)
cuts = st.lists(st.integers(0, 160), max_size=30)
raw = st.one_of(texts.map(str.encode), st.binary(max_size=60), st.text(max_size=30).map(str.encode))


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    """Cut the data at these places."""
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


def reference(data: bytes, stop: list[str]) -> str:
    """Return the text before the stop string that is complete first, by looking at everything at once."""
    text = data.decode("utf-8", "replace")
    ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    return text[: min(ends)[1]] if ends else text


@given(data=raw, places=cuts, stop=stops)
@example(data=b"\xed\xa0\x80\xf0\x9f", places=[1, 2], stop=[])
@example(data=b"\xe4\xbd", places=[1], stop=["\ufffd"])
@example(data=b"aab", places=[1, 2], stop=["ab", "aab"])
def test_the_text_is_the_same_however_the_bytes_are_cut(data: bytes, places: list[int], stop: list[str]) -> None:
    """Emitted and flushed text join to the text before the first stop string."""
    stream = TextStream(stop)

    text = "".join([stream.feed(piece) for piece in pieces(data, places)] + [stream.flush()])

    assert text == reference(data, stop)
    assert stream.stopped == any(word in data.decode("utf-8", "replace") for word in stop)


@given(data=raw, places=cuts, stop=stops)
def test_nothing_is_emitted_that_could_become_part_of_a_stop_string(
    data: bytes, places: list[int], stop: list[str]
) -> None:
    """After each piece the emitted text is a prefix of the reference, and no more than a stop string is held back."""
    stream = TextStream(stop)
    whole = reference(data, stop)
    seen, given_bytes = "", b""

    for piece in pieces(data, places):
        seen += stream.feed(piece)
        given_bytes += piece
        assert whole.startswith(seen)
        if not stream.stopped:
            decoded = given_bytes.decode("utf-8", "replace")
            begun = 3  # characters that a begun character of up to three bytes is shown as
            assert len(decoded) - len(seen) <= max(map(len, stop), default=1) - 1 + begun


def test_without_stop_strings_a_whole_character_is_emitted_at_once() -> None:
    """Only the bytes of the begun character wait."""
    stream = TextStream()

    emitted = [stream.feed(bytes([byte])) for byte in "é🎉x".encode()]

    assert emitted == ["", "é", "", "", "", "🎉", "x"]


def test_a_held_tail_is_released_when_it_is_disproved() -> None:
    """What looked like the beginning of a stop string comes out with the character that shows it is none."""
    stream = TextStream(["\nUser:"])

    assert [stream.feed(piece) for piece in (b"Yes.\nUs", b"e", b" it")] == ["Yes.", "", "\nUse it"]


def test_a_held_tail_is_released_at_the_end() -> None:
    """An answer may end with the beginning of a stop string."""
    stream = TextStream(["STOP"])

    assert (stream.feed(b"go ST"), stream.flush()) == ("go ", "ST")
    assert not stream.stopped


def test_nothing_follows_a_stop_string() -> None:
    """Neither more bytes nor the flush bring text after it."""
    stream = TextStream(["."])

    assert [stream.feed(b"one. two"), stream.feed(b"three"), stream.flush()] == ["one", "", ""]


@pytest.mark.parametrize("data", [b"\xff", b"a\xc3(", b"\xe4\xbd", b"\xf8\x88\x80\x80\x80"])
def test_bytes_that_are_no_utf8_become_replacement_characters(data: bytes) -> None:
    """They are shown, not dropped, as Python's own decoder shows them."""
    stream = TextStream()

    assert stream.feed(data) + stream.flush() == data.decode("utf-8", "replace")


def test_an_empty_stop_string_is_ignored() -> None:
    """It would be found everywhere."""
    stream = TextStream(["", "b"])

    assert stream.feed(b"ab") == "a"
