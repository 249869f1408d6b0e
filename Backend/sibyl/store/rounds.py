"""Work that many ask for in the same moment is done once for all of them."""

import asyncio
from collections.abc import Awaitable, Callable


class Rounds:
    """Repeats one piece of work in rounds, one at a time. Who asks while a round runs shares the next one."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def take_part(self) -> None:
        """Return when a round is over that began after the call.

        Raises what the work raises, to all who took part. Cancelling it ends the waiting and not the round.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._round(self._current), name="round")
            self._next.add_done_callback(_look_at)
        await asyncio.shield(self._next)

    async def _round(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._current, self._next = self._next, None
        await self._work()


def _look_at(done: "asyncio.Task[None]") -> None:
    # Everybody who asked may have gone: then nobody is left to be told.
    if not done.cancelled():
        done.exception()
