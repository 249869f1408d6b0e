"""The events of a task as frames of its stream: the logged ones with their cursor as id, hints without."""

import json
from json.encoder import encode_basestring
from typing import assert_never

from sibyl.core.cursor import Cursor
from sibyl.core.event import Cancelled, Completed, Entry, Expired, Failed, Output, Queued, Started
from sibyl.wire.logprobs import shown_logprobs
from sibyl.wire.segments import shown_segments
from sibyl.wire.sse import encode

KEEP_ALIVE = b": keep-alive\r\n\r\n"  # a comment, which readers ignore
EXPIRED_MESSAGE = "The task was not finished before its deadline."


def entry_frame(task_id: str, entry: Entry) -> bytes:
    """Return the frame of a logged event."""
    event, cursor = entry.event, entry.cursor
    match event:
        case Output():
            more: dict[str, object] = {}
            if event.logprobs:
                more["logprobs"] = shown_logprobs(event.logprobs)
            if event.segments:
                more["segments"] = shown_segments(event.segments)
            if not more:
                return output_frame(str(cursor), event.text)
            return _frame("llm_streaming", cursor, token=event.text, index=cursor.offset - 1, **more)
        case Queued():
            return _frame("queued", cursor, task_id=task_id)
        case Started():
            return _frame("started", cursor, attempt=event.attempt, model=event.model)
        case Completed():
            usage = {
                "prompt_tokens": event.usage.prompt_tokens,
                "completion_tokens": event.usage.completion_tokens,
            }
            heard = {} if event.audio_s is None else {"duration": event.audio_s}
            return _frame(
                "completed",
                cursor,
                text_length=event.text_length,
                usage=usage,
                finish_reason=event.finish_reason,
                **heard,
            )
        case Failed():
            return _frame("failed", cursor, code=event.code, message=event.message)
        case Cancelled():
            return _frame("cancelled", cursor)
        case Expired():
            return _frame("expired", cursor, message=EXPIRED_MESSAGE)
        case _:
            assert_never(event)


def output_frame(place: str, text: str) -> bytes:
    """Return the frame of an output that is text and no more, as ``entry_frame`` does; ``place`` is its cursor.

    By far the most events are outputs. JSON writes what could end the line as an escape.
    """
    index = int(place.rpartition("-")[2]) - 1
    return (
        f'id: {place}\r\nevent: llm_streaming\r\ndata: {{"type":"llm_streaming","token":{encode_basestring(text)},'
        f'"index":{index}}}\r\n\r\n'
    ).encode()


def position_frame(position: int) -> bytes:
    """Return the hint of the place in the queue."""
    return _frame("position", None, position=position)


def progress_frame(evaluated: int, prompt_tokens: int) -> bytes:
    """Return the hint of how far the prompt is evaluated."""
    return _frame("progress", None, prompt_tokens_evaluated=evaluated, prompt_tokens=prompt_tokens)


def reset_frame(outputs: int, text: str, cursor: Cursor) -> bytes:
    """Return the hint that only ``text``, the first ``outputs`` events of it, stays; it goes on after ``cursor``."""
    return _frame("reset", cursor, **{"from": outputs, "text": text})


def forgotten_frame(code: str, message: str) -> bytes:
    """Return the end of a stream whose task was erased."""
    return _frame("failed", None, code=code, message=message)


def _frame(event_type: str, cursor: Cursor | None, **fields: object) -> bytes:
    data = json.dumps({"type": event_type, **fields}, ensure_ascii=False, separators=(",", ":"))
    return encode(event_type, data, None if cursor is None else str(cursor))
