"""Requests are written as the wire wants them, or refused here with one sentence."""

import json
from typing import Any

import pytest

from sibyl.client.requests import ask_request, events_request, fortune_request, task_request, tasks_request
from sibyl.core.errors import InvalidRequest, UnknownTask
from sibyl.core.state import State
from sibyl.core.task import Message, SamplingParams

NOTHING: dict[str, Any] = {
    "system": None,
    "history": (),
    "sampling": None,
    "priority": None,
    "deadline_s": None,
    "metadata": None,
    "idempotency_key": None,
}


def test_what_was_not_given_is_not_sent() -> None:
    """The server's defaults stay the server's."""
    request = ask_request("Why? ✓", **NOTHING)

    assert request.body == '{"question": "Why? ✓"}'.encode()
    assert len(request.headers["Idempotency-Key"]) == 32


def test_everything_that_was_given_is_sent() -> None:
    """A question with all its options, and a fortune with its seed."""
    given: dict[str, Any] = {
        "system": "Be brief.",
        "history": [Message(role="user", content="Hello")],
        "sampling": SamplingParams(max_tokens=9, temperature=0, stop=("\n",)),
        "priority": 0,
        "deadline_s": 60.0,
        "metadata": {"a": "b"},
        "idempotency_key": "k",
    }

    request = ask_request("Why?", **given)
    fortune = fortune_request("Why?", seed=0, sampling=None, idempotency_key=None)

    assert json.loads(request.body or b"") == {
        "question": "Why?",
        "system": "Be brief.",
        "history": [{"role": "user", "content": "Hello"}],
        "sampling": {"max_tokens": 9, "temperature": 0, "stop": ["\n"]},
        "priority": 0,
        "deadline_s": 60.0,
        "metadata": {"a": "b"},
    }
    assert request.headers["Idempotency-Key"] == "k"
    assert json.loads(fortune.body or b"") == {"question": "Why?", "seed": 0}


def test_a_schema_is_sent_as_an_object() -> None:
    """It is text in a program's hands; what is no JSON is refused before anything is sent."""
    sampling = SamplingParams(json_schema='{"type": "null"}', logprobs=0)

    request = ask_request("Why?", **NOTHING | {"sampling": sampling})

    assert json.loads(request.body or b"")["sampling"] == {"json_schema": {"type": "null"}, "logprobs": 0}
    with pytest.raises(InvalidRequest, match="no JSON"):
        ask_request("Why?", **NOTHING | {"sampling": SamplingParams(json_schema="{")})


def test_keys_are_drawn_anew() -> None:
    """Two questions are two tasks."""
    one, other = ask_request("Why?", **NOTHING), ask_request("Why?", **NOTHING)

    assert one.headers["Idempotency-Key"] != other.headers["Idempotency-Key"]


@pytest.mark.parametrize("key", ["", "a" * 256, "a b", "a\r\nX: y", "é"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidRequest, match="idempotency key"):
        ask_request("Why?", **NOTHING | {"idempotency_key": key})


@pytest.mark.parametrize(
    "wrong", [{"system": "\ud800"}, {"sampling": SamplingParams(temperature=float("nan"))}, {"metadata": {"a": b"b"}}]
)
def test_what_json_cannot_hold_is_refused(wrong: dict[str, Any]) -> None:
    """Half a surrogate pair, no number, bytes."""
    with pytest.raises(InvalidRequest):
        ask_request("Why?", **NOTHING | wrong)


@pytest.mark.parametrize("task_id", ["", ".", ".."])
def test_an_id_that_leads_elsewhere_is_unknown(task_id: str) -> None:
    """It would be another path."""
    with pytest.raises(UnknownTask):
        task_request(task_id)


def test_an_id_is_one_part_of_the_path() -> None:
    """Whatever stands in it."""
    assert task_request("0.1/../a?b#c é").path == "api/tasks/0.1%2F..%2Fa%3Fb%23c%20%C3%A9"


def test_a_list_is_asked_with_what_was_given() -> None:
    """Nothing, or all three."""
    assert tasks_request(state=None, limit=None, before=None).path == "api/tasks"
    path = tasks_request(state=State.FAILED, limit=2, before="0.1").path
    assert path == "api/tasks?state=failed&limit=2&before=0.1"


def test_a_stream_goes_on_after_its_cursor() -> None:
    """As Last-Event-ID, which is absent for the beginning."""
    assert "Last-Event-ID" not in events_request("0.1", None).headers
    assert events_request("0.1", "1-2").headers["Last-Event-ID"] == "1-2"
