"""What tests of the store do again and again, in a word each; and a dump of all that Redis holds."""

import re
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from sibyl.core.event import Completed, Output
from sibyl.core.task import LOCAL_OWNER, Lease, Message, Owner, TaskId, TaskSpec, Usage
from sibyl.store.connection import Store
from sibyl.store.keys import Shard, shard_of
from sibyl.store.log import Appended, EventLog, Gap
from sibyl.store.queue import Claim, Limits, TaskQueue
from sibyl.store.tasks import TaskViews

LIMITS = Limits(queue_tasks=100, owner_tasks=100, deadline_s=600, retention_s=3600)
COMPLETED = Completed(text_length=0, usage=Usage(prompt_tokens=3, completion_tokens=2), finish_reason="stop")


def spec(question: str = "Why?", *, priority: int = 5) -> TaskSpec:
    """A question."""
    return TaskSpec(kind="question", messages=(Message(role="user", content=question),), priority=priority)


def outputs(*texts: str) -> list[Output]:
    """One output a text, with a token each."""
    return [Output(text=text, token_ids=(len(text),)) for text in texts]


class Desk:
    """A client and a worker at one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queue = TaskQueue(store)
        self.log = EventLog(store)
        self.views = TaskViews(store)
        self._nonces = 0

    def shard(self, task_id: TaskId) -> Shard:
        """The keys of the task's shard."""
        return self.store.shards[shard_of(task_id, len(self.store.shards))]

    async def submit(
        self,
        question: str = "Why?",
        *,
        owner: Owner = LOCAL_OWNER,
        priority: int = 5,
        limits: Limits = LIMITS,
        key: str | None = None,
    ) -> TaskId:
        """Ask; the request's digest is the question."""
        asked = spec(question, priority=priority)
        return await self.queue.submit(asked, owner=owner, limits=limits, idempotency_key=key, request=question)

    async def claim(
        self, nonce: str | None = None, *, lease_s: float = 60, max_attempts: int = 3, floor: int = 0
    ) -> Claim | None:
        """Claim under a nonce of its own."""
        self._nonces += 1
        return await self.queue.claim(
            nonce=nonce or f"worker:{self._nonces}",
            model="oracle",
            lease_s=lease_s,
            max_attempts=max_attempts,
            floor=floor,
        )

    async def claimed(self, nonce: str | None = None, *, floor: int = 0) -> Claim:
        """Claim what is known to be there."""
        claim = await self.claim(nonce, floor=floor)
        assert claim is not None
        return claim

    async def begin(self, *texts: str) -> tuple[TaskId, Lease]:
        """Submit, claim, append."""
        task_id = await self.submit()
        lease = (await self.claimed()).lease
        assert lease.task_id == task_id
        await self.say(lease, *texts)
        return task_id, lease

    async def say(self, lease: Lease, *texts: str, first: int = 1) -> Appended | Gap:
        """Append texts as outputs ``first`` and following."""
        return await self.log.append(lease, first, outputs(*texts), lease_s=60)

    async def complete(self, lease: Lease, stored: int) -> int | None:
        """Settle as completed."""
        return await self.queue.settle(lease, stored, COMPLETED)

    async def lapse(self, task_id: TaskId) -> None:
        """Let the task's lease have run out, without waiting for it."""
        shard = self.shard(task_id)
        await self.store.command("HSET", shard.task(task_id), "lease_ms", 1)
        await self.store.command("ZADD", shard.running, 1, task_id)

    async def overdue(self, task_id: TaskId) -> None:
        """Let the task's deadline have passed."""
        shard = self.shard(task_id)
        await self.store.command("HSET", shard.task(task_id), "deadline_ms", 1)
        await self.store.command("ZADD", shard.deadlines, 1, task_id)

    async def text(self, task_id: TaskId) -> str:
        """The answer as a client sees it."""
        return (await self.views.task(task_id, LOCAL_OWNER)).text


class Snapshot:
    """A task's keys as they were, to go back to: what a Redis does that lost its newest writes."""

    def __init__(self, store: Store, keys: dict[str, bytes | None]) -> None:
        self._store = store
        self._keys = keys

    @classmethod
    async def take(cls, desk: Desk, task_id: TaskId) -> "Snapshot":
        """Keep all keys of the task's shard."""
        keys: dict[str, bytes | None] = {}
        for key in desk.shard(task_id).whole(task_id):
            raw = await _binary(desk.store, "DUMP", key)
            keys[key] = raw
        return cls(desk.store, keys)

    async def restore(self) -> None:
        """Go back."""
        redis = await redis_of(self._store, next(iter(self._keys)))
        async with redis.pipeline(transaction=True) as pipe:
            for key, raw in self._keys.items():
                pipe.delete(key)
                if raw is not None:
                    pipe.restore(key, 0, raw)
            await pipe.execute()


async def _binary(store: Store, *words: str) -> Any:
    """Run a command whose reply is no text."""
    redis = await redis_of(store, words[1])
    return await redis.execute_command(*words, NEVER_DECODE=True)  # type: ignore[no-untyped-call]


async def redis_of(store: Store, key: str) -> Redis:
    """The server that has this key."""
    return (await store.server_of(key)).client


async def wipe(store: Store) -> None:
    """Empty Redis."""
    for server in await store.servers():
        await server.client.flushdb()


_MASKS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"\b\d\.[0-9a-f]{32}\b"), "<task>"),
    (re.compile(r"\b1[5-9]\d{11}\b"), "<ms>"),
    (re.compile(r"remaining_s=[\d.]+"), "remaining_s=<s>"),
]


def masked(value: object) -> str:
    """The value's text without random ids and without times."""
    return _masked(repr(value))


def _masked(text: str) -> str:
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text


async def dump(store: Store) -> dict[str, str]:
    """All that Redis holds, masked; doorbells as the set of what they rang, since a ring may be repeated."""
    found: dict[str, str] = {}
    readers: dict[str, Callable[[str], list[str | int]]] = {
        "string": lambda key: ["GET", key],
        "hash": lambda key: ["HGETALL", key],
        "zset": lambda key: ["ZRANGE", key, 0, -1, "WITHSCORES"],
        "stream": lambda key: ["XRANGE", key, "-", "+"],
    }
    for key in await all_keys(store):
        kind = await store.command("TYPE", key)
        value = await store.command(*readers[kind](key))
        if key.endswith(":bell"):
            value = sorted({repr(fields) for _, fields in value})
        elif kind == "hash":
            value = sorted(value.items())
        elif kind == "zset":
            value = sorted(zip(map(masked, value[::2]), map(masked, value[1::2]), strict=True))
        expires = await store.command("PTTL", key) > 0
        found[_masked(key)] = f"{masked(value)}{' expires' if expires else ''}"
    return found


async def all_keys(store: Store) -> list[str]:
    """Every key that Redis holds, in order."""
    return sorted([str(key) for server in await store.servers() for key in await server.client.keys()])
