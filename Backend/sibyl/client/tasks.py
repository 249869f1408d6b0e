"""A task as a program sees it, read from the server's JSON. Fields that a newer server adds are ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sibyl.client.errors import UnexpectedReply
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.state import State
from sibyl.core.task import TaskError, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Poem:
    """What was drawn for a fortune."""

    number: int
    title: str
    grade: str
    themes: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stood when the server answered. ``text`` is all of the answer that was stored by then."""

    task_id: str
    kind: str  #: "question" or "fortune"
    state: State
    position: int | None  #: tasks ahead of it; None unless queued
    attempt: int  #: attempts begun
    model: str | None  #: None while it never ran
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()  #: of the tokens of ``text``, if they were asked for
    finish_reason: str | None  #: "stop", "length", "cancelled", "error"; None while it is not finished
    usage: Usage | None
    error: TaskError | None  #: why it failed
    metadata: Mapping[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None  #: from here on it is forgotten
    poem: Poem | None  #: only fortunes have one


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Some tasks, newest first."""

    tasks: tuple[Task, ...]
    next_before: str | None  #: what to give as ``before`` for the next page; None on the last


def read_task(body: object) -> Task:
    """Return the task in a reply's JSON.

    Raises:
        UnexpectedReply: it is not a task.
    """
    fields = read_object(body)
    poem, usage, error = fields.get("poem"), fields.get("usage"), fields.get("error")
    try:
        return Task(
            task_id=required(fields, "task_id", str),
            kind=required(fields, "kind", str),
            state=State(required(fields, "state", str)),
            position=optional(fields, "position", int),
            attempt=optional(fields, "attempt", int) or 0,
            model=optional(fields, "model", str),
            text=required(fields, "text", str),
            logprobs=read_logprobs(fields.get("logprobs")),
            finish_reason=optional(fields, "finish_reason", str),
            usage=None if usage is None else read_usage(usage),
            error=None if error is None else _read_error(error),
            metadata={str(key): str(value) for key, value in read_object(fields.get("metadata") or {}).items()},
            created_at=datetime.fromisoformat(required(fields, "created_at", str)),
            started_at=_time(fields, "started_at"),
            finished_at=_time(fields, "finished_at"),
            expires_at=_time(fields, "expires_at"),
            poem=None if poem is None else _read_poem(poem),
        )
    except ValueError as fault:
        raise UnexpectedReply() from fault


def read_page(body: object) -> TaskPage:
    """Return the list of tasks in a reply's JSON, or raise UnexpectedReply."""
    fields = read_object(body)
    tasks = required(fields, "tasks", list)
    return TaskPage(tasks=tuple(map(read_task, tasks)), next_before=optional(fields, "next_before", str))


def read_nothing(body: object) -> None:
    """Ignore a reply's body."""


def read_usage(value: object) -> Usage:
    """Return the usage in a JSON value, or raise UnexpectedReply."""
    fields = read_object(value)
    return Usage(
        prompt_tokens=required(fields, "prompt_tokens", int),
        completion_tokens=required(fields, "completion_tokens", int),
    )


def read_logprobs(value: object) -> tuple[TokenLogprobs, ...]:
    """Return the logprobs in a JSON value, none for null, or raise UnexpectedReply."""
    return tuple(
        TokenLogprobs(
            chosen=_read_logprob(place),
            likeliest=tuple(map(_read_logprob, required(read_object(place), "top_logprobs", list))),
        )
        for place in (required({"logprobs": value}, "logprobs", list) if value is not None else ())
    )


def _read_logprob(value: object) -> TokenLogprob:
    fields = read_object(value)
    logprob = fields.get("logprob")
    try:
        return TokenLogprob(
            token_id=optional(fields, "id", int),
            piece=bytes(required(fields, "bytes", list)),
            logprob=float(logprob) if type(logprob) is int else required(fields, "logprob", float),
        )
    except (TypeError, ValueError) as fault:  # numbers that are no bytes
        raise UnexpectedReply() from fault


def _read_error(value: object) -> TaskError:
    fields = read_object(value)
    return TaskError(code=required(fields, "code", str), message=required(fields, "message", str))


def _read_poem(value: object) -> Poem:
    fields = read_object(value)
    return Poem(
        number=required(fields, "number", int),
        title=required(fields, "title", str),
        grade=required(fields, "grade", str),
        themes=tuple(map(str, required(fields, "themes", list))),
        lines=tuple(map(str, required(fields, "lines", list))),
    )


def _time(fields: Mapping[str, object], name: str) -> datetime | None:
    text = optional(fields, name, str)
    return None if text is None else datetime.fromisoformat(text)


def read_object(value: object) -> Mapping[str, object]:
    """Return ``value`` if it is a JSON object, or raise UnexpectedReply."""
    if not isinstance(value, dict):
        raise UnexpectedReply()
    return value


def optional(fields: Mapping[str, object], name: str, kind: type[T]) -> T | None:
    """Return a field of this type, None when it is null or absent, or raise UnexpectedReply."""
    return None if fields.get(name) is None else required(fields, name, kind)


def required(fields: Mapping[str, object], name: str, kind: type[T]) -> T:
    """Return a field of this type, or raise UnexpectedReply. JSON's true is no number."""
    value = fields.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UnexpectedReply()
    return value
