"""Transcribe a file, as OpenAI's clients ask for it: a task of the queue whose end the request waits for."""

import asyncio
import hashlib
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from sibyl.api.context import Context, ContextParam, OwnerParam
from sibyl.api.draining import Draining
from sibyl.api.errors import error_response, status_of
from sibyl.api.origins import ForeignOrigin, is_foreign
from sibyl.api.streaming import Chunks, EventStream
from sibyl.api.submission import REFUSALS, IdempotencyKey
from sibyl.api.upload import read_form
from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import (
    DeadlinePassed,
    InvalidRequest,
    SibylError,
    StoreUnavailable,
    TaskCancelled,
    TaskForgotten,
)
from sibyl.core.event import Cancelled, Completed, Entry, Expired, Failed, Output
from sibyl.core.task import Owner, TaskId, TaskSpec
from sibyl.store.feed import Feed
from sibyl.store.follow import Forgotten, follow
from sibyl.wire import transcription
from sibyl.wire.tasks import ErrorBody
from sibyl.wire.transcription import FILE_FIELD, MEDIA_TYPES, TranscriptionForm, read_fields, rendered

router = APIRouter(tags=["speech"])

PATH = "/v1/audio/transcriptions"


class NodeDraining(SibylError):
    """This node ends; the transcription goes on. Follow it, or send the request again with its Idempotency-Key."""

    status = 503
    retry_after_s = 1


def _form_schema() -> dict[str, Any]:
    schema = TranscriptionForm.model_json_schema()
    for field in schema["properties"].values():  # a form holds no null: what is not given is left out
        if given := [kind for kind in field.pop("anyOf", []) if kind.get("type") != "null"]:
            field.update(given[0])
        if field.get("default", "") is None:
            del field["default"]
    schema["properties"] = {FILE_FIELD: {"type": "string", "format": "binary"}} | schema["properties"]
    schema["required"] = [FILE_FIELD, *schema["required"]]
    return schema


_EVENT = {
    "type": "object",
    "description": "transcript.text.delta, then transcript.text.done; or error",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _form_schema()}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = REFUSALS | {
    200: {
        "description": "in the format that was asked for; `Location` names the task",
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {"text": {"type": "string"}}}},
            "text/plain": {"schema": {"type": "string"}},
            "application/x-subrip": {"schema": {"type": "string"}},
            "text/vtt": {"schema": {"type": "string"}},
            "text/event-stream": {"schema": _EVENT},
        },
    },
    400: {"model": ErrorBody, "description": "the body is no whole multipart form"},
    403: {"model": ErrorBody, "description": "a page of another site sent it"},
    409: {"model": ErrorBody, "description": "the task was cancelled"},
    413: {"model": ErrorBody, "description": "the file is too large"},
    415: {"model": ErrorBody, "description": "the body is no form, or the file no audio that can be read"},
    500: {"model": ErrorBody, "description": "the recogniser failed"},
    502: {"model": ErrorBody, "description": "a vendor of speech recognition refused"},
    504: {"model": ErrorBody, "description": "the task's deadline passed"},
}


@router.post(PATH, response_class=Response, openapi_extra=_BODY, responses=_RESPONSES)
async def transcribe_file(
    request: Request, context: ContextParam, owner: OwnerParam, idempotency_key: IdempotencyKey = None
) -> Response:
    """Transcribe an audio file: WAV, FLAC, Ogg or MP3, up to four hours.

    It is a task: `Location` names it as soon as the answer begins, `GET /api/tasks/{task_id}/events` follows it, and
    leaving stops nothing. Ask with an `Idempotency-Key`, and a request that was cut off, sent again, gets the same one.
    """
    if is_foreign(request.headers):
        raise ForeignOrigin()
    accepted = await _accept(request, context, owner, idempotency_key)
    if accepted is None:
        return Response(status_code=400)  # nobody is there to read it
    task_id, form = accepted
    headers = {"Location": f"/api/tasks/{task_id}"}
    feed = context.join(task_id)
    stream: EventStream | None = None
    try:
        await context.tail.load(feed)
        if form.stream and not feed.forgotten:
            stream = TranscriptStream(
                feed,
                START,
                draining=context.draining,
                keep_alive_s=context.settings.keep_alive_s,
                send_timeout_s=context.settings.send_timeout_s,
                release=partial(context.leave, feed),
            )
            stream.headers.update(headers)
            return stream
        await _end(feed, request, context)
        return _answer(feed, form, headers)
    except SibylError as error:
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        return error_response(error.status, error.code, error.message, headers)
    finally:
        if stream is None:
            context.leave(feed)


