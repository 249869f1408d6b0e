"""A desk for tests of the worker: it submits, follows and looks, without an API."""

from collections.abc import AsyncIterator

import pytest

from sibyl.store.connection import Store
from tests.topology import SHARDS
from tests.worker.desk import Desk


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    """A desk at an empty Redis."""
    store = Store(redis_url, shards=SHARDS)
    yield Desk(redis_url, store)
    await store.close()
