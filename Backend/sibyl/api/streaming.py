"""Events as an SSE response: what accumulated goes out as one chunk; an end is typed, and a cut is never an end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import assert_never

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from sibyl.api.connection import cut
from sibyl.core.cursor import Cursor
from sibyl.core.errors import LogUnreadable, TaskForgotten
from sibyl.core.event import Entry
from sibyl.store.follow import Batch, Forgotten, Hint, Position, Progress, Reset, follow
from sibyl.store.tail import Feed
from sibyl.wire import events

logger = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024  # a reader that takes nothing costs about this, however long the log is


class Cut(Exception):
    """The response ends without its end: the connection breaks, and the client reconnects with its cursor."""


class EventStream(EventSourceResponse):
    """The events of one task."""

    def __init__(
        self,
        feed: Feed,
        after: Cursor,
        *,
        draining: asyncio.Event,
        keep_alive_s: float,
        send_timeout_s: float,
        release: Callable[[], None],
    ) -> None:
        """Stream what follows ``after``; call ``release`` when it is over, in whatever way."""
        super().__init__(
            _chunks(feed, after, draining),
            ping=keep_alive_s,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive"),
        )
        self._send_timeout_s = send_timeout_s
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the response; break the connection if it ends without its final chunk."""
        whole = False

        async def send_in_time(message: Message) -> None:
            # Not by the base class, which lets the final chunk wait for ever.
            nonlocal whole
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await super().__call__(scope, receive, send_in_time)
        except* Cut:
            logger.debug("Stream cut: draining", extra={"action": "stream_cut"})
        except* LogUnreadable:
            logger.info("Stream cut: its log cannot be read", extra={"action": "stream_cut"})
        except* TimeoutError:  # an event and a keep-alive may notice it in the same moment
            logger.info("Stream cut: its reader takes nothing", extra={"action": "stream_stalled"})
        finally:
            self._release()
            if not whole:
                cut(scope)


async def _chunks(feed: Feed, after: Cursor, draining: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield each batch as chunks of frames; raise Cut once the process drains."""
    drained = asyncio.create_task(draining.wait(), name="drained")
    batches = follow(feed, after)
    try:
        while True:
            coming = asyncio.ensure_future(anext(batches, None))
            try:
                await asyncio.wait({coming, drained}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not coming.done():
                    coming.cancel()
                    with suppress(asyncio.CancelledError):
                        await coming
            if coming.cancelled():
                raise Cut()
            batch = coming.result()
            if batch is None:
                return
            for chunk in _encode(feed, batch):
                yield chunk
                if drained.done():
                    raise Cut()
    finally:
        drained.cancel()
        await batches.aclose()  # type: ignore[attr-defined]


def _encode(feed: Feed, batch: Batch) -> Iterator[bytes]:
    """Yield the frames of a batch in as few chunks as a bounded buffer for each reader allows."""
    chunk = bytearray()
    for part in batch:
        chunk += events.entry_frame(feed.task_id, part) if isinstance(part, Entry) else _hint(part)
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)


def _hint(hint: Hint) -> bytes:
    match hint:
        case Position():
            return events.position_frame(hint.position)
        case Progress():
            return events.progress_frame(hint.evaluated, hint.prompt_tokens)
        case Reset():
            return events.reset_frame(hint.outputs, hint.text, hint.cursor)
        case Forgotten():
            gone = TaskForgotten()
            return events.forgotten_frame(gone.code, gone.message)
        case _:
            assert_never(hint)
