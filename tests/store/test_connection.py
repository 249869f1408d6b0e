"""The door to Redis: what is repeated, what is refused, and what its errors mean."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from sibyl.core.errors import StoreFull, StoreUnavailable, StoreUnsuitable
from sibyl.core.task import LOCAL_OWNER
from sibyl.store.connection import Store, translate
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.scripts import Script
from sibyl.store.server import Server
from tests.faults import proxy
from tests.store.conftest import Configured, OpenStore
from tests.store.desk import Desk, dump


async def test_a_good_redis_is_named(store: Store) -> None:
    """Name and version, for the log."""
    name, version = (await store.check()).split()

    assert name in ("Redis", "Valkey")
    assert tuple(map(int, version.split("."))) >= (6, 2, 0)


async def test_a_redis_that_evicts_is_refused(store: Store, configured: Configured) -> None:
    """It would drop answers; the message says what to type."""
    with (
        configured("maxmemory-policy", "allkeys-lru"),
        pytest.raises(StoreUnsuitable, match="CONFIG SET maxmemory-policy noeviction"),
    ):
        await store.check()


async def test_a_redis_without_a_log_is_warned_of(
    store: Store, configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    """It works, and it does not keep; a provider may keep the data in another way."""
    with configured("appendonly", "no"), caplog.at_level(logging.WARNING):
        await store.check()
    assert "appendonly yes" in caplog.text

    caplog.clear()
    await store.check()
    assert not caplog.text


@pytest.mark.parametrize(("version", "good"), [("6.0.16", False), ("5.0", False), ("6.2.0", True), ("10.0.1", True)])
async def test_an_old_redis_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch, version: str, good: bool) -> None:
    """By number and not by text: 10 is newer than 6."""

    async def info(self: AsyncRedis, section: str) -> dict[str, object]:
        return {"redis_version": version, "aof_enabled": 1, "maxmemory_policy": "noeviction"}

    monkeypatch.setattr(AsyncRedis, "info", info)

    if good:
        assert await store.check() == f"Redis {version}"
    else:
        with pytest.raises(StoreUnsuitable, match=f"Redis {version} is too old: Sibyl needs Redis 6.2"):
            await store.check()


async def test_valkey_goes_by_its_own_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valkey says which Redis it is compatible with, and which Valkey it is."""

    async def info(self: AsyncRedis, section: str) -> dict[str, object]:
        return {"redis_version": "7.2.4", "valkey_version": "8.1.1", "aof_enabled": 1}

    monkeypatch.setattr(AsyncRedis, "info", info)

    assert await store.check() == "Valkey 8.1.1"


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://host:port/", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """In one line, when the store is made and not at the first command."""
    with pytest.raises(StoreUnsuitable, match="The Redis URL cannot be used"):
        Store(url)


async def test_wrong_credentials_are_said(redis_url: str, open_store: OpenStore) -> None:
    """Somebody else has to act, so it is not called "out of reach"."""
    store = open_store(redis_url.replace("://", "://nobody:wrong@"), patience_s=0.05)

    with pytest.raises(StoreUnsuitable, match="refuses our user or password"):
        await store.check()


async def test_a_forbidden_command_is_said(redis_server: EmbeddedRedis, store: Store) -> None:
    """The embedded Redis lets the application do nothing that belongs to its supervisor."""
    with pytest.raises(StoreUnsuitable, match="refuses our user"):
        await store.command("CONFIG", "GET", "dir")


async def test_a_refused_command_is_no_outage(store: Store) -> None:
    """A wrong command stays wrong: no retry, no 503 with Retry-After."""
    with pytest.raises(StoreUnsuitable, match="Redis refused a command"):
        await store.command("HGET", "only-one-argument")


