"""Durability ha: what a client was told lies on a replica as well, and so outlives the primary."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sibyl.core.errors import StoreUnavailable
from sibyl.core.task import LOCAL_OWNER
from sibyl.store.connection import Durability, Store
from sibyl.store.keys import Shard
from sibyl.store.tail import Tail
from tests.redis_nodes import Sentinels, cluster, sentinel
from tests.store.desk import Desk
from tests.store.following import Reader, running

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """A primary, a replica, three sentinels."""
    with sentinel(tmp_path) as group:
        yield group


class Desks:
    """Desks with this durability and patience."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stores: list[Store] = []

    def __call__(self, durability: Durability, patience_s: float = 0.3) -> Desk:
        """Make one."""
        self.stores.append(Store(self._url, durability=durability, patience_s=patience_s))
        return Desk(self.stores[-1])


@pytest.fixture
async def desks(sentinels: Sentinels) -> AsyncIterator[Desks]:
    """Makes desks whose stores are closed in the end."""
    desks = Desks(sentinels.url)
    yield desks
    for store in desks.stores:
        await store.close()


async def test_a_task_is_accepted_once_a_replica_has_it(sentinels: Sentinels, desks: Desks) -> None:
    """Without a replica that answers there is no acceptance; afterwards the same key gives the same task, once."""
    replica = sentinels.replicas()[0]
    desk = desks("ha")
    replica.pause()
    with pytest.raises(StoreUnavailable, match="too few replicas"):
        await desk.submit(key="once")
    replica.resume()

    task_id = await desk.submit(key="once")

    assert replica.ask("HGET", desk.shard(task_id).task(task_id), "state") == "queued"
    assert await desk.views.waiting_tasks() == 1


async def test_the_other_modes_wait_for_no_replica(sentinels: Sentinels, desks: Desks) -> None:
    """They promise what one server can."""
    sentinels.replicas()[0].pause()

    for mode in ("fast", "safe"):
        task_id = await desks(mode).submit()
        assert await desks(mode).text(task_id) == ""


async def test_an_event_is_shown_once_a_replica_has_it(sentinels: Sentinels, desks: Desks) -> None:
    """It is held back from those who follow and from those who look, and comes as soon as a replica has it."""
    replica = sentinels.replicas()[0]
    desk, worker = desks("ha"), desks("safe")
    async with running(Tail(desk.store)) as tail:
        task_id = await desk.submit()
        lease = (await worker.claimed()).lease
        await worker.say(lease, "one ")
        reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one ")

        replica.pause()
        await worker.say(lease, "two", first=2)
        with pytest.raises(TimeoutError):
            await reader.until(lambda reader: reader.text != "one ", limit_s=1.5)
        with pytest.raises(StoreUnavailable):
            await desk.text(task_id)
        assert await worker.text(task_id) == "one two"
        replica.resume()

        await reader.until(lambda reader: reader.text == "one two", limit_s=3)
        await worker.complete(lease, 2)
        await reader.end()

    assert await desk.text(task_id) == "one two"
    assert reader.resets == []


async def test_what_was_shown_outlives_the_primary(sentinels: Sentinels, desks: Desks) -> None:
    """The replica had not got the newest output when the primary died: the worker sends it again, and who saw
    nothing of it has nothing to take back.
    """
    old, replica = sentinels.primary(), sentinels.replicas()[0]
    desk, worker = desks("ha", 15), desks("safe", 15)
    async with running(Tail(desk.store)) as tail:
        task_id = await desk.submit()
        lease = (await worker.claimed()).lease
        await worker.say(lease, "one ")
        reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one ")
        replica.pause()
        old.ask("CLIENT", "KILL", "TYPE", "replica")  # else it would find the rest in its socket when it goes on
        await worker.say(lease, "lost ", first=2)
        with pytest.raises(TimeoutError):
            await reader.until(lambda reader: reader.text != "one ", limit_s=0.3)
        old.kill()
        replica.resume()
        await asyncio.to_thread(sentinels.fail_over, "kill")

        assert await worker.text(task_id) == "one "
        old.start()
        await asyncio.to_thread(sentinels.settle)
        await worker.say(lease, "two", first=2)
        await worker.complete(lease, 2)
        await reader.end(limit_s=20)

    assert reader.text == "one two"
    assert reader.resets == []


async def test_a_task_that_a_failover_lost_was_not_accepted(sentinels: Sentinels) -> None:
    """It was written and the primary died before it could be confirmed: the next one does not know it, and the caller
    is told to come again.
    """
    written, may_ask = asyncio.Event(), asyncio.Event()

    class Dying(Store):
        """Loses its primary between the write and the question whether a replica has it."""

        async def require_lasting(self, shard: Shard, *keys: str) -> None:
            written.set()
            await may_ask.wait()
            await super().require_lasting(shard, *keys)

    old, replica = sentinels.primary(), sentinels.replicas()[0]
    store = Dying(sentinels.url, durability="ha", patience_s=15)
    desk = Desk(store)
    try:
        replica.pause()
        old.ask("CLIENT", "KILL", "TYPE", "replica")  # else it would find the rest in its socket when it goes on
        submitting = asyncio.create_task(desk.submit(key="lost"))
        await written.wait()
        old.kill()
        replica.resume()
        new = await asyncio.to_thread(sentinels.fail_over, "kill")
        old.start()
        await asyncio.to_thread(sentinels.settle)
        may_ask.set()

        with pytest.raises(StoreUnavailable, match="lost its primary"):
            await submitting
        assert int(new.ask("ZCARD", store.shards[0].waiting)) == 0
        assert await desk.submit(key="lost")
    finally:
        await store.close()


async def test_what_ha_lacks_is_said_at_the_start(
    sentinels: Sentinels, desks: Desks, caplog: pytest.LogCaptureFixture
) -> None:
    """A primary without min-replicas-to-write, or without a replica; in other modes it means nothing."""
    primary, replica = sentinels.primary(), sentinels.replicas()[0]
    with caplog.at_level(logging.WARNING):
        await desks("safe").store.check()
        assert "replica" not in caplog.text
        await desks("ha").store.check()
        assert caplog.text.count("min-replicas-to-write 1") == 1
        assert "has no replica" not in caplog.text

        caplog.clear()
        primary.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        await desks("ha").store.check()
        assert not caplog.text

        replica.ask("REPLICAOF", "NO", "ONE")
        primary.ask("CLIENT", "KILL", "TYPE", "replica")
        await desks("ha").store.check()
        assert "has no replica" in caplog.text


async def test_ha_works_in_a_cluster(tmp_path: Path) -> None:
    """Each shard is confirmed where it lies."""
    with cluster(tmp_path, 3, 3) as group:
        store = Store(group.url, shards=6, durability="ha", patience_s=1)
        desk = Desk(store)
        try:
            async with running(Tail(store)) as tail:
                tasks = [await desk.submit() for _ in range(12)]
                for _ in tasks:
                    lease = (await desk.claimed()).lease
                    await desk.say(lease, "one")
                    await desk.complete(lease, 1)
                for task_id in tasks:
                    assert (await Reader(tail, task_id).end()).text == "one"
            for replica in group.nodes[3:]:
                replica.pause()
            with pytest.raises(StoreUnavailable, match="too few replicas"):
                await desk.submit()
            with pytest.raises(StoreUnavailable, match="too few replicas"):
                await desk.views.task(tasks[0], LOCAL_OWNER)
        finally:
            await store.close()
