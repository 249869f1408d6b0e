"""What is sent, as values: method, path, headers, body, and how the reply is to be read. Nothing here sends."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

from sibyl.client.tasks import Task, TaskPage, read_nothing, read_page, read_task
from sibyl.core.errors import InvalidRequest, UnknownTask
from sibyl.core.state import State
from sibyl.core.task import Message, SamplingParams

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Generic[T]):
    """One request. Each may be sent again when its reply was lost: it then means the same."""

    method: str
    path: str  #: relative to the server's address
    read: Callable[[object], T]
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


def ask_request(
    question: str,
    *,
    system: str | None,
    history: Sequence[Message],
    sampling: SamplingParams | None,
    priority: int | None,
    deadline_s: float | None,
    metadata: Mapping[str, str] | None,
    idempotency_key: str | None,
) -> Request[Task]:
    """Return the request that submits a question."""
    fields: dict[str, object] = {"question": question}
    if system is not None:
        fields["system"] = system
    if history:
        fields["history"] = [asdict(message) for message in history]
    if priority is not None:
        fields["priority"] = priority
    if deadline_s is not None:
        fields["deadline_s"] = deadline_s
    if metadata:
        fields["metadata"] = dict(metadata)
    return _submission("api/questions", fields | _sampling(sampling), idempotency_key)


def fortune_request(
    question: str, *, seed: int | None, sampling: SamplingParams | None, idempotency_key: str | None
) -> Request[Task]:
    """Return the request that draws a fortune."""
    fields: dict[str, object] = {"question": question} | ({} if seed is None else {"seed": seed})
    return _submission("api/fortunes", fields | _sampling(sampling), idempotency_key)


def task_request(task_id: str) -> Request[Task]:
    """Return the request that reads a task."""
    return Request(method="GET", path=task_path(task_id), read=read_task)


def tasks_request(*, state: State | None, limit: int | None, before: str | None) -> Request[TaskPage]:
    """Return the request that lists tasks."""
    query = {"state": state, "limit": limit, "before": before}
    given = urlencode({name: str(value) for name, value in query.items() if value is not None})
    return Request(method="GET", path=f"api/tasks?{given}" if given else "api/tasks", read=read_page)


def cancel_request(task_id: str) -> Request[Task]:
    """Return the request that cancels a task."""
    return Request(method="POST", path=f"{task_path(task_id)}/cancel", read=read_task)


def delete_request(task_id: str) -> Request[None]:
    """Return the request that erases a task."""
    return Request(method="DELETE", path=task_path(task_id), read=read_nothing)


def events_request(task_id: str, after: str | None) -> Request[None]:
    """Return the request for a task's events after a cursor."""
    headers = {
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",  # who compresses a stream holds it back
        "Cache-Control": "no-store",
    }
    if after is not None:
        headers["Last-Event-ID"] = after
    return Request(method="GET", path=f"{task_path(task_id)}/events", read=read_nothing, headers=headers)


def task_path(task_id: str) -> str:
    """Return a task's path.

    Raises:
        UnknownTask: no task can have this id: it would lead to another path.
    """
    if not task_id.strip("."):
        raise UnknownTask()
    return f"api/tasks/{_encodable(task_id, lambda text: quote(text, safe=''))}"


def _submission(path: str, fields: Mapping[str, object], idempotency_key: str | None) -> Request[Task]:
    key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
    if not 1 <= len(key) <= 255 or not all("!" <= letter <= "~" for letter in key):
        raise InvalidRequest("An idempotency key is 1 to 255 visible ASCII characters.")
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.") from None
    return Request(
        method="POST",
        path=path,
        read=read_task,
        headers={"Content-Type": "application/json", "Idempotency-Key": key},
        body=_encodable(text, str.encode),
    )


def _encodable(text: str, encode: Callable[[str], T]) -> T:
    try:
        return encode(text)
    except UnicodeEncodeError:
        raise InvalidRequest("The text is not valid Unicode; it holds half of a surrogate pair.") from None


def _sampling(sampling: SamplingParams | None) -> dict[str, object]:
    given = {} if sampling is None else {name: value for name, value in asdict(sampling).items() if value is not None}
    if not given.get("stop"):
        given.pop("stop", None)
    if "json_schema" in given:
        try:
            given["json_schema"] = json.loads(str(given["json_schema"]))
        except (ValueError, RecursionError) as error:
            raise InvalidRequest("The JSON schema is no JSON.") from error
    return {"sampling": given} if given else {}
