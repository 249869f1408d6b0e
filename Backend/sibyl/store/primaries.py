"""Which server is the primary for a key now: the one that the URL names, the one that sentinels name, or the one that
owns the key's slot in a cluster.

Sentinels and clusters are asked again every second, and before the next command when one has failed. Only so is a
primary left that was demoted or cut off without knowing it: it would go on answering readers, and take writes that
nobody will ever see.
"""

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from sibyl.core.errors import StoreUnsuitable
from sibyl.store.address import Access, Address, ClusterNodes, OneServer, Place, SentinelGroup
from sibyl.store.server import Server

logger = logging.getLogger(__name__)

T = TypeVar("T")

WATCH_S = 1.0  # pause between questions for the primary
_ASK_LIMIT_S = 1.0
_ASKED_NODES = 5  # of a cluster at a time; any of them knows all slots


class Primaries(ABC):
    """The primaries of one Redis."""

    @abstractmethod
    async def of(self, slot: int) -> Server:
        """Return the primary that has this hash slot.

        Raises:
            RedisError, OSError: nobody says which it is.
        """

    @abstractmethod
    async def all(self) -> Sequence[Server]:
        """Return every primary. Raises as ``of``."""

    @abstractmethod
    def at(self, host: str, port: int) -> Server:
        """Return the server there, to which another one has pointed."""

    @abstractmethod
    def doubt(self, moved: tuple[int, Place] | None = None) -> None:
        """A command failed: ask before the next one. ``moved``: a slot, and who has it according to a server."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""


class OnePrimary(Primaries):
    """The server that the URL names."""

    def __init__(self, address: OneServer) -> None:
        self._server = Server(address.url)

    async def of(self, slot: int) -> Server:
        """Return it."""
        return self._server

    async def all(self) -> Sequence[Server]:
        """Return it."""
        return [self._server]

    def at(self, host: str, port: int) -> Server:
        """Raise, since a redirection means that it belongs to a cluster."""
        raise RedisConnectionError("This server belongs to a cluster. Use a redis+cluster:// URL.")

    def doubt(self, moved: tuple[int, Place] | None = None) -> None:
        """Do nothing: there is no other, and redis-py connects anew. Raises StoreUnsuitable for a cluster's node."""
        if moved is not None:
            raise StoreUnsuitable("This Redis is one node of a cluster. Use a redis+cluster:// URL.")

    async def close(self) -> None:
        """Close its connections."""
        await self._server.close()


class _Watched(Primaries):
    """Primaries that others know of, who are asked now and then."""

    _must_look = False  # whether each connection has to make sure that it has reached a primary

    def __init__(self, access: Access) -> None:
        self._access = access
        self._servers: dict[Place, Server] = {}
        self._doubted = True
        self._asking = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def at(self, host: str, port: int) -> Server:
        """Return the server there, to which another one has pointed."""
        place = Place(host, port)
        if place not in self._servers:
            self._servers[place] = Server(self._access.url(place), primary=self._must_look)
        return self._servers[place]

    def doubt(self, moved: tuple[int, Place] | None = None) -> None:
        """Ask before the next command."""
        self._doubted = True

    async def close(self) -> None:
        """Close all connections and stop watching."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        for place in tuple(self._servers):
            self._leave(place)
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _sure(self) -> None:
        """Ask if there is doubt. Raises when there is nobody to rely on."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="redis-primaries")
        async with self._asking:
            if self._doubted:
                await self._ask()
                self._doubted = False

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            with suppress(RedisError, OSError):  # the next command will tell
                async with self._asking:
                    await self._ask()

    def _leave(self, place: Place) -> None:
        server = self._servers.pop(place, None)
        if server is not None:
            server.leave()
            leaving = asyncio.create_task(_close(server))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    @abstractmethod
    async def _ask(self) -> None:
        """Learn who the primaries are, and leave those that are none any more."""


class NamedPrimary(_Watched):
    """The primary that sentinels name."""

    _must_look = True

    def __init__(self, address: SentinelGroup) -> None:
        super().__init__(address.access)
        self._service = address.service
        self._sentinels = [Server(url, connections=2) for url in address.sentinels]
        self._place: Place | None = None
        Server(address.access.url(Place("127.0.0.1", 1)))  # a wrong option is told now and not at the first command

    async def of(self, slot: int) -> Server:
        """Return it."""
        if self._doubted:
            await self._sure()
        assert self._place is not None
        return self.at(*self._place)

    async def all(self) -> Sequence[Server]:
        """Return it."""
        return [await self.of(0)]

    async def close(self) -> None:
        """Close all connections and stop watching."""
        await super().close()
        for sentinel in self._sentinels:
            await sentinel.close()

    async def _ask(self) -> None:
        async def ask(sentinel: Server) -> tuple[int, Place]:
            # Two questions: in the middle of a failover the state names the old primary with the new epoch.
            redis = sentinel.client
            place = await redis.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)  # type: ignore[no-untyped-call]
            state = await redis.execute_command("SENTINEL MASTER", self._service)  # type: ignore[no-untyped-call]
            return int(state["config-epoch"]), Place(*place)

        answers, failure = await _answers(ask, self._sentinels)
        if not answers:
            if self._place is not None:
                return  # a primary needs no sentinels to work
            if isinstance(failure, ResponseError) and "No such master" in str(failure):
                failure = RedisConnectionError(f"The sentinels know no service named {self._service}.")
            raise failure or RedisConnectionError("No sentinel answers.")
        # A sentinel that was cut off names an older primary.
        newest = max(epoch for epoch, _ in answers)
        ((place, _),) = Counter(place for epoch, place in answers if epoch == newest).most_common(1)
        if place != self._place:
            old, self._place = self._place, place
            if old is not None:
                logger.warning("Redis has another primary: %s", place, extra={"action": "primary_moved"})
                self._leave(old)


