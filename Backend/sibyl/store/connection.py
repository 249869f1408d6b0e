"""The one door to Redis: how we connect, what we retry, and what its errors mean to us.

redis-py repeats commands by itself by default, also those that must not be repeated; here every client has that turned
off. ``Store.run`` repeats only scripts, each of which is safe to repeat. Commands that block have connections of their
own and a longer timeout, or they would be cut while they wait.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sibyl.core.errors import StoreFull, StoreUnavailable, StoreUnsuitable
from sibyl.core.policy import backoff_s
from sibyl.store.keys import Shard
from sibyl.store.scripts import Script

logger = logging.getLogger(__name__)

T = TypeVar("T")
StreamEntries = list[tuple[str, list[tuple[str, dict[str, str]]]]]
"""For each stream key, its entries: id and fields."""

MIN_VERSION = (6, 2)
BLOCK_MS = 1000  # how long a blocking read waits before it looks again by itself
_COMMAND_TIMEOUT_S = 5.0
_CONNECTIONS = 64
_AWAY = (RedisConnectionError, RedisTimeoutError, OSError, ReadOnlyError, BusyLoadingError, MasterDownError)
# What passes by itself. Redis 6.2 wraps what a script met into an error of its own, so the word may stand anywhere.
_PASSING = re.compile(r"\b(READONLY|NOREPLICAS|MASTERDOWN)\b")


class Store:
    """A connected Redis: runs scripts and commands, and translates what goes wrong."""

    def __init__(self, url: str, *, shards: int = 1, patience_s: float = 1.0) -> None:
        """Connect on first use.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.
            shards: parts that the keys are spread over; the same in every process.
            patience_s: how long a call goes on trying while Redis is out of reach.
        """
        self._patience_s = patience_s
        self.shards = tuple(Shard(number) for number in range(shards))
        try:
            self.client = _client(url)
            self.blocking = _client(url)
            _try_settings(self.client)
        except (ValueError, TypeError) as error:
            raise StoreUnsuitable(f"The Redis URL cannot be used: {error}") from None

    def patient(self, patience_s: float) -> "Store":
        """Return the same store with another patience; it shares the connections."""
        other = object.__new__(Store)
        other.__dict__.update(self.__dict__)
        other._patience_s = patience_s
        return other

    async def run(self, script: Script, keys: Sequence[str], *args: str | int | float) -> Any:
        """Run a script and return its reply; repeat it while Redis is out of reach, for ``patience_s`` at most.

        Raises:
            StoreUnavailable: Redis stayed out of reach. The script may have run.
            StoreFull: Redis refused to write; the script has not run.
        """

        async def once() -> Any:
            source = script.source
            try:
                return await self.client.evalsha(source.sha1, len(keys), *keys, *args)
            except NoScriptError:
                return await self.client.eval(source.text, len(keys), *keys, *args)

        return await self.call(once)

    async def command(self, *words: str | int | float) -> Any:
        """Run one command that reads, or that is safe to repeat, and return its reply, as in ``run``."""
        return await self.call(lambda: cast(Awaitable[Any], self.client.execute_command(*words)))  # type: ignore[no-untyped-call]

    async def call(self, command: Callable[[], Awaitable[T]]) -> T:
        """Return what ``command`` returns; it is repeated as in ``run`` and so must be safe to repeat."""
        give_up = time.monotonic() + self._patience_s
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                    return await command()
            except _AWAY as error:
                failure: Exception = error
            except RedisError as error:
                if _PASSING.search(str(error)) is None:
                    raise translate(error) from error
                failure = error
            failures += 1
            pause_s = backoff_s(failures, first_s=0.02, most_s=0.5)
            if time.monotonic() + pause_s > give_up:
                raise translate(failure) from failure
            await asyncio.sleep(pause_s)

    async def wait_for_entries(self, streams: Mapping[str, str], *, count: int) -> StreamEntries:
        """Return what the streams hold after the given ids, at most ``count`` of each; wait a second if it is nothing.

        Raises:
            StoreUnavailable: Redis is out of reach. It is not repeated: whoever waits has to look around first.
        """
        try:
            async with asyncio.timeout(BLOCK_MS / 1000 + _COMMAND_TIMEOUT_S):
                reply = await self.blocking.xread({**streams}, count=count, block=BLOCK_MS)  # type: ignore[dict-item]
        except (*_AWAY, RedisError) as error:
            raise translate(error) from error
        return cast(StreamEntries, reply)

    async def wait_for_value(self, key: str, *, wait_s: float) -> str | None:
        """Return the first value of a list, taking it away; None when none comes in time. Not repeated either.

        Raises:
            StoreUnavailable: Redis is out of reach.
        """
        try:
            async with asyncio.timeout(wait_s + _COMMAND_TIMEOUT_S):
                reply = await self.blocking.blpop([key], timeout=wait_s)
        except (*_AWAY, RedisError) as error:
            raise translate(error) from error
        return None if reply is None else str(reply[1])

    async def check(self) -> str:
        """Return the server's name and version, if it can be used.

        Raises:
            StoreUnavailable: nobody answers.
            StoreUnsuitable: it is too old, would evict keys, or refuses our credentials.
        """
        # INFO rather than CONFIG GET: managed services forbid CONFIG.
        info = await self.call(lambda: self.client.info("everything"))
        name = "Valkey" if "valkey_version" in info else "Redis"
        version = str(info.get("valkey_version") or info.get("redis_version", "0"))
        if tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2]) < MIN_VERSION:
            raise StoreUnsuitable(f"{name} {version} is too old: Sibyl needs Redis 6.2 or newer, or Valkey.")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreUnsuitable(
                f"{name} has maxmemory-policy {policy} and would drop answers when memory is short. "
                "Set it to noeviction: redis-cli CONFIG SET maxmemory-policy noeviction"
            )
        if not info.get("aof_enabled"):
            logger.warning(
                "%s runs without an append-only file: accepted tasks are lost when it restarts. "
                "Set appendonly yes, unless your provider keeps the data in another way.",
                name,
                extra={"action": "store_without_aof"},
            )
        return f"{name} {version}"

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()
        await self.blocking.aclose()


def _try_settings(client: Redis) -> None:
    """Make a connection object without connecting: it raises TypeError for what the URL should not name."""
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)


def because(error: StoreUnavailable) -> str:
    """Return the reason as the system gave it, for a person at a terminal, or nothing."""
    cause = error.__cause__
    return f" ({cause})" if cause is not None and str(cause) else ""


def translate(error: Exception) -> StoreUnavailable | StoreUnsuitable:
    """Return our error for one of Redis' or of the network."""
    match error:
        case RedisConnectionError(__cause__=RedisError() as cause):  # what a new connection was told first
            return translate(cause)
        case AuthenticationError() | AuthorizationError() | NoPermissionError():
            return StoreUnsuitable("Redis refuses our user or password. Check the Redis URL.")
        case OutOfMemoryError():
            return StoreFull()
        case ReadOnlyError():
            return StoreUnavailable("Redis is read-only at the moment: a replica, or a failover under way.")
        case BusyLoadingError():
            return StoreUnavailable("Redis is still loading its data.")
        case ResponseError() if "MISCONF" in str(error) or "OOM" in str(error):
            return StoreFull()
        case ResponseError() if "READONLY" in str(error):  # Redis 6.2, from within a script
            return translate(ReadOnlyError())
        case MasterDownError():
            return StoreUnavailable()
        case ResponseError() if _PASSING.search(str(error)):
            return StoreUnavailable()
        case ResponseError():
            return StoreUnsuitable(f"Redis refused a command: {error}")
        case _:
            return StoreUnavailable()


def _client(url: str) -> Redis:
    # No socket timeout: redis-py would send with asyncio.wait_for, which on Python 3.11 loses a cancellation that comes
    # while it is done (bpo-37658). Every command runs under a timeout of ours instead.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_COMMAND_TIMEOUT_S,
        decode_responses=True,
        socket_timeout=None,
        socket_connect_timeout=_COMMAND_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return Redis.from_pool(pool)
