"""A primary that sentinels name, which dies, stands still or is demoted: the same store goes on with the next one."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sibyl.core.errors import StoreUnavailable, StoreUnsuitable
from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER
from sibyl.store.connection import Store
from sibyl.store.tail import Tail
from tests.redis_nodes import How, Sentinels, sentinel
from tests.serving import working
from tests.store.conftest import OpenStore
from tests.store.desk import LIMITS, Desk
from tests.store.following import Reader, running
from tests.topology import SHARDS
from tests.worker.desk import spec, uninterrupted

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """A primary, a replica, three sentinels."""
    with sentinel(tmp_path) as group:
        yield group


@pytest.fixture
async def desk(sentinels: Sentinels) -> AsyncIterator[Desk]:
    """A client that asks the sentinels."""
    store = Store(sentinels.url, shards=SHARDS, patience_s=15)
    yield Desk(store)
    await store.close()


@pytest.mark.parametrize("how", ["kill", "pause", "ask"])
async def test_an_answer_outlives_its_primary(sentinels: Sentinels, desk: Desk, how: How) -> None:
    """The primary is killed, stands still, or is demoted while it lives: the worker appends to the next one, the
    reader follows there, and what was not replicated is sent again or taken back once.
    """
    question = "[pace=100] [tokens=300]"
    async with working(sentinels.url, lease_s=8), running(Tail(desk.store)) as tail:
        task_id = await desk.queue.submit(spec(question), owner=LOCAL_OWNER, limits=LIMITS)
        reader = await Reader(tail, task_id).until(lambda reader: len(reader.text) > 100)

        new = await asyncio.to_thread(sentinels.fail_over, how)
        before = reader.text
        await reader.until(lambda reader: len(reader.text) > len(before) + 50, limit_s=5)
        await reader.end(limit_s=30)

    whole = await uninterrupted(question)
    assert reader.text == whole
    assert len(reader.resets) <= 1
    assert (await desk.views.task(task_id, LOCAL_OWNER)).state is State.COMPLETED
    assert await desk.text(task_id) == whole
    assert "completed" in str(new.ask("XRANGE", desk.shard(task_id).log(task_id), "-", "+"))


async def test_who_is_idle_learns_of_the_next_primary_too(sentinels: Sentinels, desk: Desk) -> None:
    """A primary that stood still comes back and still takes itself for one, with every connection open. Nothing has
    failed for this process, which has to hear of it within seconds: what it wrote there would be lost.
    """
    old = sentinels.primary()
    await desk.store.command("SET", "key", "old")
    await asyncio.to_thread(sentinels.fail_over, "pause")
    new = sentinels.primary()
    new.ask("SET", "key", "new")
    old.resume()
    assert old.facts()["role"] == "master"
    began_at = time.monotonic()

    async with asyncio.timeout(3):
        while await desk.store.command("GET", "key") != "new":  # noqa: ASYNC110 - it is asked by time alone
            await asyncio.sleep(0.01)

    await desk.store.command("SET", "key", "newest")
    assert new.ask("GET", "key") == "newest"
    assert time.monotonic() - began_at < 3


async def test_a_read_that_waits_at_a_dead_primary_is_ended(sentinels: Sentinels, desk: Desk) -> None:
    """It would wait for its timeout of six seconds otherwise, at a server that stands still."""
    await desk.store.command("SET", "key", "value")
    sentinels.primary().pause()
    began_at = time.monotonic()

    with pytest.raises(StoreUnavailable):
        await desk.store.wait_for_entries({"stream": "0-0"}, count=1)

    assert time.monotonic() - began_at < 5
    assert await desk.store.command("GET", "key") in ("value", None)  # asynchronous replication may have lost it


async def test_a_replica_is_never_taken_for_a_primary(sentinels: Sentinels, open_store: OpenStore) -> None:
    """The sentinels may name a server that was demoted a moment ago: what it says may be old."""
    store = open_store(sentinels.url, patience_s=0.2)
    await store.command("SET", "key", "value")
    (primary,) = [node for node in sentinels.nodes if node is sentinels.primary()]
    replica = sentinels.replicas()[0]
    primary.ask("REPLICAOF", "127.0.0.1", replica.port)  # behind the sentinels' back
    primary.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    with pytest.raises(StoreUnavailable, match="read-only"):
        await store.command("GET", "key")


async def test_one_sentinel_is_enough(sentinels: Sentinels, open_store: OpenStore) -> None:
    """Killed ones are passed over, ones that stand still cost no more than a second."""
    sentinels.sentinels[0].kill()
    sentinels.sentinels[1].pause()
    began_at = time.monotonic()

    assert (await open_store(sentinels.url).check()).split()[0] in ("Redis", "Valkey")
    assert time.monotonic() - began_at < 3


async def test_a_primary_needs_no_sentinels_to_work(sentinels: Sentinels, desk: Desk) -> None:
    """All of them are gone: what is known stays."""
    await desk.store.command("SET", "key", "value")
    for each in sentinels.sentinels:
        each.kill()
    await asyncio.sleep(1.2)  # the watch asks meanwhile

    assert await desk.store.command("GET", "key") == "value"


async def test_a_service_that_the_sentinels_do_not_know_is_out_of_reach(
    sentinels: Sentinels, open_store: OpenStore
) -> None:
    """They may hear of it later; the reason names it."""
    store = open_store(sentinels.url.replace("/sibyl", "/nobody"), patience_s=0.2)

    with pytest.raises(StoreUnavailable) as away:
        await store.command("PING")

    assert "nobody" in str(away.value.__cause__)


async def test_without_any_sentinel_the_store_is_out_of_reach(open_store: OpenStore) -> None:
    """And not unsuitable: they may come."""
    with pytest.raises(StoreUnavailable):
        await open_store("redis+sentinel://127.0.0.1:1,127.0.0.1:2/sibyl", patience_s=0.2).check()


async def test_logins_of_primary_and_sentinels_are_told_apart(tmp_path: Path, open_store: OpenStore) -> None:
    """The password of the primary is not that of the sentinels, which have none here."""
    flags = ("requirepass word", "masterauth word")
    with sentinel(tmp_path, 0, 1, *flags) as group:
        right = open_store(group.url.replace("://", "://:word@"))
        assert await right.command("PING") in (True, "PONG")
        with pytest.raises(StoreUnsuitable, match="refuses our user or password"):
            await open_store(group.url.replace("://", "://:wrong@")).command("PING")
        with pytest.raises(StoreUnsuitable, match="refuses our user or password"):
            await open_store(group.url.replace("://", "://:word@") + "?sentinel_password=none").command("PING")
