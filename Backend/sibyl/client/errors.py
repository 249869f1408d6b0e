"""What can go wrong for a program that asks, and how a reply of the server becomes one of these errors.

    SibylError
        CannotConnect       the server is out of reach, and stayed so
        UnexpectedReply     whoever answers does not speak this wire
        Refused             the server understood and says no; ``code`` says why
        ServerFailed        the server failed, and went on failing
        TaskFailed          the task ended without an answer; ``code`` says why

A code that `sibyl.core.errors` has a class for becomes that class instead: `QueueFull`, `UnknownTask`, `TaskForgotten`.
"""

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from sibyl.core import errors
from sibyl.core.errors import SibylError


class CannotConnect(SibylError):
    """The server is out of reach."""

    status = 503


class UnexpectedReply(SibylError):
    """The reply is not what this client understands. Is a Sibyl of the same version at this URL?"""

    status = 502


class _Coded(SibylError):
    """An error whose code the server chose."""

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(message)
        self._code = code

    @property
    def code(self) -> str:
        """The server's word for it."""
        return self._code


class Refused(_Coded):
    """The server refuses this request."""

    status = 422


class ServerFailed(_Coded):
    """The server failed to answer."""

    status = 502


class TaskFailed(_Coded):
    """The task failed."""


_KNOWN: Mapping[str, type[SibylError]] = {
    kind().code: kind
    for kind in (
        errors.InvalidRequest,
        errors.InvalidCursor,
        errors.PromptTooLong,
        errors.IdempotencyMismatch,
        errors.UnknownTask,
        errors.TaskForgotten,
        errors.QueueFull,
        errors.TooManyTasks,
        errors.StoreUnavailable,
        errors.StoreFull,
        errors.StoreUnsuitable,
        errors.EngineError,
        errors.ModelUnusable,
        errors.UpstreamError,
    )
}


def task_error(code: str, message: str) -> SibylError:
    """Return the error of a task that ended as ``failed``."""
    return _KNOWN[code](message) if code in _KNOWN else TaskFailed(code, message or None)


def reply_error(status: int, headers: Mapping[str, str], body: bytes) -> SibylError:
    """Return the error that a reply other than 2xx means; ``retry_after_s`` is what it asks for, None if nothing.

    The body may be anything: whatever stands between us and the server answers in its own words.
    """
    code, message = _code_and_message(body)
    error: SibylError
    if code in _KNOWN:
        error = _KNOWN[code](message)
    elif 300 <= status < 400:
        error = UnexpectedReply(f"The server redirects to {headers.get('location', 'nowhere')}; use that address.")
    elif status == 429 or status >= 500:
        error = ServerFailed(code or f"http_{status}", message or f"The server answered with status {status}.")
    elif code:
        error = Refused(code, message)
    else:
        error = UnexpectedReply(f"The server answered with status {status}. Is a Sibyl at this URL?")
    error.status = status
    error.retry_after_s = retry_after_s(headers)
    return error


def _code_and_message(body: bytes) -> tuple[str, str]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return "", ""
    message = error.get("message")
    details = error.get("details")
    text = message if isinstance(message, str) else ""
    places = [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
    reasons = [_reason(detail) for detail in places if str(detail.get("message")) not in text]
    return error["code"], f"{text.removesuffix('.')}: {'; '.join(reasons)}" if reasons else text


def _reason(detail: Mapping[str, object]) -> str:
    loc = detail.get("loc")
    place = ".".join(str(part) for part in loc if part != "body") if isinstance(loc, list) else ""
    return f"{place}: {detail.get('message')}" if place else str(detail.get("message"))


def retry_after_s(headers: Mapping[str, str]) -> int | None:
    """Return the seconds that Retry-After asks for; None when there is none, or it cannot be read.

    A date is taken relative to the reply's own Date, so that a wrong clock here does no harm.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return int(value[:9])
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    return max(0, round(wait.total_seconds()))