class ClusterPrimaries(_Watched):
    """The primaries of a cluster."""

    def __init__(self, address: ClusterNodes) -> None:
        super().__init__(address.access)
        self._seeds = address.seeds
        self._ranges: list[tuple[int, int, Place]] = []
        self._moved: dict[int, Place] = {}  # what servers said since the last answer
        self._nodes: dict[Place, Server] = {}  # whom we ask
        Server(address.access.url(address.seeds[0]))  # a wrong option is told now and not at the first command

    async def of(self, slot: int) -> Server:
        """Return the owner of the slot."""
        if self._doubted:
            await self._sure()
        place = self._moved.get(slot)
        if place is None:
            place = next((place for first, last, place in self._ranges if first <= slot <= last), None)
        if place is None:
            raise RedisConnectionError(f"No node of the cluster has slot {slot}.")
        return self.at(*place)

    async def all(self) -> Sequence[Server]:
        """Return all that own a slot."""
        await self._sure()
        return [self.at(*place) for place in sorted(self._owners())]

    def doubt(self, moved: tuple[int, Place] | None = None) -> None:
        """Ask before the next command, or believe the server for now."""
        if moved is None:
            self._doubted = True
        else:
            slot, place = moved
            self._moved[slot] = place

    async def close(self) -> None:
        """Close all connections and stop watching."""
        await super().close()
        for node in self._nodes.values():
            await node.close()

    def _owners(self) -> set[Place]:
        return {place for _, _, place in self._ranges}

    async def _ask(self) -> None:
        async def ask(node: Server) -> tuple[bool, int, list[tuple[int, int, Place]]]:
            info = await node.client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
            slots = await node.client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            asked_host = next(place.host for place, known in self._nodes.items() if known is node)
            ranges = [(first, last, Place(owner[0] or asked_host, owner[1])) for first, last, owner, *_ in slots]
            return info["cluster_state"] == "ok", int(info["cluster_current_epoch"]), sorted(ranges)

        known = self._owners() | set(self._seeds)
        for place in known - set(self._nodes):
            self._nodes[place] = Server(self._access.url(place), connections=2)
        for place in set(self._nodes) - known:
            await self._nodes.pop(place).close()
        asked = random.sample(sorted(known), min(len(known), _ASKED_NODES))
        answers, failure = await _answers(ask, [self._nodes[place] for place in asked])
        if not answers:
            if self._ranges:
                return
            raise failure or RedisConnectionError("No node of the cluster answers.")
        # A node that was cut off knows older owners, and sooner or later that it was cut off.
        _, _, ranges = max(answers, key=lambda answer: answer[:2])
        before = self._owners()
        self._ranges = ranges
        self._moved.clear()
        for place in before - self._owners():
            logger.warning("A node of the cluster has no slots any more: %s", place, extra={"action": "primary_moved"})
            self._leave(place)


async def _answers(
    ask: Callable[[Server], Awaitable[T]], servers: Sequence[Server]
) -> tuple[list[T], RedisError | OSError | None]:
    """Ask all at once and return the answers as soon as most have answered, and the last failure."""

    async def one(server: Server) -> T:
        async with server.within(_ASK_LIMIT_S):
            return await ask(server)

    asking = [asyncio.create_task(one(server)) for server in servers]
    answers: list[T] = []
    failure: RedisError | OSError | None = None
    try:
        for answered in asyncio.as_completed(asking):
            try:
                answers.append(await answered)
            except (RedisError, OSError) as error:
                failure = error
            if len(answers) > len(servers) // 2:
                break
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return answers, failure


async def _close(server: Server) -> None:
    with suppress(RedisError, OSError):
        await server.close()


def primaries_at(address: Address) -> Primaries:
    """Return the primaries of the Redis at an address. Raises ValueError or TypeError for options that do not exist."""
    match address:
        case OneServer():
            return OnePrimary(address)
        case SentinelGroup():
            return NamedPrimary(address)
        case ClusterNodes():
            return ClusterPrimaries(address)
