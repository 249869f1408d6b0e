"""The dead letters: tasks that used up their tries and ended as failed (``worker_lost``), kept in a list to look at.

A terminal state is final and its readers have been told, so a dead task never runs again. A retry accepts a new task
with the same spec and owner, once: it is submitted under an idempotency key that names the dead one. The list holds the
1,000 newest of each shard; taking a task off it changes nothing else, the task stays until its retention ends.
"""

from dataclasses import dataclass
from typing import Final, cast

from sibyl.core.errors import InvalidRequest, LogUnreadable, StoreUnsuitable, TaskForgotten, UnknownTask
from sibyl.core.fold import Fold
from sibyl.core.task import Kind, Owner, TaskId
from sibyl.store import keys
from sibyl.store.connection import Store
from sibyl.store.keys import Shard
from sibyl.store.log import EventLog
from sibyl.store.queue import Limits, TaskQueue
from sibyl.store.tasks import missing
from sibyl.wire import record

MOST_SHARDS: Final = 64  # that a setting may name


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadTask:
    """A task on the list: what an operator needs to judge it, never what was asked or answered."""

    task_id: TaskId
    owner: Owner
    kind: Kind
    died_at: float
    tries: int  #: claims in a row that stored nothing
    tokens: int | None  #: of its answer, stored; None when another version of Sibyl wrote its log
    model: str | None  #: that was tried last


class DeadLetters:
    """The lists of all shards."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue = TaskQueue(store)
        self._log = EventLog(store)

    async def require_all_shards(self) -> None:
        """Raise StoreUnsuitable if Redis has shards beyond ours: a part of the list would be silently left out."""
        known = len(self._store.shards)
        for number in range(known, MOST_SHARDS):
            if await self._store.command("EXISTS", Shard(number).bell):
                raise StoreUnsuitable(
                    f"This Redis has more shards than SIBYL_SHARDS={known} says. Give the number of api and worker."
                )

    async def ids(self) -> list[TaskId]:
        """Return the ids on the list, those that died last first. Takes off those whose task is forgotten."""
        found: list[tuple[float, TaskId]] = []
        for shard in self._store.shards:
            raw = await self._store.command("ZRANGE", shard.dead, 0, -1, "WITHSCORES")
            listed = [TaskId(task_id) for task_id in raw[::2]]
            there = await self._store.batch(shard, [["EXISTS", shard.task(task_id)] for task_id in listed])
            for task_id, died_ms, exists in zip(listed, raw[1::2], there, strict=True):
                if exists:
                    found.append((float(died_ms), task_id))
                else:
                    await self._store.command("ZREM", shard.dead, task_id)
        return [task_id for _, task_id in sorted(found, reverse=True)]

    async def task(self, task_id: TaskId) -> DeadTask:
        """Return a task of the list.

        Raises:
            UnknownTask: there is no such task, or it is not on the list.
            TaskForgotten: it was erased, or its retention ended.
        """
        shard = self._shard(task_id)
        died_ms = await self._store.command("ZSCORE", shard.dead, task_id)
        fields = await self._store.command("HMGET", shard.task(task_id), "owner", "spec", "tries", "model")
        if died_ms is None or fields[0] is None:
            raise await self._not_listed(shard, task_id)
        owner, spec, tries, model = fields
        try:
            answer = Fold(await self._log.read(task_id)).answer()
            tokens: int | None = sum(len(output.token_ids) for output in answer)
        except LogUnreadable:
            tokens = None
        return DeadTask(
            task_id=task_id,
            owner=Owner(owner),
            kind=record.decode_spec(spec).kind,
            died_at=float(died_ms) / 1000,
            tries=int(tries),
            tokens=tokens,
            model=model,
        )

    async def retry(self, task_id: TaskId, *, queue_tasks: int, owner_tasks: int) -> TaskId:
        """Accept the dead task's question anew, take the dead one off the list, and return the new task's id.

        The new task has the same spec and owner, and as much time and retention as the dead one had. Repeating it, also
        after a crash in between, gives the same new task.

        Args:
            queue_tasks, owner_tasks: the limits of the queue, as for every submit.

        Raises:
            UnknownTask: there is no such task, or it is not on the list.
            TaskForgotten: it was erased, or its retention ended.
            QueueFull, TooManyTasks: a limit is reached; it stays on the list.
            InvalidRequest: it was a transcription, whose audio is gone.
        """
        shard = self._shard(task_id)
        names = ("owner", "spec", "created_ms", "deadline_ms", "retention_ms")
        owner, spec, created_ms, deadline_ms, retention_ms = await self._store.command(
            "HMGET", shard.task(task_id), *names
        )
        if owner is None:
            raise await self._not_listed(shard, task_id)
        # No client can send a key with a space in it.
        key = f"retry {task_id}"
        asked = record.decode_spec(spec)
        if asked.recording is not None:
            raise InvalidRequest("The audio of a transcription is erased when it ends: send the file again.")
        if await self._store.command("ZSCORE", shard.dead, task_id) is None:
            if retried := await self._retried(Owner(owner), key):
                return retried
            raise await self._not_listed(shard, task_id)
        retried = await self._queue.submit(
            asked,
            owner=Owner(owner),
            limits=Limits(
                queue_tasks=queue_tasks,
                owner_tasks=owner_tasks,
                deadline_s=(int(deadline_ms) - int(created_ms)) / 1000,
                retention_s=int(retention_ms) / 1000,
            ),
            idempotency_key=key,
            request="retry",
        )
        theirs = self._shard(retried)
        await self._store.require_lasting(theirs, theirs.task(retried), theirs.gone(retried))
        await self._store.command("ZREM", shard.dead, task_id)
        return retried

    async def drop(self, task_id: TaskId) -> None:
        """Take a task off the list; the task itself stays until its retention ends.

        Raises:
            UnknownTask: there is no such task, or it is not on the list.
            TaskForgotten: it was erased, or its retention ended.
        """
        shard = self._shard(task_id)
        if await self._store.command("ZSCORE", shard.dead, task_id) is None:
            raise await self._not_listed(shard, task_id)
        await self._store.command("ZREM", shard.dead, task_id)

    def _shard(self, task_id: TaskId) -> Shard:
        return self._store.shards[keys.shard_of(task_id, len(self._store.shards))]

    async def _retried(self, owner: Owner, key: str) -> TaskId | None:
        """The task that an earlier retry accepted, if there was one."""
        shard = self._store.shards[keys.shard_of_idempotency_key(owner, key, len(self._store.shards))]
        known = cast(str | None, await self._store.command("GET", shard.idempotency(owner, key)))
        return None if known is None else TaskId(known.partition(" ")[0])

    async def _not_listed(self, shard: Shard, task_id: TaskId) -> UnknownTask | TaskForgotten:
        """Return the error for a task that is not on the list: is it anywhere, was it ever?"""
        state = await self._store.command("HGET", shard.task(task_id), "state")
        if state is None:
            return await missing(self._store, task_id)
        return UnknownTask(f"This task is not on the list of dead tasks; it is {state}.")
