"""Events as an SSE response: what accumulated goes out as one chunk; an end is typed, and a cut is never an end.

What a follower costs for an event is little more than the write to its connection: bytes come encoded from the feed,
waiting is one future, and one timer a response sees to both silence and a reader that takes nothing.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import assert_never

from sse_starlette.sse import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from sibyl.api.connection import cut
from sibyl.api.draining import Draining
from sibyl.core.cursor import Cursor
from sibyl.core.errors import LogUnreadable, TaskForgotten
from sibyl.store.feed import Feed
from sibyl.store.follow import Follower, Forgotten, Hint, Position, Progress, Reset
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
        draining: Draining,
        keep_alive_s: float,
        send_timeout_s: float,
        release: Callable[[], None],
    ) -> None:
        """Stream what follows ``after``; call ``release`` when it is over, in whatever way.

        Args:
            keep_alive_s: so long after it sent anything it sends a comment.
            send_timeout_s: a reader that takes nothing for so long, while there is something for it, is cut off.
        """
        self._chunks = self._written(feed, after, draining)
        super().__init__(self._chunks, ping=0)
        self._keep_alive_s = keep_alive_s
        self._send_timeout_s = send_timeout_s
        self._release = release
        self._sent_at = 0.0  # when the last send began
        self._sending = False
        self._timer: asyncio.TimerHandle | None = None

    def _written(self, feed: Feed, after: Cursor, draining: Draining) -> "Chunks":
        """How the events are written: as native ones."""
        return Chunks(feed, after, draining)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the response; break the connection if it ends without its final chunk."""
        loop = asyncio.get_running_loop()
        whole = False

        async def send_watched(message: Message) -> None:
            nonlocal whole
            self._sent_at = loop.time()
            self._sending = True
            await send(message)
            self._sending = False
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        self._sent_at = loop.time()
        try:
            async with asyncio.timeout(None) as limit:
                self._watch(loop, limit)
                await super().__call__(scope, receive, send_watched)
        except* Cut:
            logger.debug("Stream cut: draining", extra={"action": "stream_cut"})
        except* LogUnreadable:
            logger.info("Stream cut: its log cannot be read", extra={"action": "stream_cut"})
        except* TimeoutError:
            logger.info("Stream cut: its reader takes nothing", extra={"action": "stream_stalled"})
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._chunks.close()
            self._release()
            if not whole:
                cut(scope)

    async def _listen_for_exit_signal(self) -> None:  # type: ignore[override]
        # Draining says it sooner, and the base class has an event for each response to wait for.
        await asyncio.get_running_loop().create_future()

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # The base class opens a cancel scope for each message, which costs more than all else that we do for it.
        await send(message)

    def _watch(self, loop: asyncio.AbstractEventLoop, limit: asyncio.Timeout) -> None:
        """Cut a reader that takes nothing, tell a silent one that we are there, look again when either may be due."""
        now = loop.time()
        idle_s = now - self._sent_at
        if self._sending and idle_s >= self._send_timeout_s:
            limit.reschedule(now)
            return
        if not self._sending and idle_s >= self._keep_alive_s:
            self._chunks.keep_alive()
            idle_s = 0.0
        due_s = (self._send_timeout_s if self._sending else self._keep_alive_s) - idle_s
        self._timer = loop.call_later(min(due_s, self._send_timeout_s), self._watch, loop, limit)


class Chunks:
    """What a follower gets, piece by piece, as the body of a response."""

    __slots__ = ("_draining", "_loop", "_silent", "_waiting", "_wake", "feed", "follower", "news")

    def __init__(self, feed: Feed, after: Cursor, draining: Draining) -> None:
        self.feed = feed
        self.follower = Follower(feed, after)
        self._draining = draining
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self.news = True  # there may be something; not looked at more often than the feed says so
        self._silent = False
        self._wake = self._on_change  # one object: it is what we are known by
        feed.listen(self._wake)
        draining.listen(self._wake)

    def close(self) -> None:
        """Listen no more."""
        self.feed.unlisten(self._wake)
        self._draining.unlisten(self._wake)

    def keep_alive(self) -> None:
        """Have a comment sent, unless there is something better to send."""
        self._silent = True
        self._wake()

    def __aiter__(self) -> "Chunks":
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece as soon as there is one.

        Raises:
            StopAsyncIteration: the end was sent.
            Cut: the process drains.
            LogUnreadable: nobody here can read what follows.
        """
        while not self.follower.over:
            if self._draining.is_set():
                raise Cut()
            if self.news and (chunk := self.next()):
                self._silent = False
                return chunk
            if self.feed.unreadable is not None:
                raise self.feed.unreadable
            if self._silent:
                self._silent = False
                return events.KEEP_ALIVE
            self._waiting = self._loop.create_future()
            await self._waiting
        raise StopAsyncIteration

    def _on_change(self) -> None:
        self.news = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def next(self) -> bytes:
        """Return what came since the last time, as much as a bounded buffer for each reader allows."""
        feed, follower = self.feed, self.follower
        reset = follower.rejoin()
        chunk = b"" if reset is None else _frame(reset)
        entries = feed.fold.entries
        if follower.taken < len(entries):
            frames, follower.taken = feed.frames.chunk(follower.taken)
            chunk = chunk + frames if chunk else frames
        self.news = follower.taken < len(entries)
        if not self.news:
            for hint in follower.hints():
                chunk += _frame(hint)
        return chunk


def _frame(hint: Hint) -> bytes:
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
