"""Followers for tests: what one reader of an answer gets, kept as it came."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Entry, Output
from sibyl.core.task import TaskId
from sibyl.store.follow import Forgotten, Hint, Position, Progress, Reset, follow
from sibyl.store.tail import Tail


class Reader:
    """A client that follows a task: all parts, and the text as it would show it."""

    def __init__(self, tail: Tail, task_id: TaskId, after: Cursor = START, text: str = "") -> None:
        self.parts: list[Entry | Hint] = []
        self.text = text
        self.cursor = after
        self._tail = tail
        self._task_id = task_id
        self._came = asyncio.Event()
        self._running = asyncio.create_task(self._run(after))

    async def _run(self, after: Cursor) -> None:
        with self._tail.feed(self._task_id) as feed:
            await self._tail.load(feed)
            async for batch in follow(feed, after):
                for part in batch:
                    self._take(part)
                self._came.set()

    def _take(self, part: Entry | Hint) -> None:
        self.parts.append(part)
        match part:
            case Reset():
                self.text, self.cursor = part.text, part.cursor
            case Entry():
                self.cursor = part.cursor
                self.text += part.event.text if isinstance(part.event, Output) else ""
            case _:
                pass

    async def until(self, true: Callable[["Reader"], bool], *, limit_s: float = 5) -> "Reader":
        """Wait until what came makes it true."""
        async with asyncio.timeout(limit_s):
            while not true(self):
                if self._running.done():
                    self._running.result()
                    raise AssertionError(f"the stream ended before, after {self.parts[-3:]}")
                self._came.clear()
                came = asyncio.ensure_future(self._came.wait())
                await asyncio.wait([came, self._running], return_when=asyncio.FIRST_COMPLETED)
                came.cancel()
        return self

    async def end(self, *, limit_s: float = 10) -> "Reader":
        """Wait until the stream ends."""
        async with asyncio.timeout(limit_s):
            await self._running
        return self

    async def leave(self) -> None:
        """Go away in the middle."""
        self._running.cancel()
        await asyncio.wait([self._running])

    @property
    def entries(self) -> list[Entry]:
        """What the log said."""
        return [part for part in self.parts if isinstance(part, Entry)]

    @property
    def resets(self) -> list[Reset]:
        """What was taken back."""
        return [part for part in self.parts if isinstance(part, Reset)]

    @property
    def hints(self) -> list[Position | Progress]:
        """Positions and progress."""
        return [part for part in self.parts if isinstance(part, Position | Progress)]

    @property
    def forgotten(self) -> bool:
        """Whether it ended so."""
        return bool(self.parts) and isinstance(self.parts[-1], Forgotten)


@asynccontextmanager
async def running(tail: Tail) -> AsyncIterator[Tail]:
    """Tail while the block runs."""
    tailing = asyncio.create_task(tail.run())
    try:
        yield tail
    finally:
        tailing.cancel()
        await asyncio.wait([tailing])
        assert tailing.cancelled(), tailing.exception()