async def test_a_call_gives_up_after_its_patience(tmp_path: Path, open_store: OpenStore) -> None:
    """Neither at once nor late."""
    store = open_store(f"unix://{tmp_path}/nobody.sock", patience_s=0.3)
    began_at = time.monotonic()

    with pytest.raises(StoreUnavailable):
        await store.command("PING")

    assert 0.1 < time.monotonic() - began_at < 1
    with pytest.raises(StoreUnavailable):
        await store.patient(0).run(Script.DUE, ["a", "b", "c"], 1)
    assert time.monotonic() - began_at < 1.2


async def test_a_call_survives_a_cut(redis_url: str, tmp_path: Path, open_store: OpenStore) -> None:
    """Redis comes back within the patience: nobody notices."""
    async with proxy(redis_url, tmp_path) as network:
        store = open_store(network.url)
        await store.command("SET", "key", "value")
        network.cut()

        assert await store.command("GET", "key") == "value"


async def test_calls_wait_for_a_network_that_stalls(redis_url: str, tmp_path: Path, open_store: OpenStore) -> None:
    """Many at once, each gets its own reply; and a caller that leaves takes no other caller's reply with it."""
    async with proxy(redis_url, tmp_path) as network:
        store = open_store(network.url, patience_s=5)
        for number in range(20):
            await store.command("SET", number, number)
        network.hold()
        calls = [asyncio.create_task(store.command("GET", number)) for number in range(20)]
        await asyncio.sleep(0.02)
        for call in calls[::3]:
            call.cancel()
        network.release()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        again = await asyncio.gather(*(store.command("GET", number) for number in range(20)))

    assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[::3])
    assert [reply for place, reply in enumerate(replies) if place % 3] == [str(n) for n in range(20) if n % 3]
    assert again == [str(number) for number in range(20)]


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_cancelled_call_is_cancelled_whatever_it_was_doing(redis_url: str, blocking: bool) -> None:
    """At each step of connecting, sending and waiting: a loop that nothing can end would keep its process from ending.

    On Python 3.11 ``asyncio.wait_for``, with which redis-py sends, loses a cancellation that comes while it is done.
    """
    swallowed: list[int] = []
    for steps in range(40):
        store = Store(redis_url)
        call = asyncio.create_task(
            store.wait_for_entries({"stream": "0-0"}, count=1) if blocking else store.command("XLEN", "stream")
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        if not call.done():
            call.cancel()
            await asyncio.wait([call])
            if not call.cancelled():
                swallowed.append(steps)
        await store.close()

    assert swallowed == []


async def test_work_in_a_cancelled_task_still_gets_its_replies(store: Store) -> None:
    """What cleans up after a cancellation may use Redis."""
    replies: list[object] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            replies.append(await store.command("ECHO", "cleaned up"))

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait([working])

    assert replies == ["cleaned up"]


async def test_a_wait_is_not_repeated(redis_url: str, tmp_path: Path, open_store: OpenStore) -> None:
    """Whoever waits has to look around first: what it waits for may have been taken back."""
    async with proxy(redis_url, tmp_path) as network:
        store = open_store(network.url, patience_s=5)
        waiting = asyncio.create_task(store.wait_for_entries({"stream": "0-0"}, count=1))
        while not network.connected:  # noqa: ASYNC110 - the proxy tells nobody
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        network.cut()

        with pytest.raises(StoreUnavailable):
            await waiting


async def test_a_server_that_is_left_ends_what_is_under_way(redis_server: EmbeddedRedis) -> None:
    """At once, whatever the network does, and it takes nothing more: another one is the primary now."""
    server = Server(redis_server.url)

    async def wait() -> None:
        async with server.within(10):
            await server.blocking.blpop(["nothing"], timeout=8)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.05)
    server.leave()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.shield(waiting)
    assert waiting.done()
    with pytest.raises(RedisConnectionError):
        await wait()
    await server.close()


