"""From callbacks on a thread to coroutines on the event loop: in order, bounded, with errors going back.

A blocking producer runs in a pool thread and hands over items by calling ``emit``, itself or through another thread
that works for many producers. The first item calls a *hop* (see ``hops``), which gives each producer's items to its
``deliver``. What is emitted while a delivery is under way rides on the next hop. Order holds, since a producer has one
delivery at a time; the cost is per hop and not per item; and a slow delivery makes batches larger before it makes the
producer wait.

What is refused: a producer that runs ahead waits once ``high_water`` items are buffered; an item after the end raises
``BridgeEnded``; a closed loop raises ``BridgeClosed``; ``emit`` on the loop's own thread is an error, since it could
wait for itself. What ``deliver`` raises comes back to the producer from the next ``emit``, and out of ``run``.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sibyl.bridge.abort import Abort
from sibyl.bridge.crossing import Crossing
from sibyl.bridge.hops import Hops
from sibyl.core.errors import BridgeClosed

T = TypeVar("T")
R = TypeVar("R")

HIGH_WATER_ITEMS = 256
_CLOSED = "The bridge is closed; no producer can start any more."


def _at_once() -> float:
    return 0.0


class Bridge:
    """A pool of threads beside one event loop."""

    def __init__(
        self, *, threads: int, high_water: int = HIGH_WATER_ITEMS, rest_s: Callable[[], float] = _at_once
    ) -> None:
        """Capture the running loop. Must be called on it.

        Args:
            threads: producers that can run at a time; further ones wait for a free thread.
            high_water: buffered items of one producer above which its ``emit`` waits.
            rest_s: seconds that a hop should still be held back, asked when one could start. A producer's first item
                and its end are never held back.
        """
        self._loop = asyncio.get_running_loop()
        self._hops = Hops(self._loop, rest_s)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bridge")
        self._high_water = high_water

    async def run(
        self,
        produce: Callable[[Crossing[T]], R],
        deliver: Callable[[list[T]], Awaitable[None]],
        abort: Abort,
    ) -> R:
        """Run ``produce(emit)`` in a thread and return what it returns, after all it emitted is delivered.

        Args:
            produce: may call ``emit`` from any thread but the loop's, until it returns; may look at
                ``emit.backlogged`` and rest meanwhile.
            deliver: gets the items in order, one call at a time: the next is made when what it returned is done.
                If that is a future, no task is made for it.
            abort: once it is requested, ``emit`` raises its reason; a producer that computes for long should look.

        Raises:
            Exception: what ``deliver`` raised, or else what ``produce`` raised.
            BridgeClosed: the bridge was closed before the producer could start.

        Cancelling it requests the abort and waits for the thread, which no one can stop from outside, and for the end
        of the delivery under way; also when it is cancelled again meanwhile.
        """
        crossing = Crossing(self._hops, deliver, abort, self._high_water)
        try:
            job = self._pool.submit(_call, produce, crossing)
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


def _call(produce: Callable[[Crossing[T]], R], emit: Crossing[T]) -> R:
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
