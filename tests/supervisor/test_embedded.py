"""The supervisor's own Redis, when its disk has been full."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis as Blocking
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sibyl.core.errors import ProcessError
from sibyl.store.embedded import EmbeddedRedis
from sibyl.supervisor import embedded as supervisor

KEYS = 200


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A server with the gentler fsync, whose file was written anew since it began."""
    redis = EmbeddedRedis(tmp_path, fsync="everysec")
    await redis.start()
    with Blocking.from_url(redis.admin_url) as admin:
        admin.bgrewriteaof()
        while admin.info("persistence")["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    yield redis
    await redis.stop()


async def fill_and_empty_the_disk(redis: EmbeddedRedis, client: Redis) -> None:
    """Write until there is no room, here for a file of the size that it has, then make room and write on."""
    assert redis.pid is not None
    resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (6_000, resource.RLIM_INFINITY))
    with pytest.raises(ResponseError, match="MISCONF"):
        for number in range(10_000):
            await client.set(f"before {number}", "x" * 700)
    resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        with suppress(ResponseError):  # it looks by itself, now and then
            await client.set("after", "x")
            break
        await asyncio.sleep(0.05)
    for number in range(KEYS):
        await client.set(f"after {number}", "x")


async def test_a_redis_whose_disk_was_full_starts_again_with_all_it_has(
    redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis 7.0 leaves a hole in its file then, and could not read it at the next start: so it is written anew."""
    monkeypatch.setattr(supervisor, "MEND_LOOK_S", 0.05)
    mending = asyncio.create_task(supervisor.mend(redis))
    async with Redis.from_url(redis.url) as client:
        await fill_and_empty_the_disk(redis, client)
        while "Redis can write again; its file is mended" not in caplog.messages:  # noqa: ASYNC110 - nor does the log
            await asyncio.sleep(0.05)
        mending.cancel()

        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGKILL)
        await redis.exited()
        await redis.start()

        assert [await client.get(f"after {number}") for number in range(KEYS)] == [b"x"] * KEYS


async def test_without_that_redis_7_0_could_not(redis: EmbeddedRedis) -> None:
    """What `mend` is for. Should this fail with a newer server, that one has no such fault."""
    assert redis.binary is not None and redis.pid is not None
    if redis.binary.version[:2] != (7, 0):
        pytest.skip("another version of Redis")
    async with Redis.from_url(redis.url) as client:
        await fill_and_empty_the_disk(redis, client)
    os.kill(redis.pid, signal.SIGKILL)
    await redis.exited()

    with pytest.raises(ProcessError):
        await redis.start()
