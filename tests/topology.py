"""Which Redis the tests run on: one server, a primary that sentinels name, or a cluster; and how many shards.

| environment variable | is |
|---|---|
| ``SIBYL_TEST_TOPOLOGY`` | ``single`` (default), ``sentinel``, ``cluster`` |
| ``SIBYL_TEST_SHARDS`` | shards of the stores, 1 by default |
| ``SIBYL_TEST_REDIS_SERVER`` | the server program; none: the one that Sibyl would choose |
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from redis import Redis
from redis.crc import key_slot

from sibyl.store.address import ClusterNodes, OneServer, Place, SentinelGroup, parse_address
from sibyl.store.keys import Shard, shard_of
from tests import redis_nodes

TOPOLOGY = os.environ.get("SIBYL_TEST_TOPOLOGY", "single")
SHARDS = int(os.environ.get("SIBYL_TEST_SHARDS", "1"))


class Servers(Protocol):
    """A Redis of some topology."""

    @property
    def url(self) -> str:
        """Where Sibyl finds it."""

    def flush(self) -> None:
        """Empty it."""

    def admins(self) -> contextlib.AbstractContextManager[list[Redis]]:
        """A connection to each primary, of a user that may do everything."""


class Nodes:
    """Nodes behind sentinels or in a cluster."""

    def __init__(self, group: redis_nodes.Sentinels | redis_nodes.Cluster) -> None:
        self._group = group
        self.url = group.url

    def flush(self) -> None:
        """Empty the primaries."""
        self._group.flush()

    @contextlib.contextmanager
    def admins(self) -> Iterator[list[Redis]]:
        """A connection to each primary."""
        group = self._group
        primaries = [group.primary()] if isinstance(group, redis_nodes.Sentinels) else group.primaries()
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(node.admin()) for node in primaries]


@contextlib.contextmanager
def several(directory: Path) -> Iterator[Servers]:
    """The sentinels or the cluster that the tests shall run on."""
    with redis_nodes.sentinel(directory) if TOPOLOGY == "sentinel" else redis_nodes.cluster(directory) as group:
        yield Nodes(group)


def needs_one_server(what: str) -> None:
    """Skip the test unless it runs on one server."""
    if TOPOLOGY != "single":
        pytest.skip(f"{what}: on one server only")


one_shard = pytest.mark.skipif(SHARDS > 1, reason="tasks of several shards have no common order")


@contextlib.contextmanager
def redis_with(redis_url: str, key: str) -> Iterator[Any]:
    """A connection to the server that has this key, wherever the URL leads."""
    url = redis_url
    match parse_address(redis_url):
        case OneServer():
            pass
        case SentinelGroup() as group:
            with Redis.from_url(group.sentinels[0], decode_responses=True) as asked:
                place = asked.sentinel_get_master_addr_by_name(group.service)
            url = group.access.url(Place(*place))
        case ClusterNodes() as nodes:
            with Redis.from_url(nodes.access.url(nodes.seeds[0]), decode_responses=True) as asked:
                ranges = asked.execute_command("CLUSTER SLOTS")
            slot = key_slot(key.encode())
            host, port = next(owner[:2] for first, last, owner, *_ in ranges if first <= slot <= last)
            url = nodes.access.url(Place(host, port))
    with Redis.from_url(url, decode_responses=True) as redis:
        yield redis


def shard_at(task_id: str) -> Shard:
    """The keys of a task's shard."""
    return Shard(shard_of(task_id, SHARDS))
