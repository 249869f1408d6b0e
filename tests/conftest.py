"""What tests share: a real Redis for the session, emptied before each test. Which one: see ``topology``."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis

from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis
from tests import topology
from tests.topology import TOPOLOGY, Servers


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A running embedded Redis, with a loop and a thread of its own that outlive every test."""
    topology.needs_one_server("it looks at the embedded Redis")
    directory: Path = tmp_path_factory.mktemp("redis-data")
    program = os.environ.get("SIBYL_TEST_REDIS_SERVER")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="redis-of-the-tests", daemon=True)
    thread.start()
    embedded = EmbeddedRedis(directory, fsync="everysec", binary=Path(program) if program else None)
    asyncio.run_coroutine_threadsafe(embedded.start(), loop).result(20)
    yield embedded
    asyncio.run_coroutine_threadsafe(embedded.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


class _Embedded:
    """The embedded Redis as one topology among others."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """As it is now: a restart may change it."""
        return self._server.url

    def flush(self) -> None:
        """Empty it."""
        with self.admins() as (admin,):
            admin.flushall()

    @contextlib.contextmanager
    def admins(self) -> Iterator[list[Redis]]:
        """The one connection."""
        with Redis.from_url(self._server.admin_url, decode_responses=True) as admin:
            yield [admin]


@pytest.fixture(scope="session")
def redis_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The Redis of the session, whatever it is made of."""
    if TOPOLOGY == "single":
        yield _Embedded(request.getfixturevalue("redis_server"))
    else:
        with topology.several(tmp_path_factory.mktemp("redis-nodes")) as servers:
            yield servers


@pytest.fixture
def redis_url(redis_servers: Servers) -> str:
    """The URL of an empty Redis."""
    redis_servers.flush()
    return redis_servers.url


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store on an empty Redis, with one shard: so there is one order of all tasks."""
    store = Store(redis_url)
    yield store
    await store.close()
