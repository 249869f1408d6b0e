"""The hops of one event loop: each takes along what gathered at all crossings since the last one.

The first crossing that has something schedules a hop with ``asyncio.run_coroutine_threadsafe``; whatever is emitted
until it runs, by any thread for any crossing, rides along. So a decode thread that emits for sixteen sequences wakes
the loop once. A hop may be held back for a moment, so that one journey carries more; who is in a hurry ends that wait.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sibyl.core.errors import BridgeClosed, DeliveryFailed


class Passenger(Protocol):
    """Who waits for a hop."""

    def board(self) -> None:
        """Start the delivery of what has gathered. Called on the loop; must not raise."""

    def fail(self, error: BaseException) -> None:
        """The hop was cancelled: nothing is delivered any more."""


def _at_once() -> float:
    return 0.0


class Hops:
    """The way from all threads to one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rest_s: Callable[[], float] = _at_once) -> None:
        """Prepare it.

        Args:
            rest_s: asked on the loop when a hop could start: seconds that it should still be held back.
        """
        self.loop = loop
        self.lock = threading.Lock()  #: guards this, and the buffers of the crossings
        self._rest_s = rest_s
        self._waiting: list[Passenger] = []
        self._under_way = False  # a hop is scheduled, or held back
        self._hurried = False
        self._unbegun: Coroutine[Any, Any, None] | None = None  # the hop that is scheduled and has not begun
        self._held_back: asyncio.Future[None] | None = None

    def call(self, passenger: Passenger, *, urgent: bool = False) -> Callable[[], None] | None:
        """Have the next hop take a passenger along. Call it with the lock; then call what it returns without the lock.

        Args:
            urgent: do not hold the hop back.
        """
        self._waiting.append(passenger)
        hurry = urgent and not self._hurried
        self._hurried |= urgent
        if not self._under_way:
            self._under_way = True
            return self._schedule
        return self._hurry_from_thread if hurry else None

    def _schedule(self) -> None:
        hop = self._hop()
        self._unbegun = hop
        try:
            asyncio.run_coroutine_threadsafe(hop, self.loop)
        except RuntimeError as error:
            self.drop()
            raise BridgeClosed() from error

    def drop(self) -> None:
        """The loop is closed: forget the hop that it will not run, which then does not warn that nobody awaited it."""
        if self._unbegun is not None:
            self._unbegun.close()
            self._unbegun = None

    def hurry(self) -> None:
        """Hold back no hop that is under way. Must be called on the loop."""
        with self.lock:
            self._hurried = self._under_way
        self._let_go()

    def _let_go(self) -> None:
        if self._held_back is not None and not self._held_back.done():
            self._held_back.set_result(None)

    def _hurry_from_thread(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._let_go)
        except RuntimeError as error:
            raise BridgeClosed() from error

    async def _hop(self) -> None:
        self._unbegun = None
        try:
            await self._rest()
        except BaseException:
            for passenger in self._leave():
                passenger.fail(DeliveryFailed("The delivery was cancelled."))
            raise
        for passenger in self._leave():
            passenger.board()

    async def _rest(self) -> None:
        rest_s = self._rest_s()
        if rest_s <= 0:
            return
        with self.lock:
            if self._hurried:
                return
            self._held_back = self.loop.create_future()
        timer = self.loop.call_later(rest_s, self._let_go)
        try:
            await self._held_back
        finally:
            timer.cancel()
            self._held_back = None

    def _leave(self) -> list[Passenger]:
        with self.lock:
            self._under_way = self._hurried = False
            waiting, self._waiting = self._waiting, []
        return waiting
