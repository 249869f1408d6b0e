"""One Redis server as this process is connected to it: some connections for commands, others for commands that block.

redis-py repeats nothing here. What is under way on a server ends at once when the server is left, whatever the network
does: a primary that was cut off, or whose machine stands still, answers nothing and closes nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

COMMAND_TIMEOUT_S = 5.0
_CONNECTIONS = 64


class Server:
    """A server."""

    def __init__(self, url: str, *, primary: bool = False, connections: int = _CONNECTIONS) -> None:
        """Connect on first use.

        Args:
            primary: each new connection makes sure that the server is a primary: what a replica says may be old.

        Raises:
            ValueError, TypeError: the URL cannot be used.
        """
        self.client = _client(url, primary, connections)
        self.blocking = _client(url, primary, connections)
        pool = self.client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # does not connect; raises for what the URL should not name
        self._under_way: set[asyncio.Timeout] = set()
        self._left = False

    @asynccontextmanager
    async def within(self, limit_s: float) -> AsyncIterator[None]:
        """Raise TimeoutError when the block takes longer, or once the server is left."""
        if self._left:
            raise RedisConnectionError("The server is not in use any more.")
        # Ours and not redis-py's, which sends with asyncio.wait_for: on Python 3.11 that loses a cancellation that
        # comes while it is done (bpo-37658).
        async with asyncio.timeout(limit_s) as limit:
            self._under_way.add(limit)
            try:
                yield
            finally:
                self._under_way.discard(limit)

    def leave(self) -> None:
        """End what is under way with TimeoutError, and refuse what comes."""
        self._left = True
        now = asyncio.get_running_loop().time()
        for limit in self._under_way:
            if not limit.expired():
                limit.reschedule(now)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()
        await self.blocking.aclose()


def _client(url: str, primary: bool, connections: int) -> Redis:
    options: dict[str, Any] = {"redis_connect_func": _require_primary} if primary else {}
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=COMMAND_TIMEOUT_S,
        decode_responses=True,
        socket_timeout=None,  # see `within`
        socket_connect_timeout=COMMAND_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **options,
    )
    return Redis.from_pool(pool)


async def _require_primary(connection: AbstractConnection) -> None:
    await connection.on_connect()
    # INFO and not ROLE, which Redis counts among the commands of an administrator.
    await connection.send_command("INFO", "replication")
    if "role:master" not in str(await connection.read_response()):
        raise ReadOnlyError("This server is a replica.")
