"""The border between threads and the loop: order, bounds, errors, ends."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable

import pytest

from sibyl.bridge import crossing as crossing_module
from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge
from sibyl.bridge.crossing import Crossing
from sibyl.bridge.hops import Hops
from sibyl.core.errors import BridgeClosed, BridgeEnded, BridgeError, DeliveryFailed, LeaseLost, TaskCancelled
from tests.processes import until as looked_until

Emit = Callable[[int], None]


class Reader:
    """The loop's side: keeps the batches, and takes them only while its gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()
        self.delivering = 0

    async def deliver(self, batch: list[int]) -> None:
        """Take a batch."""
        assert self.delivering == 0, "two deliveries at a time"
        self.delivering += 1
        self.began.set()
        try:
            await self.gate.wait()
            self.batches.append(batch)
        finally:
            self.delivering -= 1

    @property
    def items(self) -> list[int]:
        """All that was delivered."""
        return [item for batch in self.batches for item in batch]


@pytest.fixture
async def reader() -> Reader:
    """A reader with an open gate."""
    return Reader()


def emits(count: int) -> Callable[[Emit], str]:
    """A producer of the numbers below ``count``."""

    def produce(emit: Emit) -> str:
        for number in range(count):
            emit(number)
        return "done"

    return produce


async def until(true: Callable[[], bool]) -> None:
    """Return when something that no event tells of has become true."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what becomes true is a plain variable of a thread
            await asyncio.sleep(0.001)


async def test_items_arrive_in_order_and_before_the_result(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """All of them, once, and the producer's result only then (004-1)."""
    result = await bridge.run(emits(3000), reader.deliver, abort)

    assert result == "done"
    assert reader.items == list(range(3000))


