"""Events as an SSE response: what accumulated goes out as one chunk; an end is typed, and a cut is never an end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import assert_never

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from sibyl.core.cursor import Cursor
from sibyl.core.errors import TaskForgotten
from sibyl.core.event import Entry
from sibyl.store.follow import Batch, Forgotten, Hint, Position, Progress, Reset, follow
from sibyl.store.tail import Feed
from sibyl.wire import events

logger = logging.getLogger(__name__)


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
            send_timeout=send_timeout_s,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive"),
        )
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the response. Returning without the final chunk makes the server break the connection."""
        try:
            await super().__call__(scope, receive, send)
        except Cut:
            logger.debug("Stream cut: draining", extra={"action": "stream_cut"})
        except SendTimeoutError:
            logger.info("Stream cut: its reader takes nothing", extra={"action": "stream_stalled"})
        finally:
            self._release()


async def _chunks(feed: Feed, after: Cursor, draining: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield each batch as one chunk of frames; raise Cut once the process drains."""
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
            yield _encode(feed, batch)
    finally:
        drained.cancel()
        await batches.aclose()  # type: ignore[attr-defined]


def _encode(feed: Feed, batch: Batch) -> bytes:
    return b"".join(
        events.entry_frame(feed.task_id, part) if isinstance(part, Entry) else _hint(part) for part in batch
    )


def _hint(hint: Hint) -> bytes:
    match hint:
        case Position():
            return events.position_frame(hint.position)
        case Progress():
            return events.progress_frame(hint.evaluated, hint.prompt_tokens)
        case Reset():
            return events.reset_frame(hint.outputs, hint.text)
        case Forgotten():
            gone = TaskForgotten()
            return events.forgotten_frame(gone.code, gone.message)
        case _:
            assert_never(hint)
