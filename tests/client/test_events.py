"""Events cross the wire in both directions."""

import json

import pytest

from sibyl.client.errors import UnexpectedReply
from sibyl.client.events import Output, Reset, read_event, write_event

EVENTS: list[dict[str, object]] = [
    {"type": "queued", "task_id": "0.1"},
    {"type": "started", "attempt": 2, "model": None},
    {"type": "llm_streaming", "token": "é\n", "index": 0},
    {
        "type": "llm_streaming",
        "token": "a",
        "index": 1,
        "logprobs": [
            {
                "token": "a",
                "id": 7,
                "logprob": -0.5,
                "bytes": [97],
                "top_logprobs": [{"token": "\ufffd", "logprob": -1.0, "bytes": [255]}],
            }
        ],
    },
    {
        "type": "completed",
        "text_length": 2,
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "finish_reason": "stop",
    },
    {"type": "failed", "code": "engine_error", "message": "It failed."},
    {"type": "cancelled"},
    {"type": "expired", "message": "Too late."},
    {"type": "position", "position": 0},
    {"type": "progress", "prompt_tokens_evaluated": 1, "prompt_tokens": 9},
    {"type": "reset", "from": 3, "text": "abc"},
]

WRONG: tuple[object, ...] = (None, [], True)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["type"])
def test_an_event_is_written_as_it_was_read(event: dict[str, object]) -> None:
    """Every type comes back with its cursor, and what is not known of it is left out."""
    read = read_event(json.dumps(event | {"a_field_of_tomorrow": {}}), "1-2")

    assert read is not None
    assert write_event(read) == {"id": "1-2"} | event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["type"])
def test_an_event_without_what_it_needs_is_refused(event: dict[str, object]) -> None:
    """A field of the wrong type is never passed on."""
    optional = {"model", "usage", "finish_reason", "message", "logprobs"} - (
        {"message"} if event["type"] == "failed" else set()
    )
    for name in event.keys() - optional - {"type"}:
        for wrong in WRONG:
            with pytest.raises(UnexpectedReply):
                read_event(json.dumps(event | {name: wrong}), None)


@pytest.mark.parametrize(
    "logprobs",
    [
        {},
        [1],
        [{"logprob": -1, "bytes": [1]}],
        [{"logprob": -1, "bytes": [256], "top_logprobs": []}],
        [{"logprob": -1, "bytes": ["a"], "top_logprobs": []}],
        [{"logprob": "-1", "bytes": [], "top_logprobs": []}],
        [{"logprob": True, "bytes": [], "top_logprobs": []}],
        [{"logprob": -1, "bytes": [], "top_logprobs": [{}]}],
    ],
    ids=str,
)
def test_logprobs_that_are_none_are_refused(logprobs: object) -> None:
    """Numbers that are no bytes, text that is no number."""
    with pytest.raises(UnexpectedReply):
        read_event(json.dumps({"type": "llm_streaming", "token": "a", "index": 0, "logprobs": logprobs}), None)


def test_an_unknown_type_is_left_out() -> None:
    """A newer server may say more than this client knows."""
    assert read_event('{"type": "thinking"}', "1-1") is None


@pytest.mark.parametrize("data", ["", "{", "[]", "1", '{"type": 1}', "{}", "[" * 9999])
def test_what_is_no_event_is_refused(data: str) -> None:
    """Bytes from elsewhere end in one clear error."""
    with pytest.raises(UnexpectedReply):
        read_event(data, None)


def test_hints_have_no_cursor() -> None:
    """And are written without one."""
    assert write_event(Reset(cursor=None, kept=1, text="a")) == {"type": "reset", "from": 1, "text": "a"}
    assert write_event(Output(cursor="3-4", token="a", index=1))["id"] == "3-4"
