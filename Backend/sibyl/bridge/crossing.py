"""One producer's items on their way to the loop: in order, one delivery at a time, bounded."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sibyl.bridge.abort import Abort
from sibyl.bridge.hops import Hops
from sibyl.core.errors import BridgeClosed, BridgeEnded, BridgeError, DeliveryFailed

T = TypeVar("T")

_LOOK_S = 0.5  # a waiting producer looks so often whether the loop was closed, which wakes nobody


class Crossing(Generic[T]):
    """What one producer calls to hand over its items. From any thread but the loop's."""

    def __init__(
        self, hops: Hops, deliver: Callable[[list[T]], Awaitable[None]], abort: Abort, high_water: int
    ) -> None:
        self.failure: BaseException | None = None  #: what ended the deliveries before their time
        self._hops = hops
        self._loop = hops.loop
        self._deliver = deliver
        self._abort = abort
        self._high_water = high_water
        self._lock = hops.lock  # guards all below
        self._space = threading.Condition(hops.lock)
        self._blocked = 0  # producers that wait for space
        self._buffer: list[T] = []
        self._called = False  # a hop will take along what is in the buffer, or a delivery is under way
        self._fresh = True  # nothing was delivered yet
        self._ended = False
        self._delivery: asyncio.Future[None] | None = None  # on the loop only, as the next
        self._settled: asyncio.Future[None] | None = None

    def emit(self, item: T) -> None:
        """Hand over an item. Waits while too many are under way.

        Raises:
            BridgeEnded, BridgeClosed, DeliveryFailed: it cannot be delivered; stop producing.
            Exception: the reason of the abort.
        """
        if asyncio._get_running_loop() is self._loop:
            raise BridgeError("emit() was called on the event loop's own thread; call it from a thread of its own.")
        self._abort.raise_if_requested()
        then = None
        with self._lock:
            self._raise_if_over()
            self._buffer.append(item)
            if not self._called:
                self._called = True
                then = self._hops.call(self, urgent=self._fresh)
        if then is not None:
            then()
        if len(self._buffer) >= self._high_water:
            self._wait_for_space()

    __call__ = emit

    def backlogged(self) -> bool:
        """Whether the producer should rest: seven eighths of its room are taken. ``emit`` waits when all is."""
        return len(self._buffer) >= self._high_water - self._high_water // 8

    def _wait_for_space(self) -> None:
        with self._space:
            self._blocked += 1
            try:
                while len(self._buffer) >= self._high_water:
                    self._space.wait(_LOOK_S)
                    self._abort.raise_if_requested()
                    self._raise_if_over()
            finally:
                self._blocked -= 1

    def _raise_if_over(self) -> None:
        if self.failure is not None:
            raise DeliveryFailed() from self.failure
        if self._ended:
            raise BridgeEnded()
        if self._loop.is_closed():
            self._hops.drop()
            raise BridgeClosed()

    def board(self) -> None:
        """Deliver what has gathered."""
        with self._lock:
            batch, self._buffer = self._buffer, []
            self._fresh = False
            if self._blocked:
                self._space.notify_all()
        if not batch:  # it failed meanwhile
            return
        try:
            # A future, as the worker gives one, costs no task.
            self._delivery = asyncio.ensure_future(self._deliver(batch))
        except Exception as error:
            self.fail(error)
            return
        self._delivery.add_done_callback(self._delivered)

    def _delivered(self, delivery: asyncio.Future[None]) -> None:
        self._delivery = None
        error = DeliveryFailed("The delivery was cancelled.") if delivery.cancelled() else delivery.exception()
        if error is not None:
            self.fail(error)
            return
        then = None
        with self._lock:
            self._called = bool(self._buffer)
            if self._called:
                then = self._hops.call(self, urgent=self._ended)
        if then is not None:
            then()
        elif self._settled is not None and not self._called and not self._settled.done():
            self._settled.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Deliver nothing any more and tell the producer why."""
        with self._lock:
            if self.failure is None:
                self.failure = error
            self._buffer.clear()
            self._space.notify_all()
        if self._delivery is None and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    async def settled(self) -> None:
        """Wait until all is delivered. It never raises what a delivery raised: that is in ``failure``."""
        self._hops.hurry()
        while self._delivery is not None or (self.failure is None and self._called):
            self._settled = self._loop.create_future()
            await self._settled

    def wake(self) -> None:
        """Have a producer that waits for space look at the abort."""
        with self._lock:
            self._space.notify_all()

    def give_up(self, reason: BaseException) -> None:
        """Stop delivering. Must be called on the loop."""
        self.fail(reason)
        if self._delivery is not None:
            self._delivery.cancel()

    def end(self) -> None:
        """Refuse what is emitted from now on."""
        with self._lock:
            self._ended = True
            self._space.notify_all()
            if self._loop.is_closed():
                self._hops.drop()