async def _accept(
    request: Request, context: Context, owner: Owner, key: str | None
) -> tuple[TaskId, TranscriptionForm] | None:
    """Read the file, store it, submit its task. What it held in memory is free when it returns."""
    room = context.uploads
    with room.share() as share:
        body = await read_form(request, share, file_field=FILE_FIELD, file_bytes=room.file_bytes)
        if body is None:
            return None
        form = read_fields(body.fields)
        file = body.file
        if not file:
            raise InvalidRequest("file: there is none." if file is None else "file: it is empty.")
        spec = TaskSpec(kind="transcription", messages=(), recording=form.recording(len(file)))
        digest = await asyncio.to_thread(_digest, form, file)
        task_id = context.queue.new_id(owner, key)
        await context.audio_files.put(task_id, file)
    try:
        known = await context.queue.submit(
            spec, owner=owner, limits=context.limits, idempotency_key=key, request=digest, task_id=task_id
        )
    except StoreUnavailable:
        raise  # it may have been accepted, and then needs its audio
    except SibylError:
        await _drop(context, task_id)
        raise
    if known != task_id:
        await _drop(context, task_id)
    return known, form


async def _drop(context: Context, task_id: TaskId) -> None:
    with suppress(StoreUnavailable):  # then Redis does it, after some minutes
        await context.audio_files.drop(task_id)


def _digest(form: TranscriptionForm, file: bytearray) -> str:
    asked = form.model_dump_json(exclude_defaults=True)
    return hashlib.sha256(hashlib.sha256(file).digest() + f"transcriptions\n{asked}".encode()).hexdigest()


async def _end(feed: Feed, request: Request, context: Context) -> None:
    """Wait until the task has ended, or nobody waits for it any more.

    Raises:
        TaskForgotten: it was erased.
        NodeDraining: this process ends first.
        LogUnreadable: its log cannot be read here.
    """
    drained = asyncio.Event()

    async def follow_to_end() -> None:
        async for batch in follow(feed, START):
            if any(isinstance(part, Forgotten) for part in batch):
                raise TaskForgotten()

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waits = [asyncio.create_task(wait) for wait in (follow_to_end(), left(), drained.wait())]
    context.draining.listen(drained.set)
    if context.draining.is_set():
        drained.set()
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if waits[0].done():
            waits[0].result()
        elif waits[2].done():
            raise NodeDraining()
    finally:
        context.draining.unlisten(drained.set)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _answer(feed: Feed, form: TranscriptionForm, headers: dict[str, str]) -> Response:
    match feed.fold.entries[-1].event if feed.fold.terminal else None:
        case Completed() as end:
            segments = [segment for output in feed.fold.answer() for segment in output.segments]
            body = rendered(form, segments, text=feed.fold.text(), audio_s=end.audio_s or 0.0)
            return Response(body, headers=headers, media_type=MEDIA_TYPES[form.response_format])
        case Failed() as end:
            return error_response(status_of(end.code), end.code, end.message, headers)
        case Cancelled():
            raise TaskCancelled()
        case Expired():
            raise DeadlinePassed()
        case _:
            return Response(status_code=400, headers=headers)  # its client has left


class TranscriptStream(EventStream):
    """A transcription while it is heard."""

    def _written(self, feed: Feed, after: Cursor, draining: Draining) -> Chunks:
        return TranscriptChunks(feed, after, draining)


class TranscriptChunks(Chunks):
    """A transcription as OpenAI's events. They know no taking back: where that is due, the stream ends in an error."""

    __slots__ = ("_text",)

    def __init__(self, feed: Feed, after: Cursor, draining: Draining) -> None:
        super().__init__(feed, after, draining)
        self._text = ""  # sent so far

    def next(self) -> bytes:
        """Return what came since the last time."""
        reset = self.follower.rejoin()
        if reset is not None and reset.text != self._text:
            self.follower.over = True
            return transcription.error_frame("reset", "What was sent is not what counts; read the task anew.")
        entries = self.feed.fold.entries
        new, self.follower.taken, self.news = entries[self.follower.taken :], len(entries), False
        chunk = b"".join(self._frame(entry) for entry in new)
        for hint in self.follower.hints():
            if isinstance(hint, Forgotten):
                gone = TaskForgotten()
                chunk += transcription.error_frame(gone.code, gone.message)
        return chunk

    def _frame(self, entry: Entry) -> bytes:
        match entry.event:
            case Output(text=text):
                self._text += text
                return transcription.delta_frame(text)
            case Completed():
                return transcription.done_frame(self._text)
            case Failed(code=code, message=message):
                return transcription.error_frame(code, message)
            case Cancelled():
                return transcription.error_frame(TaskCancelled().code, TaskCancelled().message)
            case Expired():
                return transcription.error_frame(DeadlinePassed().code, DeadlinePassed().message)
            case _:
                return b""
