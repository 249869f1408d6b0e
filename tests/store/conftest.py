"""What the tests of the store share.

``tests/topology.py`` says on which Redis they run.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis import Redis

from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis
from tests.store.desk import Desk
from tests.topology import Servers

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
def configured(redis_servers: Servers) -> Configured:
    """Change a setting of each server while a block runs."""

    @contextlib.contextmanager
    def change(name: str, value: str) -> Iterator[None]:
        with redis_servers.admins() as admins:
            before = [str(admin.config_get(name)[name]) for admin in admins]
            for admin in admins:
                admin.config_set(name, value)
            try:
                yield
            finally:
                for admin, was in zip(admins, before, strict=True):
                    admin.config_set(name, was)

    return change
