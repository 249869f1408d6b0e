"""From callbacks on a thread to coroutines on the event loop: in order, bounded, with errors going back.

A blocking producer runs in a pool thread and hands over items by calling ``emit``. The first item starts a *hop*:
``asyncio.run_coroutine_threadsafe`` schedules a coroutine on the loop that was captured when the bridge was made. The
hop delivers what has gathered, again and again, until nothing is left; so items that are emitted while a delivery is
under way ride along with the next one. Order holds, since there is one hop at a time; the cost is per hop and not per
item; and a slow delivery makes batches larger before it makes the producer wait.

What is refused: a producer that runs ahead waits once ``high_water`` items are buffered; an item after the end raises
``BridgeEnded``; a closed loop raises ``BridgeClosed``; ``emit`` on the loop's own thread is an error, since it could
wait for itself. What ``deliver`` raises comes back to the producer from the next ``emit``, and out of ``run``.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sibyl.bridge.abort import Abort
from sibyl.core.errors import BridgeClosed, BridgeEnded, BridgeError, DeliveryFailed

T = TypeVar("T")
R = TypeVar("R")

HIGH_WATER_ITEMS = 256
_LOOK_S = 0.5  # a waiting producer looks so often whether the loop was closed, which wakes nobody
_CLOSED = "The bridge is closed; no producer can start any more."


class Bridge:
    """A pool of threads beside one event loop."""

    def __init__(self, *, threads: int, high_water: int = HIGH_WATER_ITEMS) -> None:
        """Capture the running loop. Must be called on it.

        Args:
            threads: producers that can run at a time; further ones wait for a free thread.
            high_water: buffered items of one producer above which its ``emit`` waits.
        """
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bridge")
        self._high_water = high_water

    async def run(
        self,
        produce: Callable[[Callable[[T], None]], R],
        deliver: Callable[[list[T]], Awaitable[None]],
        abort: Abort,
    ) -> R:
        """Run ``produce(emit)`` in a thread and return what it returns, after all it emitted is delivered.

        Args:
            produce: may call ``emit`` from any thread but the loop's, until it returns.
            deliver: gets the items in order, one call at a time.
            abort: once it is requested, ``emit`` raises its reason; a producer that computes for long should look.

        Raises:
            Exception: what ``deliver`` raised, or else what ``produce`` raised.
            BridgeClosed: the bridge was closed before the producer could start.

        Cancelling it requests the abort and waits for the thread, which no one can stop from outside, and for the end
        of the delivery under way; also when it is cancelled again meanwhile.
        """
        crossing = Crossing(self._loop, deliver, abort, self._high_water)
        try:
            job = self._pool.submit(_call, produce, crossing.emit)
        except RuntimeError as error:
            raise BridgeClosed(_CLOSED) from error
        thread = asyncio.wrap_future(job)
        thread.add_done_callback(_retrieve)
        try:
            with abort.hook(crossing.wake):
                await asyncio.wait([thread])
            crossing.end()
            await crossing.settled()
        except asyncio.CancelledError as cancelled:
            abort.request(cancelled)
            crossing.give_up(cancelled)
            job.cancel()  # it may still wait for a free thread
            await _outlast(thread)
            await _outlast(asyncio.ensure_future(crossing.settled()))
            raise
        finally:
            crossing.end()
        if crossing.failure is not None:
            raise crossing.failure
        if job.cancelled():
            raise BridgeClosed(_CLOSED)
        return thread.result()

    def close(self) -> None:
        """Let no further producer start. Those that run are not touched."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Crossing(Generic[T]):
    """One producer's items on their way to the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[list[T]], Awaitable[None]],
        abort: Abort,
        high_water: int,
    ) -> None:
        self.failure: BaseException | None = None  #: what ended the deliveries before their time
        self._loop = loop
        self._deliver = deliver
        self._abort = abort
        self._high_water = high_water
        self._space = threading.Condition()  # guards all below
        self._buffer: list[T] = []
        self._hop: Future[None] | None = None  # the delivery under way
        self._hopping = False
        self._unbegun: Coroutine[Any, Any, None] | None = None  # the hop that is scheduled and has not begun
        self._delivery: asyncio.Task[None] | None = None  # the hop that has begun
        self._ended = False

    def emit(self, item: T) -> None:
        """Hand over an item. Waits while too many are under way.

        Raises:
            BridgeEnded, BridgeClosed, DeliveryFailed: it cannot be delivered; stop producing.
            Exception: the reason of the abort.
        """
        if _running_loop() is self._loop:
            raise BridgeError("emit() was called on the event loop's own thread; call it from a thread of its own.")
        self._abort.raise_if_requested()
        with self._space:
            self._raise_if_over()
            self._buffer.append(item)
            if not self._hopping:
                self._start_hop()
            while len(self._buffer) >= self._high_water:
                self._space.wait(_LOOK_S)
                self._abort.raise_if_requested()
                self._raise_if_over()

    def _raise_if_over(self) -> None:
        if self.failure is not None:
            raise DeliveryFailed() from self.failure
        if self._ended:
            raise BridgeEnded()
        if self._loop.is_closed():
            self._drop_unbegun()
            raise BridgeClosed()

    def _start_hop(self) -> None:
        hop = self._deliver_all()
        try:
            self._hop = asyncio.run_coroutine_threadsafe(hop, self._loop)
        except RuntimeError as error:
            hop.close()
            raise BridgeClosed() from error
        self._hopping = True
        self._unbegun = hop
        self._hop.add_done_callback(self._hop_done)

    def _drop_unbegun(self) -> None:
        if self._unbegun is not None:
            self._unbegun.close()  # the loop will not run it; closed, it does not warn that nobody awaited it
            self._unbegun = None

    async def _deliver_all(self) -> None:
        with self._space:
            self._unbegun, self._delivery = None, asyncio.current_task()
        while True:
            with self._space:
                batch, self._buffer = self._buffer, []
                self._space.notify_all()
                if not batch:
                    self._hopping = False
                    return
            await self._deliver(batch)

    def _hop_done(self, hop: Future[None]) -> None:
        error = DeliveryFailed("The delivery was cancelled.") if hop.cancelled() else hop.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._space:
            if self.failure is None:
                self.failure = error
            self._buffer.clear()
            self._space.notify_all()

    async def settled(self) -> None:
        """Wait until no delivery is under way. It never raises what a delivery raised: that is in ``failure``."""
        if self._hop is not None:
            hop = asyncio.wrap_future(self._hop)
            hop.add_done_callback(_retrieve)
            await asyncio.wait([hop])

    def wake(self) -> None:
        """Have a producer that waits for space look at the abort."""
        with self._space:
            self._space.notify_all()

    def give_up(self, reason: BaseException) -> None:
        """Stop delivering. Must be called on the loop."""
        self._fail(reason)
        if self._delivery is not None:
            self._delivery.cancel()

    def end(self) -> None:
        """Refuse what is emitted from now on."""
        with self._space:
            self._ended = True
            self._space.notify_all()
            if self._loop.is_closed():
                self._drop_unbegun()


def _call(produce: Callable[[Callable[[T], None]], R], emit: Callable[[T], None]) -> R:
    try:
        return produce(emit)
    except StopIteration as error:
        raise RuntimeError("the producer raised StopIteration") from error  # no asyncio.Future can hold that


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an error that nobody asked for: it is told in another way, or of no interest."""
    if not future.cancelled():
        future.exception()


async def _outlast(future: asyncio.Future[Any]) -> None:
    """Wait until it is done, whatever becomes of it, also when cancelled meanwhile."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
