"""The one door to Redis: what we repeat, what its errors mean to us, and what outlasts the loss of a primary.

redis-py repeats commands by itself by default, also those that must not be repeated; here every client has that turned
off. ``Store.run`` repeats only scripts, each of which is safe to repeat. Commands that block have connections of their
own and a longer timeout, or they would be cut while they wait.

All keys of a command lie on one shard, and so on one server: the primary that has the shard's slot at the moment.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from sibyl.core.errors import StoreFull, StoreUnavailable, StoreUnsuitable
from sibyl.core.policy import backoff_s
from sibyl.store.address import Place, parse_address
from sibyl.store.channel import Word as Word
from sibyl.store.keys import SHARDS, Shard
from sibyl.store.primaries import primaries_at
from sibyl.store.scripts import Script
from sibyl.store.server import COMMAND_TIMEOUT_S, Server
from sibyl.store.suitability import suitable

logger = logging.getLogger(__name__)

T = TypeVar("T")
Durability = Literal["fast", "safe", "ha"]
StreamEntries = list[tuple[str, list[tuple[str, dict[str, str]]]]]
"""For each stream key, its entries: id and fields."""

BLOCK_MS = 1000  # how long a blocking read waits before it looks again by itself
_REPLICA_MS = 50  # how long a read waits for a replica before it is tried again
# What passes by itself. Redis 6.2 wraps what a script met into an error of its own, so the word may stand anywhere.
_PASSING = re.compile(r"\b(READONLY|NOREPLICAS|MASTERDOWN)\b")


class Store:
    """A connected Redis: runs scripts and commands, and translates what goes wrong."""

    def __init__(self, url: str, *, shards: int = 1, patience_s: float = 1.0, durability: Durability = "safe") -> None:
        """Connect on first use.

        Args:
            url: see ``address``.
            shards: parts that the keys are spread over; the same in every process.
            patience_s: how long a call goes on trying while Redis is out of reach.
            durability: with ``ha``, what is read as lasting is known to a replica.
        """
        self._patience_s = patience_s
        self._ha = durability == "ha"
        self.shards = tuple(Shard(number) for number in range(shards))
        try:
            address = parse_address(url)
        except ValueError as error:
            raise StoreUnsuitable(f"The Redis URL cannot be used: {error}.") from None
        try:
            self._primaries = primaries_at(address)
        except (ValueError, TypeError):
            # Not in redis-py's words: they may quote a part of a password that was not encoded.
            raise StoreUnsuitable(
                "The Redis URL cannot be used: its port, database or an option is wrong. "
                "In a password write / as %2F, # as %23, ? as %3F and @ as %40."
            ) from None

    def patient(self, patience_s: float) -> "Store":
        """Return the same store with another patience; it shares the connections."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._patience_s = patience_s
        return other

    async def run(self, script: Script, keys: Sequence[str], *args: Word) -> Any:
        """Run a script and return its reply; repeat it while Redis is out of reach, for ``patience_s`` at most.

        Raises:
            StoreUnavailable: Redis stayed out of reach. The script may have run.
            StoreFull: Redis refused to write; the script has not run.
        """

        async def once(server: Server) -> Any:
            source = script.source
            try:
                return await self._execute(server, "EVALSHA", source.sha1, len(keys), *keys, *args)
            except NoScriptError:  # each server has its own
                return await self._execute(server, "EVAL", source.text, len(keys), *keys, *args)

        return await self._patiently(lambda: self._at(keys[0], once))

    async def command(self, *words: Word) -> Any:
        """Run one command that reads, or that is safe to repeat, and return its reply, as in ``run``.

        Its second word is the key that says where.
        """
        key = str(words[1]) if len(words) > 1 else ""
        return await self._patiently(lambda: self._at(key, lambda server: self._execute(server, *words)))

    async def write_bytes(self, key: str, start: int, part: bytes) -> None:
        """Write a part of a string that is no text; repeated as in ``run``.

        Raises:
            StoreUnavailable: Redis stayed out of reach. It may be written.
        """
        await self._patiently(lambda: self._at(key, lambda server: self._execute(server, "SETRANGE", key, start, part)))

    async def read_bytes(self, key: str, start: int, size: int) -> bytes:
        """Return a part of a string that is no text, empty if there is none; tried as in ``run``.

        Raises:
            StoreUnavailable: Redis stayed out of reach.
        """

        async def once(server: Server) -> bytes:
            # Not by the channel, which reads text.
            async with server.within(COMMAND_TIMEOUT_S):
                words = ("GETRANGE", key, start, start + size - 1)
                return await server.client.execute_command(*words, NEVER_DECODE=True)  # type: ignore[no-any-return, no-untyped-call]

        return await self._patiently(lambda: self._at(key, once))

    async def batch(
        self,
        shard: Shard,
        commands: Sequence[Sequence[Word]],
        *,
        atomic: bool = False,
        lasting: bool = False,
        parsed: bool = True,
    ) -> list[Any]:
        """Run commands that only read, all on one shard, in one round trip; return their replies, as in ``run``.

        Args:
            atomic: nothing changes between them.
            lasting: with durability ``ha``, return only what a replica has as well, and so what the loss of the
                primary takes back no more. In other modes it means nothing.
            parsed: replies have the shape that redis-py gives them elsewhere; else they are as Redis sends them.

        Raises:
            StoreUnavailable: Redis stayed out of reach, or no replica confirmed.
        """

        async def once(server: Server) -> list[Any]:
            begin, end = ([["MULTI"]], [["EXEC"]]) if atomic else ([], [])
            if self._ha and lasting:
                replies = await self._proven(server, [*begin, *commands, *end], shard)
            else:
                replies = await server.ask(*begin, *commands, *end)
            for reply in replies:
                _raised(reply)
            answers = replies[len(commands) + 1] if atomic else replies[: len(commands)]
            if not parsed:
                return [_raised(answer) for answer in answers]
            return [_parsed(server.client, words, answer) for words, answer in zip(commands, answers, strict=True)]

        return await self._patiently(lambda: self._at(shard.marker, once))

    async def _proven(self, server: Server, commands: Sequence[Sequence[Word]], shard: Shard) -> list[Any]:
        """Run commands and return their replies once a replica has all that they have read.

        The proof has to go the same way, right behind: another connection may lead to another server, or to this one
        after a restart in which it lost what was read. Whoever has the marker has all that was before it. It blocks its
        connection, so it does not go with the commands of others.
        """
        async with server.within(COMMAND_TIMEOUT_S), server.client.pipeline(transaction=False) as pipe:
            pipe.response_callbacks = {}  # they would choke on QUEUED
            for words in (*commands, ["SET", shard.marker, ""], ["WAIT", 1, _REPLICA_MS]):
                pipe.execute_command(*words)
            replies: list[Any] = await pipe.execute()
        if replies[-1] < 1:
            raise ResponseError("NOREPLICAS No replica has confirmed the newest writes.")
        return replies

    async def require_lasting(self, shard: Shard, *keys: str) -> None:
        """Return once a replica has one of these keys as well; at once unless durability is ``ha``.

        Raises:
            StoreUnavailable: none confirmed in time, or a failover has lost them.
        """
        if self._ha:
            (present,) = await self.batch(shard, [["EXISTS", *keys]], lasting=True)
            if not present:
                raise StoreUnavailable("Redis has just lost its primary, and with it what was written last.")

    async def wait_for_entries(
        self, streams: Mapping[str, str], *, count: int, block_ms: int = BLOCK_MS, lasting: Shard | None = None
    ) -> StreamEntries:
        """Return what the streams hold after the given ids, at most ``count`` of each; wait ``block_ms`` if nothing.

        Args:
            lasting: the streams' shard, to return only what lasts, as ``batch`` does.

        Raises:
            StoreUnavailable: Redis is out of reach. It is not repeated: whoever waits has to look around first.
        """
        read = ["STREAMS", *streams, *streams.values()]

        async def wait() -> Any:
            server = await self.server_of(next(iter(streams)))
            async with server.within(block_ms / 1000 + COMMAND_TIMEOUT_S):
                return await server.blocking.execute_command("XREAD", "COUNT", count, "BLOCK", block_ms, *read)  # type: ignore[no-untyped-call]

        reply = await self._once(wait)
        if reply and self._ha and lasting is not None:
            (reply,) = await self.batch(lasting, [["XREAD", "COUNT", count, *read]], lasting=True)
        return cast(StreamEntries, reply)

    async def wait_for_value(self, key: str, *, wait_s: float) -> str | None:
        """Return the first value of a list, taking it away; None when none comes in time. Not repeated either.

        Raises:
            StoreUnavailable: Redis is out of reach.
        """

        async def wait() -> Any:
            server = await self.server_of(key)
            async with server.within(wait_s + COMMAND_TIMEOUT_S):
                return await server.blocking.blpop([key], timeout=wait_s)

        reply = await self._once(wait)
        return None if reply is None else str(reply[1])

    async def check(self) -> str:
        """Return the server's name and version, if it can be used; of a cluster, those of each primary are looked at.

        Raises:
            StoreUnavailable: nobody answers.
            StoreUnsuitable: it is too old, would evict keys, or refuses our credentials.
        """

        async def look() -> list[dict[str, Any]]:
            found = []
            for server in await self.servers():
                async with server.within(COMMAND_TIMEOUT_S):
                    # INFO rather than CONFIG GET: managed services forbid CONFIG.
                    found.append(await server.client.info("everything"))
            return found

        return suitable(await self._patiently(look), ha=self._ha)

    async def require_same_shards(self) -> None:
        """Return if all processes spread the keys over as many shards; the first of them decides.

        Raises:
            StoreUnavailable: Redis is out of reach.
            StoreUnsuitable: others use another number: tasks would wait on a shard that nobody looks at.
        """
        known = await self.command("GET", SHARDS)
        if known is None:
            await self.command("SET", SHARDS, len(self.shards), "NX")
            known = await self.command("GET", SHARDS)
        if int(known) != len(self.shards):
            raise StoreUnsuitable(
                f"This Redis has its tasks in {known} shards, and this process is set to {len(self.shards)}. "
                f"Set SIBYL_SHARDS={known}, or begin with an empty Redis."
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._primaries.close()

    async def servers(self) -> Sequence[Server]:
        """Return all primaries. Raises what redis-py and the network raise."""
        return await self._primaries.all()

    async def server_of(self, key: str) -> Server:
        """Return the primary that has this key. Raises what redis-py and the network raise."""
        return await self._primaries.of(key_slot(key.encode()))

    async def _at(self, key: str, command: Callable[[Server], Awaitable[T]]) -> T:
        return await command(await self.server_of(key))

    async def _execute(self, server: Server, *words: Word | bytes) -> Any:
        (reply,) = await server.ask(words)
        # Not "moved", which is a kind of it: the slot is on its way to another node, and the key is there already.
        if isinstance(reply, AskError) and not isinstance(reply, MovedError):
            server = self._primaries.at(reply.host, reply.port)
            _, reply = await server.ask(["ASKING"], words)
        return _parsed(server.client, words, reply)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        give_up = time.monotonic() + self._patience_s
        failures = 0
        while True:
            try:
                return await self._once(attempt)
            except StoreFull:
                raise
            except StoreUnavailable:
                failures += 1
                pause_s = backoff_s(failures, first_s=0.02, most_s=0.5)
                if time.monotonic() + pause_s > give_up:
                    raise
            await asyncio.sleep(pause_s)

    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()
        except MovedError as error:
            self._primaries.doubt((error.slot_id, Place(error.host, error.port)) if error.host else None)
            raise translate(error) from error
        except (TryAgainError, AskError) as error:
            raise translate(error) from error
        except (RedisError, OSError) as error:
            failure = translate(error)
            if isinstance(failure, StoreUnavailable):
                self._primaries.doubt()
            raise failure from error


def _parsed(redis: Redis, words: Sequence[Word | bytes], reply: Any) -> Any:
    """A reply in the shape that redis-py gives it elsewhere."""
    _raised(reply)
    parse = redis.response_callbacks.get(str(words[0]))
    return reply if parse is None else parse(reply)


def _raised(reply: Any) -> Any:
    """Return a reply, or raise the error that it is."""
    if isinstance(reply, RedisError):
        raise reply
    return reply


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
        case MovedError() | AskError() | TryAgainError():
            return StoreUnavailable("A part of the Redis cluster is moving to another node.")
        case MasterDownError():
            return StoreUnavailable()
        case ClusterDownError():
            return StoreUnavailable("A part of the Redis cluster has no node at the moment.")
        case ResponseError() if "NOREPLICAS" in str(error):
            return StoreUnavailable("Redis has too few replicas at the moment.")
        case ResponseError() if _PASSING.search(str(error)):
            return StoreUnavailable()
        case ResponseError():
            return StoreUnsuitable(f"Redis refused a command: {error}")
        case _:
            return StoreUnavailable()
