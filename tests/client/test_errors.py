"""Replies become the error that a program can act on."""

import json

import pytest

from sibyl.client.errors import (
    Refused,
    ServerFailed,
    TaskFailed,
    UnexpectedReply,
    reply_error,
    retry_after_s,
    task_error,
)
from sibyl.core.errors import InvalidRequest, QueueFull, SibylError, StoreUnavailable, TaskForgotten, UnknownTask


def error_body(code: str, **rest: object) -> bytes:
    """A body as the API writes it."""
    return json.dumps({"error": {"code": code, "message": "A sentence.", **rest}}).encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "unknown_task", UnknownTask),
        (410, "task_forgotten", TaskForgotten),
        (429, "queue_full", QueueFull),
        (503, "store_unavailable", StoreUnavailable),
        (413, "body_too_large", Refused),
        (404, "not_found", Refused),
        (500, "internal_error", ServerFailed),
        (418, "a_code_of_tomorrow", Refused),
    ],
)
def test_a_code_becomes_its_class(status: int, code: str, kind: type[SibylError]) -> None:
    """A known code has a class; any other keeps its word and its status."""
    error = reply_error(status, {}, error_body(code))

    assert type(error) is kind
    assert (error.code, error.status, error.message) == (code, status, "A sentence.")


def test_what_is_wrong_is_said_with_its_place() -> None:
    """The details of a refused request are part of the sentence."""
    details = [{"loc": ["body", "sampling", "top_p"], "message": "must be at most 1"}, {"loc": [], "message": "no"}]

    error = reply_error(422, {}, error_body("invalid_request", details=details))

    assert isinstance(error, InvalidRequest)
    assert error.message == "A sentence: sampling.top_p: must be at most 1; no"


def test_what_the_sentence_says_already_is_not_said_again() -> None:
    """A server that puts the details into its message as well."""
    details = [{"loc": ["body", "priority"], "message": "sentence"}]

    assert reply_error(422, {}, error_body("invalid_request", details=details)).message == "A sentence."


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"\xff", b"[]", b"{}", b'{"error": 1}', b'{"error": {}}', b'{"error": {"code": 1}}', b"[" * 9999],
)
@pytest.mark.parametrize(
    ("status", "kind"), [(502, ServerFailed), (429, ServerFailed), (404, UnexpectedReply), (302, UnexpectedReply)]
)
def test_a_foreign_reply_is_told_apart(body: bytes, status: int, kind: type[SibylError]) -> None:
    """Whatever a proxy says instead of us: a sentence, and never a fault of our own."""
    assert type(reply_error(status, {}, body)) is kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "9" * 5000}, 999_999_999),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "²"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_both_forms(headers: dict[str, str], seconds: int | None) -> None:
    """Seconds, or a date that is taken relative to the server's own clock; nonsense is no wish."""
    assert retry_after_s(headers) == seconds


def test_a_failed_task_keeps_its_code() -> None:
    """Known or not, the code is what the server said."""
    assert type(task_error("task_forgotten", "Gone.")) is TaskForgotten
    error = task_error("worker_lost", "")
    assert isinstance(error, TaskFailed) and (error.code, error.message) == ("worker_lost", "The task failed.")
