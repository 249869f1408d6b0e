"""Tasks: look, follow, cancel, erase, list."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from sibyl.api.context import ContextParam, OwnerParam
from sibyl.api.streaming import EventStream
from sibyl.api.submission import UNREADABLE, show, shown
from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import TaskForgotten
from sibyl.core.state import State
from sibyl.core.task import TaskId
from sibyl.store.follow import at_end
from sibyl.wire.tasks import LISTED_TASKS, ErrorBody, TaskBody, TaskListBody

router = APIRouter(prefix="/api/tasks", tags=["tasks"])

TaskIdParam = Annotated[str, Path(description="the task's id", examples=["0.5f0c7a7e6f1d4a3b9c2e8d7f6a5b4c3d"])]
# Without the null that FastAPI would add: a query or a header cannot hold one.
_CURSOR: dict[str, Any] = {"anyOf": [{"type": "string", "pattern": r"^[0-9]{1,15}-[0-9]{1,9}$"}]}
_CURSOR_OR_EMPTY: dict[str, Any] = {"anyOf": [{"type": "string", "pattern": r"^([0-9]{1,15}-[0-9]{1,9})?$"}]}
_FRAME = {
    "type": "object",
    "description": "one event",
    "properties": {
        "id": {"type": "string", "description": "its cursor; hints have none"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_ABSENT: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorBody, "description": "a parameter is wrong"},
    404: {"model": ErrorBody, "description": "there is no such task"},
    410: {"model": ErrorBody, "description": "it was deleted, or its retention ended"},
    503: {"model": ErrorBody, "description": "Redis is out of reach; Retry-After says when to try again"},
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "frames of `id`, `event`, `data`; the last event is completed, failed, cancelled or expired",
        "content": {
            "text/event-stream": {
                "schema": _FRAME,
                "example": (
                    'id: 1767268800000-1\r\nevent: llm_streaming\r\ndata: {"type":"llm_streaming","token":"The",'
                    '"index":0}\r\n\r\n'
                ),
            }
        },
    },
    204: {"description": "the cursor is the last event: there is nothing more, do not reconnect"},
}


@router.get(
    "",
    response_model=TaskListBody,
    response_model_exclude_unset=True,
    responses={status: _ABSENT[status] for status in (404, 422, 503)},
)
async def list_tasks(
    context: ContextParam,
    owner: OwnerParam,
    state: Annotated[State | None, Query(description="only tasks in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=LISTED_TASKS, description="most tasks to return")] = 20,
    before: Annotated[str | None, Query(description="a task id: only tasks older than it")] = None,
) -> dict[str, Any]:
    """Return your tasks, newest first."""
    place = None if before is None else TaskId(before)
    tasks, next_before = await context.views.tasks(owner, limit=limit, state=state, before=place)
    # Logprobs and segments are many times the size of the text; who wants them asks for the one task.
    return {"tasks": [shown(replace(task, logprobs=(), segments=())) for task in tasks], "next_before": next_before}


@router.get("/{task_id}", response_model=TaskBody, response_model_exclude_unset=True, responses=_ABSENT)
async def task(task_id: TaskIdParam, context: ContextParam, owner: OwnerParam) -> dict[str, Any]:
    """Return a task as it stands, with all of its answer that is stored so far."""
    return await show(context, owner, TaskId(task_id))


@router.get("/{task_id}/events", response_class=Response, responses=_ABSENT | _STREAM)
async def task_events(
    task_id: TaskIdParam,
    context: ContextParam,
    owner: OwnerParam,
    after: Annotated[
        str | None, Query(description="the id of the last event you have", json_schema_extra=_CURSOR)
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(description="the same, as browsers send it; wins over `after`", json_schema_extra=_CURSOR_OR_EMPTY),
    ] = None,
) -> Response:
    """Stream the task's events: all that are stored after the cursor, then those that come, until the last one.

    Leaving stops nothing. A body that ends without a terminal event was cut: connect again with the last `id`.
    """
    asked = START if after is None else Cursor.parse(after)
    cursor = Cursor.parse(last_event_id) if last_event_id else asked
    identity = TaskId(task_id)
    await context.views.require_owner(identity, owner)
    feed = context.join(identity)
    stream: EventStream | None = None
    try:
        await context.tail.load(feed)
        if feed.forgotten:
            raise TaskForgotten()
        if at_end(feed, cursor):
            return Response(status_code=204)
        stream = EventStream(
            feed,
            cursor,
            draining=context.draining,
            keep_alive_s=context.settings.keep_alive_s,
            send_timeout_s=context.settings.send_timeout_s,
            release=partial(context.leave, feed),
        )
        return stream
    finally:
        if stream is None:
            context.leave(feed)


@router.post(
    "/{task_id}/cancel",
    status_code=202,
    response_model=TaskBody,
    response_model_exclude_unset=True,
    responses=_ABSENT | UNREADABLE,
)
async def cancel(task_id: TaskIdParam, context: ContextParam, owner: OwnerParam) -> dict[str, Any]:
    """Ask the task to stop. Its `cancelled` event follows; a finished task stays as it is. Twice is once."""
    await context.queue.request_cancel(TaskId(task_id), owner)
    return await show(context, owner, TaskId(task_id))


@router.delete("/{task_id}", status_code=204, responses=_ABSENT | UNREADABLE)
async def erase(task_id: TaskIdParam, context: ContextParam, owner: OwnerParam) -> None:
    """Erase the question, the answer and the log. A task that still runs is stopped."""
    await context.queue.erase(TaskId(task_id), owner)
