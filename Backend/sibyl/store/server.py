"""One Redis server as this process is connected to it: some connections for commands, others for commands that block.

redis-py repeats nothing here. What is under way on a server ends at once when the server is left, whatever the network
does: a primary that was cut off, or whose machine stands still, answers nothing and closes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError

from sibyl.store.channel import Channel, Word, packed

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
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
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

    async def ask(self, *commands: Sequence[Word | bytes]) -> list[Any]:
        """Send commands one behind the other and return their replies; one that Redis refused is an exception.

        Raises:
            RedisError, OSError, TimeoutError: the server is out of reach, or no primary. They may have run.
        """
        channel = self._channel
        if channel is None or not channel.is_open:
            channel = await self.open_channel()
        if not commands:
            return []
        asked = _Asked(len(commands))
        for words in commands:
            channel.ask(packed(words), asked.take)
        return await asked.replies

    async def open_channel(self) -> Channel:
        """Return the connection for commands that do not block, opened if need be; it ends when the server is left.

        Raises:
            RedisError, OSError, TimeoutError: the server is out of reach, or no primary.
        """
        async with self.within(COMMAND_TIMEOUT_S), self._opening:
            if self._channel is None or not self._channel.is_open:
                pool = self.client.connection_pool
                connection = pool.connection_class(**pool.connection_kwargs)
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._channel = Channel(connection, limit_s=COMMAND_TIMEOUT_S)
            return self._channel

    def leave(self) -> None:
        """End what is under way with TimeoutError, and refuse what comes."""
        self._left = True
        self._close_channel()
        now = asyncio.get_running_loop().time()
        for limit in self._under_way:
            if not limit.expired():
                limit.reschedule(now)

    async def close(self) -> None:
        """Close the connections."""
        self._close_channel()
        await self.client.aclose()
        await self.blocking.aclose()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()


class _Asked:
    """The replies to some commands, as they come."""

    def __init__(self, count: int) -> None:
        self.replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._missing = count
        self._taken: list[Any] = []

    def take(self, reply: Any) -> None:
        """Take the next one. The first that got lost is all that is told."""
        self._taken.append(reply)
        self._missing -= 1
        if self.replies.done():
            return  # who asked was cancelled, or has heard of the loss
        if isinstance(reply, RedisConnectionError) and not isinstance(reply, BusyLoadingError):
            self.replies.set_exception(reply)
        elif not self._missing:
            self.replies.set_result(self._taken)


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
