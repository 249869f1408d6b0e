"""Server-sent events as bytes: what is written comes back, however the network cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.wire.sse import Frame, FrameTooLarge, Parser, encode

# Letters that str.splitlines would split at, and letters of one to four bytes.
TEXT = st.text(
    st.one_of(
        st.sampled_from("\u2028\u2029\u0085\v\f\x1c :é€😀\ufeff\0"),
        st.characters(codec="utf-8", exclude_characters="\r\n"),
    )
)
NAMES = TEXT.filter(bool)
CURSORS = st.none() | st.from_regex(r"\d{1,15}-\d{1,9}", fullmatch=True)


def parse(*pieces: bytes) -> list[Frame]:
    """The frames in a body that came in these pieces."""
    parser = Parser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


def frame(data: str, event: str = "message", id: str | None = None) -> Frame:
    """A frame, written shortly."""
    return Frame(event=event, data=data, id=id)


def test_a_frame_has_its_id_first_and_ends_with_an_empty_line() -> None:
    """The bytes are those of the wire, CRLF and all."""
    assert encode("queued", "{}", "1-0") == b"id: 1-0\r\nevent: queued\r\ndata: {}\r\n\r\n"
    assert encode("position", "{}", None) == b"event: position\r\ndata: {}\r\n\r\n"


@given(st.lists(st.tuples(NAMES, TEXT, CURSORS)), st.data())
def test_frames_come_back_whole_however_they_are_split(
    events: list[tuple[str, str, str | None]], data: st.DataObject
) -> None:
    """Any frames, cut anywhere, also inside a letter or between CR and LF, are the same frames."""
    body = b"".join(encode(*event) for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))

    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    assert parse(*pieces) == [Frame(event=event, data=text, id=cursor) for event, text, cursor in events]


@given(st.text(st.sampled_from("da: idevnt1\r\n\ufeff\0é")), st.lists(st.integers(0, 200)))
def test_what_a_body_says_does_not_depend_on_its_pieces(text: str, cuts: list[int]) -> None:
    """Also a body that nobody should send means one thing only."""
    body = text.encode()
    places = sorted(min(cut, len(body)) for cut in cuts)

    pieces = [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]

    assert parse(*pieces) == parse(body)


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        (b"data: a\n\ndata: b\n\n", [frame("a"), frame("b")]),
        (b"data: a\r\rdata: b\r\r", [frame("a"), frame("b")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [frame("a"), frame("b")]),
        (b"data: a\r\n\ndata: b\n\r\n", [frame("a"), frame("b")]),
        (b"data: a\ndata\ndata:b\n\n", [frame("a\n\nb")]),
        (b"data\n\n", [frame("")]),
        (b"data:  two spaces\n\n", [frame(" two spaces")]),
        (b"data:x:y\n\n", [frame("x:y")]),
        (b": a comment\ndata: a\n: another\n\n", [frame("a")]),
        (b":\n\n:\n\n", []),
        (b"event: e\n\ndata: a\n\n", [frame("a")]),
        (b"event: e\nevent: f\ndata: a\n\n", [frame("a", "f")]),
        (b"event:\ndata: a\n\n", [frame("a")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [frame("a", id="1"), frame("b")]),
        (b"id: 1\nid: 2\x00\ndata: a\n\n", [frame("a", id="1")]),
        (b"id\ndata: a\n\n", [frame("a", id="")]),
        (b"retry: 1\nwhat: 2\nDATA: x\n data: y\ndata: a\n\n", [frame("a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [frame("a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [frame("b")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [frame("a")]),
        (b"data: \xff\xc3\n\n", [frame("\ufffd\ufffd")]),
        ("data: a\u2028b\u0085c\n\n".encode(), [frame("a\u2028b\u0085c")]),
        (b"data: whole\n\nid: 2\ndata: not whole\n", [frame("whole")]),
        (b"", []),
    ],
)
def test_the_rules_of_the_standard_are_kept(body: bytes, frames: list[Frame]) -> None:
    """Each rule of the HTML standard, in one piece and byte by byte."""
    assert parse(body) == frames
    assert parse(*(bytes([byte]) for byte in body)) == frames


def test_a_frame_is_handed_out_before_the_line_feed_of_its_last_line_end() -> None:
    """A CR ends a line; waiting for the LF would hold an event back until the next one."""
    parser = Parser()

    assert parser.feed(b"data: a\r\n\r") == [frame("a")]
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: b\r\n\r\n") == [frame("b")]


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
@pytest.mark.parametrize("body", [b"data: " + b"x" * 100, b"data: x\n" * 20, b": " + b"x" * 100])
def test_a_frame_without_an_end_is_refused(body: bytes, piece_bytes: int) -> None:
    """A line, many lines, a comment: none may grow for ever."""
    parser = Parser(frame_bytes=64)

    with pytest.raises(FrameTooLarge):
        for start in range(0, len(body), piece_bytes):
            parser.feed(body[start : start + piece_bytes])


def test_the_bound_is_for_one_frame_and_not_for_the_body() -> None:
    """Small frames may go on for ever."""
    parser = Parser(frame_bytes=64)

    assert sum(len(parser.feed(b": ping\n\nid: 1\nevent: e\ndata: x\n\n")) for _ in range(100)) == 100


@pytest.mark.parametrize(
    ("event", "data", "cursor"),
    [
        ("e", "a\nb", "1-0"),
        ("e", "a\rb", "1-0"),
        ("e", "a\n", None),
        ("e\n", "a", None),
        ("", "a", None),
        ("e", "a", "1\r"),
        ("e", "a", "1\0"),
        ("e", "\ud800", None),
    ],
)
def test_what_would_not_come_back_is_not_written(event: str, data: str, cursor: str | None) -> None:
    """Line ends, nameless events and half letters are refused."""
    with pytest.raises(ValueError):
        encode(event, data, cursor)