async def test_a_wait_ends_with_what_came_or_after_a_second(store: Store) -> None:
    """Nothing is nothing, and no error."""
    began_at = time.monotonic()
    assert await store.wait_for_entries({"stream": "0-0"}, count=5) == []
    assert 0.9 < time.monotonic() - began_at < 2

    waiting = asyncio.create_task(store.wait_for_entries({"{a}stream": "0-0", "{a}other": "0-0"}, count=1))
    await asyncio.sleep(0.01)
    await store.command("XADD", "{a}stream", "1-1", "field", "value")
    await store.command("XADD", "{a}stream", "1-2", "field", "value")

    assert [(key, entries) for key, entries in await waiting] == [("{a}stream", [("1-1", {"field": "value"})])]


Act = Callable[[Desk], object]


async def test_a_full_redis_takes_nothing_by_halves(desk: Desk, configured: Configured) -> None:
    """Every script is refused as a whole, every caller hears so, and afterwards the work goes on."""
    waiting = await desk.submit()
    task_id, lease = waiting, (await desk.claimed()).lease
    await desk.say(lease, "one ")
    waiting = await desk.submit()
    abandoned = await desk.submit()
    other = await desk.claimed()
    await desk.lapse(other.lease.task_id)
    before = await dump(desk.store)

    with configured("maxmemory", "1"):
        for act in (
            lambda: desk.submit(),
            lambda: desk.submit(key="key"),
            lambda: desk.claim(),
            lambda: desk.claim(max_attempts=1),
            lambda: desk.say(lease, "two", first=2),
            lambda: desk.log.append(lease, 2, [], lease_s=600),  # a lease that is long enough needs no write
            lambda: desk.complete(lease, 1),
            lambda: desk.queue.release(lease),
            lambda: desk.queue.request_cancel(abandoned, LOCAL_OWNER),
            lambda: desk.queue.request_cancel(task_id, LOCAL_OWNER),
            lambda: desk.queue.request_cancel(other.lease.task_id, LOCAL_OWNER),
        ):
            with pytest.raises(StoreFull):
                await act()
            assert await dump(desk.store) == before

    await desk.say(lease, "two", first=2)
    assert await desk.complete(lease, 2) is None
    assert await desk.text(task_id) == "one two"


async def test_a_full_redis_can_be_emptied(desk: Desk, configured: Configured) -> None:
    """Erasing gives memory back, so it must not need any."""
    task_id = await desk.submit()

    with configured("maxmemory", "1"):
        await desk.queue.erase(task_id, LOCAL_OWNER)


async def test_a_replica_is_out_of_reach_for_writes(desk: Desk, admin: Redis) -> None:
    """During a failover the old primary refuses writes for a moment: a retry helps, also for scripts on Redis 6.2,
    which wraps the refusal into an error of its own.
    """
    task_id = await desk.submit()
    admin.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(StoreUnavailable, match="read-only"):
            await desk.queue.request_cancel(task_id, LOCAL_OWNER)
        later = asyncio.create_task(desk.submit())
        await asyncio.sleep(0.05)
    finally:
        admin.replicaof("NO", "ONE")

    assert await later


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), StoreFull),
        (ResponseError("ERR Error running script: -OOM command not allowed when used memory > 'maxmemory'"), StoreFull),
        (ResponseError("ERR Error running script: -READONLY You can't write against a replica"), StoreUnavailable),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), StoreUnavailable),
        (ClusterDownError("CLUSTERDOWN The cluster is down"), StoreUnavailable),
        (TryAgainError("Multiple keys request during rehashing of slot"), StoreUnavailable),
        (MovedError("1 127.0.0.1:1"), StoreUnavailable),
        (AskError("1 127.0.0.1:1"), StoreUnavailable),
        (ClusterCrossSlotError("Keys in request don't hash to the same slot"), StoreUnsuitable),
        (MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."), StoreUnavailable),
        (BusyLoadingError("LOADING Redis is loading the dataset in memory"), StoreUnavailable),
        (ResponseError("WRONGTYPE Operation against a key"), StoreUnsuitable),
        (ConnectionResetError(), StoreUnavailable),
    ],
    ids=str,
)
def test_an_error_has_one_meaning(error: Exception, meaning: type[Exception]) -> None:
    """Full, away, or not usable: the three things a caller can do something about."""
    assert type(translate(error)) is meaning