async def test_a_producer_that_emits_nothing_just_returns(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """No items, no hop."""
    assert await bridge.run(emits(0), reader.deliver, abort) == "done"
    assert reader.batches == []


async def test_what_is_emitted_meanwhile_rides_on_the_next_hop(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """While one delivery is under way a hundred items gather, and cross as one batch."""
    reader.gate.clear()

    def produce(emit: Emit) -> None:
        emit(0)
        asyncio.run_coroutine_threadsafe(reader.began.wait(), bridge._loop).result(5)
        for number in range(1, 101):
            emit(number)
        bridge._loop.call_soon_threadsafe(reader.gate.set)

    await bridge.run(produce, reader.deliver, abort)

    assert reader.batches == [[0], list(range(1, 101))]


async def test_hops_are_far_fewer_than_items(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """A producer at full speed: the cost is per hop and not per item."""
    await bridge.run(emits(20_000), reader.deliver, abort)

    assert reader.items == list(range(20_000))
    assert len(reader.batches) < 20_000 / 5


async def test_the_result_waits_for_a_slow_reader(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """The producer has long returned; ``run`` has not."""
    reader.gate.clear()
    running = asyncio.create_task(bridge.run(emits(10), reader.deliver, abort))
    await reader.began.wait()
    done, _ = await asyncio.wait([running], timeout=0.05)
    assert not done

    reader.gate.set()

    assert await running == "done"
    assert reader.items == list(range(10))


async def test_a_producer_that_runs_ahead_waits(reader: Reader, abort: Abort) -> None:
    """At high water the thread stands still, the buffer does not grow, and the loop is free for others."""
    bridge = Bridge(threads=1, high_water=8)
    reader.gate.clear()
    begun = 0

    def produce(emit: Emit) -> str:
        nonlocal begun
        for number in range(100):
            begun += 1
            emit(number)
            if number == 0:
                asyncio.run_coroutine_threadsafe(reader.began.wait(), bridge._loop).result(5)
        return "done"

    running = asyncio.create_task(bridge.run(produce, reader.deliver, abort))
    await until(lambda: begun == 9)  # one is being delivered, eight wait
    began_at = time.monotonic()
    for _ in range(100):
        await asyncio.sleep(0)
    assert time.monotonic() - began_at < 0.5
    await asyncio.sleep(0.02)
    assert begun == 9

    reader.gate.set()

    assert await running == "done"
    assert reader.items == list(range(100))
    assert max(map(len, reader.batches)) <= 8
    bridge.close()


async def test_what_deliver_raises_reaches_the_producer_and_the_caller(bridge: Bridge, abort: Abort) -> None:
    """The thread is told why at its next item; ``run`` raises the very exception."""
    lost = LeaseLost()
    heard: list[BaseException | None] = []

    async def deliver(batch: list[int]) -> None:
        raise lost

    def produce(emit: Emit) -> None:
        try:
            while True:
                emit(0)
        except DeliveryFailed as failed:
            heard.append(failed.__cause__)
            raise

    with pytest.raises(LeaseLost) as raised:
        await bridge.run(produce, deliver, abort)

    assert raised.value is lost
    assert heard == [lost]


async def test_what_deliver_raises_wakes_a_waiting_producer(abort: Abort, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that stands still for want of space hears of the failure at once."""
    monkeypatch.setattr(crossing_module, "_LOOK_S", 3600.0)
    bridge = Bridge(threads=1, high_water=2)
    fail = asyncio.Event()

    async def deliver(batch: list[int]) -> None:
        await fail.wait()
        raise LeaseLost()

    running = asyncio.create_task(bridge.run(emits(100), deliver, abort))
    await asyncio.sleep(0.02)
    fail.set()

    with pytest.raises(LeaseLost):
        await running
    bridge.close()


async def test_a_failed_delivery_is_raised_though_the_producer_ignores_it(bridge: Bridge, abort: Abort) -> None:
    """A producer that swallows every error cannot make a lost item look delivered."""

    async def deliver(batch: list[int]) -> None:
        raise LeaseLost()

    def produce(emit: Emit) -> str:
        emit(0)
        return "all is well"

    with pytest.raises(LeaseLost):
        await bridge.run(produce, deliver, abort)


async def test_a_cancelled_delivery_is_a_failure(bridge: Bridge, abort: Abort) -> None:
    """If something else cancels what ``deliver`` awaits, ``run`` fails; it does not look cancelled itself."""

    async def deliver(batch: list[int]) -> None:
        raise asyncio.CancelledError

    with pytest.raises(DeliveryFailed):
        await bridge.run(emits(1), deliver, abort)


async def test_what_the_producer_raises_comes_after_what_it_emitted(
    bridge: Bridge, reader: Reader, abort: Abort
) -> None:
    """Its exception passes as it is, once all that it emitted is delivered."""
    error = ValueError("no more words")
    reader.gate.clear()

    def produce(emit: Emit) -> None:
        for number in range(10):
            emit(number)
        raise error

    running = asyncio.create_task(bridge.run(produce, reader.deliver, abort))
    await reader.began.wait()
    reader.gate.set()

    with pytest.raises(ValueError, match="no more words") as raised:
        await running
    assert raised.value is error
    assert reader.items == list(range(10))


async def test_a_stop_iteration_of_the_producer_ends_the_run(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """A bare ``next()`` in an engine must not leave ``run`` waiting for ever: no future can hold this exception."""

    def produce(emit: Emit) -> None:
        next(iter(()))

    with pytest.raises(RuntimeError):
        async with asyncio.timeout(5):
            await bridge.run(produce, reader.deliver, abort)


async def test_cancelling_asks_the_thread_to_stop_and_waits_for_it(
    bridge: Bridge, reader: Reader, abort: Abort
) -> None:
    """Nobody can end a thread from outside, so ``run`` ends when the thread has."""
    began, may_end, ended = asyncio.Event(), threading.Event(), threading.Event()

    def produce(emit: Emit) -> None:
        stopped = threading.Event()
        with abort.hook(stopped.set):
            bridge._loop.call_soon_threadsafe(began.set)
            stopped.wait(5)
        may_end.wait(5)
        ended.set()
        abort.raise_if_requested()

    running = asyncio.create_task(bridge.run(produce, reader.deliver, abort))
    await began.wait()
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=0.05)
    assert not done
    assert isinstance(abort.reason, asyncio.CancelledError)
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_cancelling_again_waits_as_well(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """An impatient caller does not get a slot back that a thread still uses."""
    began, may_end = asyncio.Event(), threading.Event()

    def produce(emit: Emit) -> None:
        bridge._loop.call_soon_threadsafe(began.set)
        may_end.wait(5)
        raise ValueError("too late to be of interest")

    running = asyncio.create_task(bridge.run(produce, reader.deliver, abort))
    await began.wait()
    for _ in range(3):
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=0.02)
        assert not done
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await running


async def test_cancelling_ends_the_delivery_before_it_returns(bridge: Bridge, abort: Abort) -> None:
    """When ``run`` has ended nothing is delivered any more, also not the rest of a delivery that cleans up."""
    began = asyncio.Event()
    steps: list[str] = []

    async def deliver(batch: list[int]) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            steps.append("cleaned up")

    running = asyncio.create_task(bridge.run(emits(1), deliver, abort))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    steps.append("ended")

    assert steps == ["cleaned up", "ended"]


async def test_a_delivery_that_fails_while_it_is_cancelled_leaves_no_complaint(bridge: Bridge, abort: Abort) -> None:
    """Its error has nobody to be told to, and asyncio does not log it as forgotten."""
    began = asyncio.Event()

    async def deliver(batch: list[int]) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise LeaseLost()

    running = asyncio.create_task(bridge.run(emits(1), deliver, abort))
    await began.wait()
    await asyncio.sleep(0)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


async def test_cancelling_while_it_waits_for_a_thread_ends_at_once(reader: Reader, abort: Abort) -> None:
    """A producer that no thread was free for never runs."""
    bridge = Bridge(threads=1)
    may_end = threading.Event()
    ran: list[str] = []
    busy = asyncio.create_task(bridge.run(lambda emit: may_end.wait(5), reader.deliver, Abort()))
    waiting = asyncio.create_task(bridge.run(lambda emit: ran.append("ran"), reader.deliver, abort))
    await asyncio.sleep(0.01)

    waiting.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await waiting
    may_end.set()
    await busy
    bridge.close()

    assert ran == []


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_a_stop_reaches_a_producer_that_waits_for_space(
    reader: Reader, abort: Abort, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """At once, since the thread is woken; it would look by itself only after ``_LOOK_S``."""
    monkeypatch.setattr(crossing_module, "_LOOK_S", 3600.0)
    bridge = Bridge(threads=1, high_water=2)
    reader.gate.clear()
    heard: list[BaseException] = []

    def produce(emit: Emit) -> None:
        try:
            for number in range(100):
                emit(number)
        except BaseException as error:
            heard.append(error)
            raise

    running = asyncio.create_task(bridge.run(produce, reader.deliver, abort))
    await reader.began.wait()
    await asyncio.sleep(0.02)
    if how == "abort":
        abort.request(TaskCancelled())
        await until(lambda: bool(heard))
        reader.gate.set()
    else:
        running.cancel()

    with pytest.raises((TaskCancelled, asyncio.CancelledError)):
        await running
    assert heard == [abort.reason]
    bridge.close()


async def test_an_item_after_the_end_is_refused(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """A callback that somebody kept: the generation is over."""
    kept: list[Emit] = []

    def produce(emit: Emit) -> None:
        kept.append(emit)
        emit(0)

    await bridge.run(produce, reader.deliver, abort)

    with pytest.raises(BridgeEnded):
        await asyncio.to_thread(kept[0], 1)
    assert reader.items == [0]


async def test_an_item_after_the_producers_return_is_refused(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """Also while the last items are still being delivered: what ``emit`` took, ``run`` has delivered."""
    reader.gate.clear()
    kept: list[Emit] = []

    def produce(emit: Emit) -> None:
        kept.append(emit)
        emit(0)

    running = asyncio.create_task(bridge.run(produce, reader.deliver, abort))
    await reader.began.wait()
    await asyncio.sleep(0.02)
    with pytest.raises(BridgeEnded):
        await asyncio.to_thread(kept[0], 1)
    reader.gate.set()
    await running

    assert reader.items == [0]


async def test_emitting_on_the_loop_is_an_error(bridge: Bridge, reader: Reader, abort: Abort) -> None:
    """It could wait for itself."""
    kept: list[Emit] = []
    may_end = threading.Event()

    def produce(emit: Emit) -> None:
        kept.append(emit)
        may_end.wait(5)

    running = asyncio.create_task(bridge.run(produce, reader.deliver, abort))
    await until(lambda: bool(kept))
    with pytest.raises(BridgeError, match="own thread"):
        kept[0](1)
    may_end.set()
    await running

    assert reader.items == []


async def test_many_producers_cross_at_once(bridge: Bridge) -> None:
    """More than there are threads: each in its own order, the further ones after the first."""

    async def one(number: int) -> list[int]:
        got: list[int] = []

        async def deliver(batch: list[int]) -> None:
            await asyncio.sleep(0)
            got.extend(batch)

        def produce(emit: Emit) -> None:
            for item in range(200):
                emit(number * 1000 + item)

        await bridge.run(produce, deliver, Abort())
        return got

    results = await asyncio.gather(*(one(number) for number in range(12)))

    assert results == [[number * 1000 + item for item in range(200)] for number in range(12)]


async def test_no_more_producers_run_than_there_are_threads(reader: Reader) -> None:
    """A slot is a thread: the third of two waits until one is free."""
    bridge = Bridge(threads=2)
    running = 0
    most = 0
    lock = threading.Lock()
    both = threading.Barrier(2)

    def produce(emit: Emit) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(5)  # proves that two do run at a time
        with lock:
            running -= 1

    await asyncio.gather(*(bridge.run(produce, reader.deliver, Abort()) for _ in range(6)))
    bridge.close()

    assert most == 2


async def test_many_threads_emit_for_one_crossing(reader: Reader, abort: Abort) -> None:
    """A vendor SDK calls back from threads of its own: each thread's order holds, and the bound too."""
    bridge = Bridge(threads=1, high_water=16)

    def produce(emit: Emit) -> None:
        def work(number: int) -> None:
            for item in range(300):
                emit(number * 1000 + item)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    await bridge.run(produce, reader.deliver, abort)
    bridge.close()

    for number in range(8):
        mine = [item for item in reader.items if item // 1000 == number]
        assert mine == [number * 1000 + item for item in range(300)]
    assert max(map(len, reader.batches)) <= 16 + 8


async def test_a_closed_bridge_starts_nobody(reader: Reader, abort: Abort) -> None:
    """Neither a new producer nor one that waits for a thread; those that run are not touched."""
    bridge = Bridge(threads=1)
    may_end = threading.Event()
    running = asyncio.create_task(bridge.run(lambda emit: may_end.wait(5), reader.deliver, abort))
    waiting = asyncio.create_task(bridge.run(emits(1), reader.deliver, Abort()))
    await asyncio.sleep(0.01)

    bridge.close()
    with pytest.raises(BridgeClosed):
        await waiting
    with pytest.raises(BridgeClosed):
        await bridge.run(emits(1), reader.deliver, Abort())
    may_end.set()

    assert await running
    assert reader.items == []


# ---- loops that end


async def never(batch: list[int]) -> None:
    """Deliver for ever."""
    await asyncio.Event().wait()


def test_a_loop_that_was_closed_before_is_an_error() -> None:
    """And nothing warns of a coroutine that nobody awaited."""
    loop = asyncio.new_event_loop()
    loop.close()
    crossing: Crossing[int] = Crossing(Hops(loop), never, Abort(), 8)

    with pytest.raises(BridgeClosed):
        crossing.emit(1)
    with pytest.raises(BridgeClosed):
        crossing.emit(2)
    gc.collect()


@pytest.mark.parametrize("waits", [True, False])
def test_a_loop_that_closes_before_the_hop_began(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hop was scheduled on a loop that stopped: a waiting producer gets an error, and so does the next item; and
    the coroutine that never ran is closed and not complained about.
    """
    monkeypatch.setattr(crossing_module, "_LOOK_S", 0.02)
    loop = asyncio.new_event_loop()
    crossing: Crossing[int] = Crossing(Hops(loop), never, Abort(), 1 if waits else 8)
    errors: list[BaseException] = []
    emitted = threading.Event()

    def produce() -> None:
        try:
            crossing.emit(1)
            emitted.set()
            while True:
                crossing.emit(2)
                time.sleep(0.001)  # not a wait: a producer at a pace, which must notice the closed loop by itself
        except BaseException as error:
            errors.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    looked_until(lambda: crossing._called, limit_s=10, what="the first item")
    loop.close()
    producer.join(5)
    gc.collect()

    assert [type(error) for error in errors] == [BridgeClosed]
    assert emitted.is_set() is not waits


def test_a_loop_that_closes_after_the_producers_last_item() -> None:
    """Nobody emits any more, and still nothing warns."""
    loop = asyncio.new_event_loop()
    crossing: Crossing[int] = Crossing(Hops(loop), never, Abort(), 8)
    producer = threading.Thread(target=crossing.emit, args=(1,))
    producer.start()
    producer.join(5)

    loop.close()
    crossing.end()
    gc.collect()


def test_a_program_that_ends_in_the_middle_waits_for_its_threads() -> None:
    """``asyncio.run`` cancels what is left: a producer that stands still is let go, and nothing is left to warn of."""
    heard: list[BaseException] = []

    def produce(emit: Emit) -> None:
        try:
            for number in range(100):
                emit(number)
        except BaseException as error:
            heard.append(error)
            raise

    async def main() -> None:
        bridge = Bridge(threads=1, high_water=2)
        running.append(asyncio.create_task(bridge.run(produce, never, Abort())))
        await asyncio.sleep(0.05)
        bridge.close()

    running: list[asyncio.Task[None]] = []
    asyncio.run(main())
    gc.collect()

    assert running[0].cancelled()
    assert len(heard) == 1


async def test_the_bridge_is_made_on_a_loop() -> None:
    """The loop is captured where it is known for sure; elsewhere it is an error and not a guess."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        await asyncio.to_thread(Bridge, threads=1)
