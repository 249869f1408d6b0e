"""The machine that follows a task hands out each event once and in order, whatever happens to the connections."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.client.errors import CannotConnect, ServerFailed, UnexpectedReply
from sibyl.client.events import ClientEvent, Output, Reset
from sibyl.client.follower import Follower
from sibyl.core.errors import InvalidCursor, TaskForgotten, UnknownTask
from tests.client.native_server import Script, answering

STREAM = {"content-type": "text/event-stream; charset=utf-8"}
SCRIPT = Script("0.1", answering("Wé", "", "ll", "\u2028", "😀."))


def follower(after: str | None = None, give_up_s: float | None = None) -> Follower:
    """A follower without chance."""
    return Follower("0.1", after=after, give_up_s=give_up_s, jitter=lambda: 1.0)


def all_of(machine: Follower, *bodies: bytes) -> list[ClientEvent]:
    """What the machine hands out for one body a connection."""
    events: list[ClientEvent] = []
    for body in bodies:
        assert machine.opened(200, STREAM)
        events += machine.receive(body)
    return events


def output(index: int, token: str, offset: int, epoch: int = 1) -> bytes:
    """One frame with new text."""
    return f'id: {epoch}-{offset}\ndata: {{"type":"llm_streaming","token":"{token}","index":{index}}}\n\n'.encode()


WHOLE = all_of(follower(), SCRIPT.frames(None))


def test_a_whole_log_is_handed_out() -> None:
    """All of it, and then it is over."""
    machine = follower()

    assert len(all_of(machine, SCRIPT.frames(None))) == len(SCRIPT.events)
    assert machine.over
    assert machine.cursor == SCRIPT.last_cursor


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 40)), max_size=20))
def test_cuts_anywhere_lose_nothing_and_repeat_nothing(connections: list[tuple[int, int]]) -> None:
    """Each connection brings some bytes in pieces and breaks; the last one brings the rest."""
    machine, events = follower(), list[ClientEvent]()

    for bytes_before_cut, piece_bytes in [*connections, (10**6, 10**6)]:
        if machine.over:
            break
        machine.opened(200, STREAM)
        body = SCRIPT.frames(machine.request.headers.get("Last-Event-ID"))[:bytes_before_cut]
        for start in range(0, len(body), piece_bytes):
            events += machine.receive(body[start : start + piece_bytes])
        if not machine.over:
            machine.cut(0.0)

    assert events == WHOLE


def test_nothing_is_handed_out_after_the_end() -> None:
    """Whatever a confused server still says."""
    machine = follower()

    assert all_of(machine, SCRIPT.frames(None) + output(7, "no", 9)) == WHOLE


def test_the_next_connection_goes_on_after_the_last_event_and_not_after_a_half_one() -> None:
    """The id of an event that was not whole does not count."""
    machine = follower()

    all_of(machine, output(0, "a", 1) + output(1, "b", 2)[:-1])

    assert machine.request.headers["Last-Event-ID"] == "1-1"


def test_a_consumer_that_stops_in_the_middle_has_moved_only_so_far() -> None:
    """The cursor moves with each event that is taken, not with each piece of the body."""
    machine = follower()
    machine.opened(200, STREAM)

    next(machine.receive(SCRIPT.frames(None)))

    assert machine.cursor == "1-0"


def test_what_came_before_is_not_handed_out_again() -> None:
    """A server that goes back too far does not make the reader stutter."""
    events = all_of(follower(), output(0, "a", 1) + output(1, "b", 2), output(1, "b", 2) + output(2, "c", 3))

    assert [event.token for event in events if isinstance(event, Output)] == ["a", "b", "c"]


def test_a_gap_is_an_error_and_nothing_is_handed_out_from_behind_it() -> None:
    """An answer with a hole is no answer."""
    machine = follower()
    machine.opened(200, STREAM)
    events = machine.receive(output(0, "a", 1) + output(2, "c", 3))

    assert isinstance(next(events), Output)
    with pytest.raises(UnexpectedReply, match="gap"):
        next(events)
    assert machine.cursor == "1-1"


def test_following_from_a_cursor_takes_the_first_index_as_it_comes() -> None:
    """Only the server knows how many outputs came before."""
    events = all_of(follower(after="1-5"), output(4, "e", 6) + output(5, "f", 7))

    assert len(events) == 2


def test_a_reset_says_what_comes_next() -> None:
    """It is handed on; the outputs that it took back come anew, with the cursors of a new epoch."""
    reset = b'data: {"type":"reset","from":1,"text":"a"}\n\n'

    events = all_of(follower(), output(0, "a", 1) + output(1, "b", 2) + reset + output(1, "B", 2, epoch=2))

    assert events[2:] == [Reset(cursor=None, kept=1, text="a"), Output(cursor="2-2", token="B", index=1)]


def test_an_unknown_event_is_still_a_place_to_go_on_from() -> None:
    """A newer server is followed without a stumble."""
    machine = follower()

    assert all_of(machine, b'id: 1-1\ndata: {"type":"thinking"}\n\n') == []
    assert machine.cursor == "1-1"


@pytest.mark.parametrize(
    "body", [b"data: <html>\n\n", b'id: 1-1x\ndata: {"type":"cancelled"}\n\n', b"data: " + b"x" * (17 << 20)]
)
def test_what_is_no_stream_of_a_task_is_an_error(body: bytes) -> None:
    """No JSON, no cursor, no end: trying again would bring the same."""
    with pytest.raises(UnexpectedReply):
        all_of(follower(), body)


def test_the_end_of_the_log_is_no_error() -> None:
    """204: the cursor was the last event."""
    machine = follower(after="1-7")

    assert not machine.opened(204, {})
    assert machine.replied(0.0, 204, {}, b"") is None
    assert machine.over


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(404, "unknown_task", UnknownTask), (410, "task_forgotten", TaskForgotten)]
)
def test_a_refusal_is_an_error(status: int, code: str, kind: type[Exception]) -> None:
    """Coming back would not help."""
    machine = follower()

    assert not machine.opened(status, {"content-type": "application/json"})
    with pytest.raises(kind):
        machine.replied(0.0, status, {}, f'{{"error":{{"code":"{code}","message":"No."}}}}'.encode())


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (429, {}), (200, {"content-type": "text/html"})])
def test_a_server_that_is_away_for_a_moment_is_asked_again(status: int, headers: dict[str, str]) -> None:
    """A 5xx, a 429 and the page of a proxy are cuts."""
    machine = follower()

    assert not machine.opened(status, headers)
    pause = machine.replied(0.0, status, headers | {"retry-after": "3"}, b"<html>")

    assert pause is not None and pause.wait_s == (0.25 if status == 200 else 3.25)


def test_patience_ends_after_so_long_without_a_byte() -> None:
    """A byte, even of a comment, makes it whole again; then the last failure is the error."""
    machine = follower(give_up_s=10.0)
    machine.cut(0.0, CannotConnect("one"))
    machine.cut(9.0, CannotConnect("two"))

    all_of(machine, b":\n\n")
    machine.cut(1000.0)
    machine.cut(1009.0)

    with pytest.raises(ServerFailed, match="503"):
        machine.replied(1010.0, 503, {}, b"")


def test_a_cursor_that_is_none_is_refused_before_anything_is_sent() -> None:
    """It would travel as a header."""
    with pytest.raises(InvalidCursor):
        follower(after="1-2\r\nX: y")
