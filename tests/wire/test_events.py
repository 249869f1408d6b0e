"""Events as frames: every one is a single line of JSON with its type, under its cursor."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.core.cursor import Cursor
from sibyl.core.event import Cancelled, Completed, Entry, Event, Expired, Failed, Output, Queued, Started
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import Usage
from sibyl.wire import events
from sibyl.wire.sse import Parser, encode

TEXT = st.text(st.characters(codec="utf-8"))
USAGE = Usage(prompt_tokens=3, completion_tokens=4)
FRAMES: list[tuple[Event, str, str]] = [
    (Queued(), "queued", '"task_id":"0.ab"'),
    (Started(attempt=2, model="m", kept=1, previous=Cursor(5, 1)), "started", '"attempt":2,"model":"m"'),
    (Output(text='ü"\n', token_ids=(1, 2)), "llm_streaming", '"token":"ü\\"\\n","index":6'),
    (
        Completed(text_length=9, usage=USAGE, finish_reason="length"),
        "completed",
        '"text_length":9,"usage":{"prompt_tokens":3,"completion_tokens":4},"finish_reason":"length"',
    ),
    (Failed(code="c", message="m"), "failed", '"code":"c","message":"m"'),
    (Expired(), "expired", '"message":"The task was not finished before its deadline."'),
]


@pytest.mark.parametrize(("event", "name", "fields"), FRAMES, ids=[name for _, name, _ in FRAMES])
def test_a_logged_event_is_its_pinned_bytes(event: Event, name: str, fields: str) -> None:
    """Order and spelling included; what is for workers alone, such as token ids, stays inside."""
    frame = events.entry_frame("0.ab", Entry(Cursor(6, 7), event))

    assert frame.decode() == f'id: 6-7\r\nevent: {name}\r\ndata: {{"type":"{name}",{fields}}}\r\n\r\n'


def test_logprobs_are_shown_only_when_there_are_some() -> None:
    """In OpenAI's shape, with the token's id; bytes that are no whole character are exact in ``bytes`` alone."""
    place = TokenLogprobs(
        chosen=TokenLogprob(token_id=5, piece="é".encode()[:1], logprob=-0.5),
        likeliest=(TokenLogprob(token_id=None, piece=b"a", logprob=-1.0),),
    )

    frame = events.entry_frame("0.ab", Entry(Cursor(6, 7), Output(text="é", token_ids=(5,), logprobs=(place,))))

    data = json.loads(frame.decode().split("data: ")[1])
    assert data["logprobs"] == [
        {
            "token": "\ufffd",
            "id": 5,
            "logprob": -0.5,
            "bytes": [0xC3],
            "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": [97]}],
        }
    ]


def test_a_cancelled_event_has_nothing_to_say() -> None:
    """Only its type."""
    frame = events.entry_frame("0.ab", Entry(Cursor(6, 7), Cancelled()))

    assert frame == b'id: 6-7\r\nevent: cancelled\r\ndata: {"type":"cancelled"}\r\n\r\n'


def test_hints_have_no_place_but_a_reset_has() -> None:
    """Nobody can go on from a hint. After a reset one must: the place before it may be right again, and hide a part."""
    assert events.position_frame(3) == b'event: position\r\ndata: {"type":"position","position":3}\r\n\r\n'
    assert events.progress_frame(1, 2) == (
        b'event: progress\r\ndata: {"type":"progress","prompt_tokens_evaluated":1,"prompt_tokens":2}\r\n\r\n'
    )
    assert events.reset_frame(2, "a\n", Cursor(3, 2)) == (
        b'id: 3-2\r\nevent: reset\r\ndata: {"type":"reset","from":2,"text":"a\\n"}\r\n\r\n'
    )
    assert events.forgotten_frame("task_forgotten", "m") == (
        b'event: failed\r\ndata: {"type":"failed","code":"task_forgotten","message":"m"}\r\n\r\n'
    )


@given(TEXT, st.integers(0, 10**15 - 1), st.integers(1, 10**9 - 1))
def test_the_short_way_to_the_frame_of_an_output_is_the_same_frame(text: str, epoch: int, offset: int) -> None:
    """Byte for byte what JSON and the encoder of frames make of it."""
    cursor = Cursor(epoch, offset)
    data = {"type": "llm_streaming", "token": text, "index": offset - 1}
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))

    frame = events.output_frame(str(cursor), text)

    assert frame == encode("llm_streaming", line, str(cursor))
    assert frame == events.entry_frame("0.ab", Entry(cursor, Output(text=text, token_ids=(1,))))


def test_text_that_is_no_unicode_is_refused() -> None:
    """Half a letter would not come back."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        events.output_frame("1-1", "\ud800")


def test_a_keep_alive_is_nothing_to_a_reader() -> None:
    """A comment, and the blank line that proxies wait for."""
    assert Parser().feed(events.KEEP_ALIVE) == []
    assert events.KEEP_ALIVE == b": keep-alive\r\n\r\n"


@given(TEXT, st.integers(0, 10**15 - 1), st.integers(1, 10**9 - 1))
def test_any_text_comes_back(text: str, epoch: int, offset: int) -> None:
    """Whatever the model says, line ends and separators of any alphabet included."""
    [frame] = Parser().feed(events.entry_frame("0.ab", Entry(Cursor(epoch, offset), Output(text=text))))

    assert (frame.id, frame.event) == (f"{epoch}-{offset}", "llm_streaming")
    assert json.loads(frame.data) == {"type": "llm_streaming", "token": text, "index": offset - 1}
