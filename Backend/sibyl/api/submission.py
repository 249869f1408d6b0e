"""From a checked body to an accepted task: the part that questions and fortunes share."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Header, Response

from sibyl.api.admission import require_fitting
from sibyl.api.context import Context
from sibyl.core.errors import SibylError
from sibyl.core.task import Owner, Task, TaskId, TaskSpec
from sibyl.fortune.poems import Poem, poem_by_number
from sibyl.wire.tasks import ErrorBody, PoemBody, task_body

_KEY = r"^[\x21-\x7e]+$"
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=_KEY,
        # Without the null that FastAPI would add: a header cannot hold one.
        json_schema_extra={"anyOf": [{"type": "string", "minLength": 1, "maxLength": 255, "pattern": _KEY}]},
        description="your name for this request: sent again with the same key, it gives the same task",
    ),
]

UNREADABLE: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "the body is not JSON in UTF-8"},
    408: {"model": ErrorBody, "description": "the body did not arrive in time"},
    413: {"model": ErrorBody, "description": "the body is too large"},
    415: {"model": ErrorBody, "description": "the body is not application/json"},
}
REFUSALS: dict[int | str, dict[str, Any]] = UNREADABLE | {
    410: {"model": ErrorBody, "description": "the task of this Idempotency-Key was deleted"},
    422: {"model": ErrorBody, "description": "a field is wrong, the prompt is too long, or the key was used before"},
    429: {"model": ErrorBody, "description": "too many tasks wait; Retry-After says when to try again"},
    503: {"model": ErrorBody, "description": "Redis is out of reach; Retry-After says when to try again"},
}


async def accept(
    context: Context,
    owner: Owner,
    spec: TaskSpec,
    response: Response,
    *,
    deadline_s: float | None,
    key: str | None,
    request: str,
) -> dict[str, Any]:
    """Submit the task and return its body; sets Location."""
    await require_fitting(context, spec.messages)
    limits = context.limits
    if deadline_s is not None:
        limits = replace(limits, deadline_s=min(deadline_s, limits.deadline_s))
    fresh = None if key is not None else context.queue.new_id(owner)
    submitting = context.queue.submit(
        spec, owner=owner, limits=limits, idempotency_key=key, request=request, task_id=fresh
    )
    if fresh is None:
        task_id, seen = await submitting, None
    else:
        # Asked in the same breath, so that it travels with the submit; where it got there before it, it is asked again.
        viewing = context.views.task(fresh, owner)
        task_id, seen = await _both(submitting, viewing)
    response.headers["Location"] = f"/api/tasks/{task_id}"
    return await show(context, owner, task_id) if seen is None else shown(seen)


async def _both(
    submitting: Coroutine[Any, Any, TaskId], viewing: Coroutine[Any, Any, Task]
) -> tuple[TaskId, Task | None]:
    """Return what the first gives, and the second if it can be had; raise what the first raises."""
    submitted, seen = await asyncio.gather(submitting, viewing, return_exceptions=True)
    if isinstance(submitted, BaseException):
        raise submitted
    if isinstance(seen, BaseException) and not isinstance(seen, SibylError):
        raise seen
    return submitted, None if isinstance(seen, BaseException) else seen


async def show(context: Context, owner: Owner, task_id: TaskId) -> dict[str, Any]:
    """Return the body of a task as it stands."""
    return shown(await context.views.task(task_id, owner))


def shown(task: Task) -> dict[str, Any]:
    """Return the body of a task, with its poem if it is a fortune."""
    number = task.spec.poem_number
    return task_body(task, None if number is None else poem_body(poem_by_number(number)))


def poem_body(poem: Poem) -> PoemBody:
    """Return a poem as it is shown."""
    return PoemBody(
        number=poem.number,
        title=poem.title,
        grade=poem.grade.value,
        themes=[theme.value for theme in poem.themes],
        lines=list(poem.lines),
    )
