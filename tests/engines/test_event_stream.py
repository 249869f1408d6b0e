"""Events are read as they were written, however the bytes arrive."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.engines.event_stream import LINE_BYTES, EventStream, LineTooLong


@given(
    values=st.lists(st.text(max_size=20), max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    places=st.lists(st.integers(0, 400), max_size=20),
)
def test_every_event_comes_out_once_and_whole(values: list[str], end: str, places: list[int]) -> None:
    """With any line end and any cut; also where JSON holds characters at which Python would cut lines."""
    data = "".join(f"data: {json.dumps(value, ensure_ascii=False)}{end}{end}" for value in values).encode() + b"\n"
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    stream = EventStream()

    found = [event for start, stop in pairwise(edges) for event in stream.feed(data[start:stop])]

    assert [json.loads(event) for event in found] == values


def test_comments_names_and_ids_are_passed_over() -> None:
    """Keep-alives and fields without use here bring no event."""
    stream = EventStream()

    found = stream.feed(b": ping\n\nevent: message\nid: 7\ndata:one\ndata: two\n\nretry: 5\n\ndata: cut")

    assert found == ["one\ntwo"]


def test_an_endless_line_is_refused() -> None:
    """Memory is bounded, whatever a server sends."""
    stream = EventStream()

    with pytest.raises(LineTooLong):
        for _ in range(3):
            stream.feed(b"x" * (LINE_BYTES // 2))


def test_an_endless_event_is_refused() -> None:
    """Also when each of its lines is short."""
    stream = EventStream()

    with pytest.raises(LineTooLong):
        for _ in range(3):
            stream.feed(b"data: " + b"x" * (LINE_BYTES // 2) + b"\n")
