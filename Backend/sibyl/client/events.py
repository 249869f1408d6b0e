"""The events that following a task hands out, read from and written as the JSON of the wire.

``cursor`` is the place to go on from: give it as ``after`` to follow again without a gap. Hints have none; a reader may
miss them and loses nothing but a `Reset`, which the server then says again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from sibyl.client.errors import UnexpectedReply
from sibyl.client.tasks import optional, read_logprobs, read_object, read_usage, required
from sibyl.core.logprobs import TokenLogprobs
from sibyl.core.task import Usage
from sibyl.wire.logprobs import shown_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    type: ClassVar[str]

    cursor: str | None  #: None for hints


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(_Event):
    """The task was accepted."""

    type: ClassVar[str] = "queued"

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(_Event):
    """A worker runs the task. Again, with a higher attempt, when another worker goes on; the text so far stays."""

    type: ClassVar[str] = "started"

    attempt: int
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(_Event):
    """New text of the answer."""

    type: ClassVar[str] = "llm_streaming"

    token: str  #: the new text, maybe of several tokens
    index: int  #: 0, 1, 2 and so on
    logprobs: tuple[TokenLogprobs, ...] = ()  #: one for each token, if they were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(_Event):
    """The answer is whole. Terminal."""

    type: ClassVar[str] = "completed"

    text_length: int  #: of the whole answer, in code points
    usage: Usage | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(_Event):
    """The answer could not be given; what came of it stays. Terminal."""

    type: ClassVar[str] = "failed"

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(_Event):
    """A client asked to stop. Terminal."""

    type: ClassVar[str] = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(_Event):
    """The task's deadline passed before its answer was whole. Terminal."""

    type: ClassVar[str] = "expired"

    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position(_Event):
    """A hint: so many tasks are ahead of it in the queue."""

    type: ClassVar[str] = "position"

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(_Event):
    """A hint: how much of the prompt the model has read."""

    type: ClassVar[str] = "progress"

    prompt_tokens_evaluated: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(_Event):
    """A hint that must be obeyed: the answer so far is ``text``, whatever was handed out before."""

    type: ClassVar[str] = "reset"

    kept: int  #: the next output has this index
    text: str


Terminal = Completed | Failed | Cancelled | Expired
ClientEvent = Queued | Started | Output | Terminal | Position | Progress | Reset

_Read = Callable[[Mapping[str, object], str | None], ClientEvent]
_READ: Mapping[str, _Read] = {
    "queued": lambda data, cursor: Queued(cursor=cursor, task_id=required(data, "task_id", str)),
    "started": lambda data, cursor: Started(
        cursor=cursor, attempt=required(data, "attempt", int), model=optional(data, "model", str)
    ),
    "llm_streaming": lambda data, cursor: Output(
        cursor=cursor,
        token=required(data, "token", str),
        index=required(data, "index", int),
        logprobs=read_logprobs(data.get("logprobs")),
    ),
    "completed": lambda data, cursor: Completed(
        cursor=cursor,
        text_length=required(data, "text_length", int),
        usage=None if data.get("usage") is None else read_usage(data["usage"]),
        finish_reason=optional(data, "finish_reason", str),
    ),
    "failed": lambda data, cursor: Failed(
        cursor=cursor, code=required(data, "code", str), message=required(data, "message", str)
    ),
    "cancelled": lambda data, cursor: Cancelled(cursor=cursor),
    "expired": lambda data, cursor: Expired(cursor=cursor, message=optional(data, "message", str)),
    "position": lambda data, cursor: Position(cursor=cursor, position=required(data, "position", int)),
    "progress": lambda data, cursor: Progress(
        cursor=cursor,
        prompt_tokens_evaluated=required(data, "prompt_tokens_evaluated", int),
        prompt_tokens=required(data, "prompt_tokens", int),
    ),
    "reset": lambda data, cursor: Reset(
        cursor=cursor, kept=required(data, "from", int), text=required(data, "text", str)
    ),
}


def read_event(data: str, cursor: str | None) -> ClientEvent | None:
    """Return the event in a frame's data; None when a newer server has a type that is not known here.

    Raises:
        UnexpectedReply: the data are no event at all.
    """
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise UnexpectedReply() from fault
    event = read_object(parsed)
    read = _READ.get(required(event, "type", str))
    return None if read is None else read(event, cursor)


def write_event(event: ClientEvent) -> dict[str, object]:
    """Return the event as the wire has it, with its cursor as ``id`` in front when it has one."""
    place: dict[str, object] = {} if event.cursor is None else {"id": event.cursor}
    values = {name: value for name, value in asdict(event).items() if name not in ("cursor", "logprobs")}
    if isinstance(event, Output) and event.logprobs:
        values["logprobs"] = shown_logprobs(event.logprobs)
    return place | {"type": event.type} | {_WIRE_NAMES.get(name, name): value for name, value in values.items()}


_WIRE_NAMES: Mapping[str, str] = {"kept": "from"}  # "from" is no name in Python
