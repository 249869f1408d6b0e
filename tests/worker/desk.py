"""What stands in for the API in tests of the worker: submits tasks, follows them, looks at them."""

import asyncio
import time
from collections.abc import Callable

from sibyl.bridge.abort import Abort
from sibyl.core.event import Cancelled, Completed, Entry, Expired, Failed, Output, Started
from sibyl.core.task import LOCAL_OWNER, Message, SamplingParams, Task, TaskId, TaskSpec
from sibyl.engines.base import GenerationRequest
from sibyl.engines.scripted import ScriptedEngine
from sibyl.store.connection import Store
from sibyl.store.log import EventLog
from sibyl.store.queue import Limits, TaskQueue
from sibyl.store.tasks import TaskViews
from tests.serving import LIMIT_S, following
from tests.topology import redis_with, shard_at

SEED = 7


class Desk:
    """Everything at one Redis."""

    def __init__(self, redis_url: str, store: Store) -> None:
        self.redis_url = redis_url
        self.store = store
        self.queue = TaskQueue(store)
        self.log = EventLog(store)
        self.views = TaskViews(store)

    async def ask(self, question: str, *, deadline_s: float = 60.0, priority: int = 5) -> TaskId:
        """Submit a question and return its id."""
        limits = Limits(queue_tasks=1000, owner_tasks=1000, deadline_s=deadline_s, retention_s=60.0)
        return await self.queue.submit(spec(question, priority), owner=LOCAL_OWNER, limits=limits)

    async def show(self, task_id: TaskId) -> Task:
        """Return the task as it stands."""
        return await self.views.task(task_id, LOCAL_OWNER)

    async def cancel(self, task_id: TaskId) -> None:
        """Ask it to stop."""
        await self.queue.request_cancel(task_id, LOCAL_OWNER)

    async def until(self, task_id: TaskId, enough: Callable[[Entry], bool], limit_s: float = LIMIT_S) -> list[Entry]:
        """Follow the task until an entry is enough; return all entries after the first."""
        entries: list[Entry] = []
        async with asyncio.timeout(limit_s), following(self.redis_url, task_id) as batches:
            async for batch in batches:
                entries += [part for part in batch if isinstance(part, Entry)]
                if any(enough(entry) for entry in entries):
                    return entries
        return entries

    async def begun(self, task_id: TaskId, outputs: int = 1) -> None:
        """Wait until so many outputs are stored."""
        await self.until(task_id, lambda entry: isinstance(entry.event, Output) and entry.cursor.offset >= outputs)

    async def end(self, task_id: TaskId, limit_s: float = LIMIT_S) -> Task:
        """Wait for the end and return the task."""
        await self.until(task_id, is_terminal, limit_s)
        return await self.show(task_id)

    async def took_to_end(self, task_id: TaskId) -> float:
        """Return the seconds until its terminal event."""
        began = time.monotonic()
        await self.until(task_id, is_terminal)
        return time.monotonic() - began

    async def attempts(self, task_id: TaskId) -> list[int]:
        """Return the numbers of the attempts in the log."""
        return [entry.event.attempt for entry in await self.log.read(task_id) if isinstance(entry.event, Started)]

    def lose_lease(self, task_id: TaskId) -> None:
        """Let the lease of a running task be over, as if its worker had been silent for long."""
        shard = shard_at(task_id)
        with redis_with(self.redis_url, shard.running) as redis:
            redis.hset(shard.task(task_id), "lease_ms", "1")
            redis.zadd(shard.running, {task_id: 1})


def is_terminal(entry: Entry) -> bool:
    """Whether nothing follows it."""
    return isinstance(entry.event, Completed | Failed | Cancelled | Expired)


def spec(question: str, priority: int = 5) -> TaskSpec:
    """A question with a fixed seed."""
    message = Message(role="user", content=question)
    return TaskSpec(kind="question", messages=(message,), sampling=SamplingParams(seed=SEED), priority=priority)


async def uninterrupted(question: str) -> str:
    """The answer that the scripted engine gives when nothing happens, at its pace."""
    texts: list[str] = []
    request = GenerationRequest(messages=spec(question).messages, sampling=spec(question).sampling, abort=Abort())
    await asyncio.to_thread(ScriptedEngine().generate, request, lambda output: texts.append(output.text))
    return "".join(texts)
