"""One call repeats itself where that helps, and nowhere else."""

import json

import pytest

from sibyl.client.call import Call
from sibyl.client.errors import CannotConnect, ServerFailed, UnexpectedReply
from sibyl.client.requests import delete_request, tasks_request
from sibyl.client.tasks import TaskPage
from sibyl.core.errors import InvalidRequest, QueueFull, TaskForgotten

PAGE = b'{"tasks": []}'


def error_body(code: str) -> bytes:
    """A body as the API writes it."""
    return json.dumps({"error": {"code": code, "message": "A sentence."}}).encode()


def call(retry_s: float | None = 30.0) -> Call[TaskPage]:
    """A call that lists tasks."""
    return Call(tasks_request(state=None, limit=None, before=None), retry_s=retry_s, jitter=lambda: 1.0)


def test_a_result_is_read() -> None:
    """2xx is the end."""
    listing = call()

    assert listing.replied(0.0, 200, {}, PAGE) is None
    assert listing.result is not None


def test_failures_are_repeated_with_growing_pauses_until_the_patience_ends() -> None:
    """The last failure is what the caller gets."""
    listing = call(retry_s=10.0)

    first = listing.failed(100.0, CannotConnect("one"))
    second = listing.replied(101.0, 502, {}, b"")

    assert second is not None
    assert (first.wait_s, second.wait_s, second.failing_s, second.failures) == (0.25, 0.5, 1.0, 2)
    with pytest.raises(ServerFailed, match="502"):
        listing.replied(110.0, 502, {}, b"")


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    """429 with Retry-After."""
    pause = call().replied(0.0, 429, {"retry-after": "5"}, error_body("queue_full"))

    assert pause is not None and pause.wait_s == 5.25
    with pytest.raises(QueueFull):
        call(retry_s=4.0).replied(0.0, 429, {"retry-after": "5"}, error_body("queue_full"))


def test_a_refusal_is_not_repeated() -> None:
    """4xx: the same request would be refused again."""
    with pytest.raises(InvalidRequest):
        call().replied(0.0, 422, {}, error_body("invalid_request"))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b""])
def test_a_foreign_success_is_an_error(body: bytes) -> None:
    """200 from something that is no Sibyl."""
    with pytest.raises(UnexpectedReply):
        call().replied(0.0, 200, {}, body)


def test_a_deletion_whose_reply_was_lost_has_happened() -> None:
    """Gone after a lost connection is done; gone at once is somebody else's deletion."""
    repeated = Call(delete_request("0.1"), retry_s=None)
    repeated.failed(0.0, CannotConnect())

    assert repeated.replied(1.0, 410, {}, error_body("task_forgotten")) is None
    with pytest.raises(TaskForgotten):
        Call(delete_request("0.1"), retry_s=None).replied(0.0, 410, {}, error_body("task_forgotten"))
