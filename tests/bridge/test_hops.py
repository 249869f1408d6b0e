"""One hop for all producers: what shares it, what holds it back, who may hurry it, and whose failure is whose."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge
from sibyl.bridge.crossing import Crossing
from sibyl.bridge.hops import Hops
from sibyl.core.errors import BridgeClosed, DeliveryFailed, LeaseLost
from tests.processes import until

LONG_S = 3600.0


class Decoder:
    """A decode thread that emits for several producers, which wait in threads of the bridge."""

    def __init__(self, producers: int) -> None:
        self.emits: list[Crossing[int]] = []
        self.over = threading.Event()
        self._all = threading.Barrier(producers + 1)

    def produce(self, emit: Crossing[int]) -> None:
        """Hand the crossing to the decode thread and wait for the end."""
        self.emits.append(emit)
        self._all.wait(5)
        self.over.wait(5)

    def ready(self) -> None:
        """Wait until all producers are there. To be called in another thread."""
        self._all.wait(5)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls of run_coroutine_threadsafe."""
    calls: list[int] = []
    real = asyncio.run_coroutine_threadsafe

    def noted(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Future[Any]:
        calls.append(1)
        return real(coroutine, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", noted)
    return calls


async def test_a_decode_thread_wakes_the_loop_once_for_all_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen producers, three items each, emitted while the loop is busy: one hop, and each gets its own in order."""
    bridge, decoder = Bridge(threads=16), Decoder(16)
    got: dict[int, list[list[int]]] = {number: [] for number in range(16)}

    async def one(number: int) -> None:
        async def deliver(batch: list[int]) -> None:
            got[batch[0] // 10].append(batch)

        await bridge.run(decoder.produce, deliver, Abort())

    running = [asyncio.create_task(one(number)) for number in range(16)]
    await asyncio.to_thread(decoder.ready)
    calls = counted(monkeypatch)

    def step() -> None:
        for item in range(3):
            for number, emit in enumerate(decoder.emits):
                emit(number * 10 + item)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()  # on the loop, which so is busy
    decoder.over.set()
    await asyncio.gather(*running)
    bridge.close()

    assert len(calls) == 1
    assert got == {number: [[number * 10, number * 10 + 1, number * 10 + 2]] for number in range(16)}


async def test_one_failure_is_nobody_elses(bridge: Bridge) -> None:
    """Of two that share a hop one cannot deliver; the other goes on."""
    decoder = Decoder(2)
    got: list[int] = []

    async def refuse(batch: list[int]) -> None:
        raise LeaseLost()

    async def take(batch: list[int]) -> None:
        got.extend(batch)

    bad = asyncio.create_task(bridge.run(decoder.produce, refuse, Abort()))
    while not decoder.emits:  # noqa: ASYNC110 - a thread of the pool begins
        await asyncio.sleep(0.001)
    good = asyncio.create_task(bridge.run(decoder.produce, take, Abort()))
    await asyncio.to_thread(decoder.ready)
    refused, taken = decoder.emits

    await asyncio.to_thread(lambda: (refused(1), taken(1)))
    while refused.failure is None or not got:  # noqa: ASYNC110 - the hop runs on this loop
        await asyncio.sleep(0)
    with pytest.raises(DeliveryFailed):
        await asyncio.to_thread(refused, 2)
    await asyncio.to_thread(taken, 2)
    decoder.over.set()

    with pytest.raises(LeaseLost):
        await bad
    await good
    assert got == [1, 2]


async def test_a_delivery_by_future_makes_no_task(bridge: Bridge, abort: Abort) -> None:
    """What an engine emits costs a callback: no task beside those that are there anyhow."""
    tasks: list[str] = []
    done: list[asyncio.Future[None]] = []

    def deliver(batch: list[int]) -> asyncio.Future[None]:
        tasks.extend(task.get_name() for task in asyncio.all_tasks())
        done.append(asyncio.get_running_loop().create_future())
        done[-1].set_result(None)
        return done[-1]

    def produce(emit: Crossing[int]) -> None:
        emit(1)

    before = {task.get_name() for task in asyncio.all_tasks()}
    await bridge.run(produce, deliver, abort)

    assert len(done) == 1
    assert len(set(tasks) - before) == 1  # the hop itself


class Rests:
    """A hop that is asked how long to rest."""

    def __init__(self, rest_s: float) -> None:
        self.rest_s = rest_s
        self.asked = threading.Event()

    def __call__(self) -> float:
        self.asked.set()
        return self.rest_s


def under_way(emit: Crossing[int]) -> bool:
    """Whether something of this producer waits for a hop or is being delivered."""
    return emit._called


async def run(bridge: Bridge, produce: Callable[[Crossing[int]], None]) -> list[list[int]]:
    """Run a producer and return the batches."""
    batches: list[list[int]] = []

    async def deliver(batch: list[int]) -> None:
        batches.append(batch)

    async with asyncio.timeout(10):
        await bridge.run(produce, deliver, Abort())
    return batches


async def test_a_hop_that_rests_carries_more() -> None:
    """After its first item a producer's items gather for as long as is asked."""
    rests = Rests(0.05)
    bridge = Bridge(threads=1, rest_s=rests)

    def produce(emit: Crossing[int]) -> None:
        emit(0)
        until(lambda: rests.asked.is_set() and not under_way(emit), limit_s=10, what="the hop")
        rests.asked.clear()
        began = time.monotonic()
        for item in range(1, 4):
            emit(item)
            rests.asked.wait(5)
        until(lambda: not under_way(emit), limit_s=10, what="the hop")
        assert time.monotonic() - began >= 0.045

    batches = await run(bridge, produce)
    bridge.close()

    assert batches == [[0], [1, 2, 3]]


async def test_neither_a_first_item_nor_the_end_rests() -> None:
    """With a rest of an hour: the first item of each producer goes at once, and what is left when it returns."""
    bridge = Bridge(threads=2, rest_s=Rests(LONG_S))

    def produce(emit: Crossing[int]) -> None:
        emit(0)
        until(lambda: not under_way(emit), limit_s=10, what="the hop")
        emit(1)
        emit(2)

    assert await run(bridge, produce) == [[0], [1, 2]]
    bridge.close()


async def test_a_first_item_takes_those_along_that_rest() -> None:
    """A newcomer's first item ends the rest of a hop that others wait for."""
    rests = Rests(LONG_S)
    bridge = Bridge(threads=2, rest_s=rests)
    resting = threading.Event()

    def old(emit: Crossing[int]) -> None:
        emit(0)
        until(lambda: not under_way(emit), limit_s=10, what="the hop")
        rests.asked.clear()
        emit(1)
        rests.asked.wait(5)
        resting.set()
        until(lambda: not under_way(emit), limit_s=10, what="the hop")
        emit(2)

    def new(emit: Crossing[int]) -> None:
        resting.wait(5)
        emit(0)

    before, after = await asyncio.gather(run(bridge, old), run(bridge, new))
    bridge.close()

    assert before == [[0], [1], [2]]
    assert after == [[0]]


async def test_a_producer_is_told_to_rest_before_it_would_have_to_wait(abort: Abort) -> None:
    """Seven of eight places taken is backlogged: who looks before each step never stands still in ``emit``."""
    bridge = Bridge(threads=1, high_water=8)
    gate = asyncio.Event()
    seen: list[bool] = []

    async def deliver(batch: list[int]) -> None:
        await gate.wait()

    def produce(emit: Crossing[int]) -> None:
        emit(0)
        until(lambda: not emit._buffer, limit_s=10, what="the hop")
        for item in range(1, 8):
            seen.append(emit.backlogged())
            emit(item)
        seen.append(emit.backlogged())
        bridge._loop.call_soon_threadsafe(gate.set)
        until(lambda: not emit.backlogged(), limit_s=10, what="the hop")

    await bridge.run(produce, deliver, abort)
    bridge.close()

    assert seen == [False] * 7 + [True]


async def test_a_hop_that_is_cancelled_fails_those_who_wait_for_it() -> None:
    """Nothing cancels a hop but the end of its loop; should it happen, nobody waits for ever."""
    rests = Rests(LONG_S)
    bridge = Bridge(threads=1, rest_s=rests)

    def produce(emit: Crossing[int]) -> None:
        emit(0)
        until(lambda: not under_way(emit), limit_s=10, what="the hop")
        rests.asked.clear()
        emit(1)
        rests.asked.wait(5)
        until(lambda: emit.failure is not None, limit_s=10, what="the hop")
        emit(2)

    running = asyncio.create_task(run(bridge, produce))
    while (hop := bridge._hops._held_back) is None:  # noqa: ASYNC110 - the hop begins on this loop
        await asyncio.sleep(0.001)
    hop.cancel()

    with pytest.raises(DeliveryFailed):
        await running
    bridge.close()


def test_a_first_item_for_a_loop_that_was_closed_while_it_rested_is_an_error() -> None:
    """Whoever hurries it is told, as is whoever would start it."""
    loop = asyncio.new_event_loop()
    hops = Hops(loop, lambda: LONG_S)
    crossings: list[Crossing[int]] = [Crossing(hops, _never, Abort(), 8) for _ in range(2)]
    hops._under_way = True  # a hop is held back
    loop.close()

    for crossing in crossings:
        with pytest.raises(BridgeClosed):
            crossing.emit(1)


async def _never(batch: list[int]) -> None:
    await asyncio.Event().wait()
