"""The workers' doorbell: a hint that there may be work, or that a task is to stop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sibyl.core.task import LOCAL_OWNER, TaskId
from sibyl.store.connection import Store
from sibyl.store.doorbell import Doorbell
from tests.faults import proxy
from tests.store.conftest import OpenStore
from tests.store.desk import Desk


class Listener:
    """What a worker hears."""

    def __init__(self) -> None:
        self.work = 0
        self.cancels: list[TaskId] = []
        self.counts: list[str] = []
        self._heard = asyncio.Event()

    def on_work(self) -> None:
        """There may be work."""
        self.work += 1
        self._heard.set()

    def on_cancel(self, task_id: TaskId) -> None:
        """This one is to stop."""
        self.cancels.append(task_id)
        self._heard.set()

    def on_count(self, question: str) -> None:
        """Somebody asks for the length of a prompt."""
        self.counts.append(question)
        self._heard.set()

    async def until(self, true: Callable[["Listener"], bool], *, limit_s: float = 5) -> None:
        """Wait until what was heard makes it true."""
        async with asyncio.timeout(limit_s):
            while not true(self):
                self._heard.clear()
                await self._heard.wait()


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[Listener]:
    """Listen while the block runs."""
    listener = Listener()
    bell = Doorbell(store, on_work=listener.on_work, on_cancel=listener.on_cancel, on_count=listener.on_count)
    task = asyncio.create_task(bell.run())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def test_who_begins_to_listen_looks_first(store: Store) -> None:
    """Whatever was rung before nobody listened."""
    async with listening(store) as listener:
        await listener.until(lambda listener: listener.work == 1, limit_s=0.5)


async def test_a_submit_is_heard_at_once(desk: Desk) -> None:
    """By every worker, long before it would look by itself."""
    async with listening(desk.store) as one, listening(desk.store) as two:
        for listener in (one, two):
            await listener.until(lambda listener: listener.work == 1)
        await asyncio.sleep(0.02)
        await desk.submit()

        for listener in (one, two):
            await listener.until(lambda listener: listener.work == 2, limit_s=0.5)


async def test_a_release_is_heard_at_once(desk: Desk) -> None:
    """The task goes on elsewhere without waiting for its lease to run out."""
    _, lease = await desk.begin()
    async with listening(desk.store) as listener:
        await listener.until(lambda listener: listener.work == 1)
        await asyncio.sleep(0.02)
        await desk.queue.release(lease)

        await listener.until(lambda listener: listener.work == 2, limit_s=0.5)


@pytest.mark.parametrize("how", ["cancel", "erase"])
async def test_the_cancel_of_a_running_task_is_heard_at_once(desk: Desk, how: str) -> None:
    """With its id; a task that nobody holds ends without a ring."""
    task_id, _ = await desk.begin()
    waiting = await desk.submit()
    async with listening(desk.store) as listener:
        await listener.until(lambda listener: listener.work == 1)
        await asyncio.sleep(0.02)
        await desk.queue.request_cancel(waiting, LOCAL_OWNER)
        if how == "cancel":
            await desk.queue.request_cancel(task_id, LOCAL_OWNER)
        else:
            await desk.queue.erase(task_id, LOCAL_OWNER)

        await listener.until(lambda listener: bool(listener.cancels), limit_s=0.5)

    assert listener.cancels == [task_id]


async def test_a_question_for_a_length_is_heard_at_once(desk: Desk) -> None:
    """With its id, and as nothing else."""
    async with listening(desk.store) as listener:
        await listener.until(lambda listener: listener.work == 1)
        await asyncio.sleep(0.02)
        await desk.store.command("XADD", desk.store.shards[0].bell, "*", "count", "question")

        await listener.until(lambda listener: bool(listener.counts), limit_s=0.5)

    assert (listener.counts, listener.cancels) == (["question"], [])


async def test_rings_from_before_are_old(desk: Desk) -> None:
    """A cancel of yesterday stops nobody today: who claims a task learns of it by the claim."""
    task_id, _ = await desk.begin()
    await desk.queue.request_cancel(task_id, LOCAL_OWNER)

    async with listening(desk.store) as listener:
        await listener.until(lambda listener: listener.work == 1)
        await desk.submit()
        await listener.until(lambda listener: listener.work == 2)

    assert listener.cancels == []


async def test_in_silence_it_looks_every_second(store: Store) -> None:
    """A ring is a hint and carries no promise."""
    async with listening(store) as listener:
        await listener.until(lambda listener: listener.work == 2, limit_s=1.5)


async def test_it_hears_again_when_redis_is_back(
    desk: Desk, redis_url: str, tmp_path: Path, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker is never deaf after an outage: it looks at once, and hears every later ring."""
    async with proxy(redis_url, tmp_path) as network, listening(open_store(network.url)) as listener:
        for outage in range(3):
            work = listener.work
            network.cut()
            await listener.until(lambda listener, work=work: listener.work > work)  # type: ignore[misc]
            await asyncio.sleep(0.02)
            task_id, _ = await desk.begin()
            await desk.queue.request_cancel(task_id, LOCAL_OWNER)
            await listener.until(lambda listener, outage=outage: len(listener.cancels) == outage + 1)  # type: ignore[misc]

    assert "Cannot hear the doorbell" in caplog.text


async def test_every_shard_is_heard(redis_url: str, open_store: OpenStore) -> None:
    """Cancels of tasks wherever they lie."""
    desk = Desk(open_store(redis_url, shards=3))
    for _ in range(12):
        await desk.submit()
    ids = [(await desk.claimed()).lease.task_id for _ in range(12)]
    async with listening(desk.store) as listener:
        await listener.until(lambda listener: listener.work == 3)
        await asyncio.sleep(0.05)
        for task_id in ids:
            await desk.queue.request_cancel(task_id, LOCAL_OWNER)
        await listener.until(lambda listener: len(listener.cancels) == 12)

    assert set(listener.cancels) == set(ids)


async def test_a_task_that_rings_alone_is_known(desk: Desk, store: Store) -> None:
    """Its name is told once; of two that rang, neither is, for then somebody must look which comes first."""
    listener = Listener()
    bell = Doorbell(store, on_work=listener.on_work, on_cancel=listener.on_cancel, on_count=listener.on_count)
    listening_to = asyncio.create_task(bell.run())
    await bell.heard.wait()
    told: list[TaskId | None] = [bell.rung()]
    try:
        for count in (1, 2):
            submitted = await asyncio.gather(*(desk.submit() for _ in range(count)))
            while len(bell._rung) < count:  # noqa: ASYNC110 - a read of the bell rings nothing here
                await asyncio.sleep(0.001)
            told += [bell.rung(), bell.rung()]
            assert count == 2 or told[1] == submitted[0]
    finally:
        listening_to.cancel()
        await asyncio.wait([listening_to])

    assert told[0] is None
    assert told[2:] == [None, None, None]
