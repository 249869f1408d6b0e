"""What tests share: a real Redis for the session, on a private socket, emptied before each test."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis

from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A running embedded Redis, with a loop and a thread of its own that outlive every test."""
    directory: Path = tmp_path_factory.mktemp("redis-data")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="redis-of-the-tests", daemon=True)
    thread.start()
    embedded = EmbeddedRedis(directory, fsync="everysec")
    asyncio.run_coroutine_threadsafe(embedded.start(), loop).result(20)
    yield embedded
    asyncio.run_coroutine_threadsafe(embedded.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The URL of an empty Redis."""
    with Redis.from_url(redis_server.admin_url) as admin:
        admin.flushall()
    return redis_server.url


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store on an empty Redis."""
    store = Store(redis_url)
    yield store
    await store.close()
