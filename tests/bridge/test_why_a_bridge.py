"""How the naive ways from a thread to the loop fail: each test is a reason for a part of the bridge."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge

TOKENS = 2000


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> None:
    """These forms do leave something behind; that is the point."""


def in_a_thread(work: Callable[[], Any]) -> list[BaseException]:
    """Run ``work`` on a thread of its own and return what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)
    return raised


async def nothing() -> None:
    """Return."""


async def test_create_task_finds_no_loop_in_a_thread() -> None:
    """``asyncio.create_task`` asks for the running loop of its own thread, and a pool thread has none."""
    coroutine = nothing()

    [error] = in_a_thread(lambda: asyncio.create_task(coroutine))

    assert "no running event loop" in str(error)
    coroutine.close()


async def test_the_loop_cannot_be_looked_up_from_a_thread() -> None:
    """Neither way finds it: it has to be captured where it runs, and handed over."""
    [got] = in_a_thread(asyncio.get_event_loop)
    [running] = in_a_thread(asyncio.get_running_loop)

    assert "There is no current event loop in thread" in str(got)
    assert "no running event loop" in str(running)


async def test_call_soon_from_a_thread_is_refused_in_debug_mode() -> None:
    """It is not thread-safe, and asyncio says so where it looks."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 10

    [error] = in_a_thread(lambda: loop.call_soon(print))

    assert "Non-thread-safe operation" in str(error)


async def test_create_task_of_the_loop_is_refused_from_a_thread_in_debug_mode() -> None:
    """The same for ``loop.create_task``, captured loop or not."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    loop.set_exception_handler(lambda _, context: None)  # "destroyed but pending": the half-made task
    coroutine = nothing()

    [error] = in_a_thread(lambda: loop.create_task(coroutine))

    assert "Non-thread-safe operation" in str(error)
    coroutine.close()


async def test_call_soon_from_a_thread_wakes_nobody() -> None:
    """Outside of debug mode it seems to work: the call is queued, and the loop sleeps on until something else comes."""
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    called_at: list[float] = []
    asleep = loop.create_future()
    loop.call_later(0.2, asleep.set_result, None)  # whatever else wakes the loop next
    threading.Timer(0.02, lambda: loop.call_soon(lambda: called_at.append(time.monotonic()))).start()
    began_at = time.monotonic()

    await asleep
    await asyncio.sleep(0)

    assert called_at[0] - began_at > 0.15


async def test_an_asyncio_queue_wakes_nobody() -> None:
    """``put_nowait`` from a thread leaves the reader asleep with the item in its hand."""
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    queue: asyncio.Queue[str] = asyncio.Queue()
    loop.call_later(0.2, lambda: None)  # whatever else wakes the loop next
    threading.Timer(0.02, lambda: queue.put_nowait("token")).start()
    began_at = time.monotonic()

    assert await queue.get() == "token"

    assert time.monotonic() - began_at > 0.15


async def test_the_bridge_wakes_the_loop_at_once() -> None:
    """The same wait with the bridge: the item is there long before anything else wakes the loop."""
    bridge = Bridge(threads=1)
    loop = asyncio.get_running_loop()
    loop.call_later(5, lambda: None)
    delivered_at: list[float] = []

    async def deliver(batch: list[str]) -> None:
        delivered_at.append(time.monotonic())

    began_at = time.monotonic()
    await bridge.run(lambda emit: emit("token"), deliver, Abort())
    bridge.close()

    assert delivered_at[0] - began_at < 0.15


async def test_a_coroutine_per_token_loses_the_order() -> None:
    """Each is a task of its own: as soon as one waits longer than the next, the next arrives first. The bridge has
    one delivery at a time, however long each takes.
    """
    loop = asyncio.get_running_loop()
    naive: list[int] = []
    bridged: list[int] = []

    async def deliver_one(token: int) -> None:
        await asyncio.sleep(0.01 if token % 2 else 0)
        naive.append(token)

    def produce_naively() -> None:
        futures = [asyncio.run_coroutine_threadsafe(deliver_one(token), loop) for token in range(20)]
        for future in futures:
            future.result(5)

    async def deliver(batch: list[int]) -> None:
        await asyncio.sleep(0.01 if batch[0] % 2 else 0)
        bridged.extend(batch)

    def produce(emit: Callable[[int], None]) -> None:
        for token in range(20):
            emit(token)

    await asyncio.to_thread(produce_naively)
    bridge = Bridge(threads=1)
    await bridge.run(produce, deliver, Abort())
    bridge.close()

    assert sorted(naive) == bridged == list(range(20))
    assert naive != bridged


async def test_a_coroutine_per_token_costs_many_times_more() -> None:
    """Both in one run, alternating, the best of three of each: a hop for all is cheaper than a hop for each."""
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    bridge = Bridge(threads=1)
    taken: list[int] = []

    async def deliver_one(token: int) -> None:
        taken.append(token)

    async def deliver(batch: list[int]) -> None:
        taken.extend(batch)

    def produce_naively() -> None:
        futures = [asyncio.run_coroutine_threadsafe(deliver_one(token), loop) for token in range(TOKENS)]
        for future in futures:
            future.result(5)

    def produce(emit: Callable[[int], None]) -> None:
        for token in range(TOKENS):
            emit(token)

    naive_s, bridge_s = [], []
    for _ in range(3):
        began_at = time.perf_counter()
        await asyncio.to_thread(produce_naively)
        naive_s.append(time.perf_counter() - began_at)
        began_at = time.perf_counter()
        await bridge.run(produce, deliver, Abort())
        bridge_s.append(time.perf_counter() - began_at)
    bridge.close()

    assert len(taken) == 6 * TOKENS
    assert min(naive_s) > 2 * min(bridge_s)


async def test_errors_of_a_coroutine_per_token_come_to_nobody() -> None:
    """Unless the thread waits for every future, it goes on producing for a reader that failed at the first token."""
    loop = asyncio.get_running_loop()
    produced = 0

    async def deliver_one(token: int) -> None:
        raise ValueError(token)

    def produce() -> int:
        nonlocal produced
        for token in range(50):
            asyncio.run_coroutine_threadsafe(deliver_one(token), loop)
            produced += 1
        return produced

    assert await asyncio.to_thread(produce) == 50
    await asyncio.sleep(0)


async def test_a_coroutine_per_token_has_no_bound() -> None:
    """A reader that stands still does not slow the thread down: everything waits in memory, a task for each token."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Event()

    async def deliver_one(token: int) -> None:
        await gate.wait()

    def produce() -> None:
        for token in range(500):
            asyncio.run_coroutine_threadsafe(deliver_one(token), loop)

    await asyncio.to_thread(produce)
    await asyncio.sleep(0)
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    gate.set()
    await asyncio.wait(waiting)

    assert len(waiting) == 500
