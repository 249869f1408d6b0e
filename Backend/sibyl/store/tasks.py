"""Looking at tasks: one, or an owner's, as they stand now. Changes nothing."""

from sibyl.core.errors import TaskForgotten, UnknownTask
from sibyl.core.event import Completed, Failed
from sibyl.core.fold import Fold
from sibyl.core.state import State
from sibyl.core.task import FinishReason, Owner, Task, TaskError, TaskId
from sibyl.store import keys
from sibyl.store.connection import Store
from sibyl.store.keys import Shard
from sibyl.store.log import decoded
from sibyl.wire import record


class TaskViews:
    """Reads tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _shard(self, task_id: str) -> Shard:
        return self._store.shards[keys.shard_of(task_id, len(self._store.shards))]

    async def require_owner(self, task_id: TaskId, owner: Owner) -> None:
        """Raise UnknownTask or TaskForgotten unless this owner has such a task."""
        await require_owner(self._store, task_id, owner)

    async def task(self, task_id: TaskId, owner: Owner) -> Task:
        """Return the task as it stands.

        Raises:
            UnknownTask: there is none with this id, or it is another owner's.
            TaskForgotten: it was erased, or its retention ended.
            LogUnreadable: an entry of its log means nothing to this version.
        """
        shard = self._shard(task_id)

        fields, raw, rank = await self._store.batch(
            shard,
            [
                ["HGETALL", shard.task(task_id)],
                ["XRANGE", shard.log(task_id), "-", "+"],
                ["ZRANK", shard.waiting, task_id],
            ],
            atomic=True,
            lasting=True,
        )
        if not fields:
            raise await missing(self._store, task_id)
        if fields["owner"] != owner:
            raise UnknownTask()
        return _task(task_id, fields, Fold(decoded(raw)), rank)

    async def tasks(
        self, owner: Owner, *, limit: int, state: State | None = None, before: TaskId | None = None
    ) -> tuple[list[Task], TaskId | None]:
        """Return the owner's tasks, newest first, and the id to continue before, or None at the end.

        Raises:
            UnknownTask: there is no task ``before`` of this owner.
        """
        place = None if before is None else await self._place(before, owner)
        found: list[Task] = []
        while True:
            page = await self._page(owner, place, limit + 1)
            for place in page:
                try:
                    task = await self.task(place[1], owner)
                except (UnknownTask, TaskForgotten):
                    await self._store.command("ZREM", self._shard(place[1]).mine(owner), place[1])
                    continue
                if state in (None, task.state):
                    if len(found) == limit:
                        return found, found[-1].task_id
                    found.append(task)
            if len(page) <= limit:
                return found, None

    async def _place(self, task_id: TaskId, owner: Owner) -> tuple[float, TaskId]:
        shard = self._shard(task_id)
        score = await self._store.command("ZSCORE", shard.mine(owner), task_id)
        if score is None:
            raise UnknownTask()
        return float(score), task_id

    async def _page(self, owner: Owner, place: tuple[float, TaskId] | None, count: int) -> list[tuple[float, TaskId]]:
        """The next tasks in the order (creation time, id), newest first, over all shards."""
        highest: str | float = "+inf" if place is None else place[0]
        found: list[tuple[float, TaskId]] = []
        for shard in self._store.shards:
            # Tasks of the same millisecond as `place` may lie before it: ask for as many more as there are.
            mine = shard.mine(owner)
            ties = 0 if place is None else await self._store.command("ZCOUNT", mine, highest, highest)
            raw = await self._store.command(
                "ZREVRANGEBYSCORE", mine, highest, "-inf", "WITHSCORES", "LIMIT", 0, count + ties
            )
            found += [(float(score), TaskId(task_id)) for task_id, score in zip(raw[::2], raw[1::2], strict=True)]
        return sorted((entry for entry in found if place is None or entry < place), reverse=True)[:count]

    async def waiting_tasks(self) -> int:
        """Return how many tasks wait."""
        return sum([int(await self._store.command("ZCARD", shard.waiting)) for shard in self._store.shards])

    async def running_tasks(self) -> int:
        """Return how many tasks run."""
        return sum([int(await self._store.command("ZCARD", shard.running)) for shard in self._store.shards])


async def require_owner(store: Store, task_id: TaskId, owner: Owner) -> None:
    """Raise UnknownTask or TaskForgotten unless this owner has such a task."""
    shard = store.shards[keys.shard_of(task_id, len(store.shards))]
    found = await store.command("HGET", shard.task(task_id), "owner")
    if found is None:
        raise await missing(store, task_id)
    if found != owner:
        raise UnknownTask()


async def missing(store: Store, task_id: TaskId) -> UnknownTask | TaskForgotten:
    """Return the error for a task that is not there: was it ever?"""
    shard = store.shards[keys.shard_of(task_id, len(store.shards))]
    return TaskForgotten() if await store.command("EXISTS", shard.gone(task_id)) else UnknownTask()


def _task(task_id: TaskId, fields: dict[str, str], fold: Fold, rank: int | None) -> Task:
    state = State(fields["state"])
    end = fold.entries[-1].event if fold.entries and fold.terminal else None
    created_at = int(fields["created_ms"]) / 1000
    finished_at = _seconds(fields.get("finished_ms"))
    retention_s = int(fields["retention_ms"]) / 1000
    finish_reason: FinishReason | None = None
    if isinstance(end, Completed):
        finish_reason = end.finish_reason
    elif end is not None:
        finish_reason = "cancelled" if state is State.CANCELLED else "error"
    answer = fold.answer()
    return Task(
        task_id=task_id,
        owner=Owner(fields["owner"]),
        spec=record.decode_spec(fields["spec"]),
        state=state,
        position=rank if state is State.QUEUED else None,
        attempt=int(fields["attempt"]),
        model=fields.get("model"),
        text="".join(output.text for output in answer),
        logprobs=tuple(token for output in answer for token in output.logprobs),
        segments=tuple(segment for output in answer for segment in output.segments),
        audio_s=end.audio_s if isinstance(end, Completed) else None,
        cursor=fold.last if fold.entries else None,
        finish_reason=finish_reason,
        usage=end.usage if isinstance(end, Completed) else None,
        error=TaskError(code=end.code, message=end.message) if isinstance(end, Failed) else None,
        created_at=created_at,
        started_at=_seconds(fields.get("started_ms")),
        finished_at=finished_at,
        expires_at=(finished_at or int(fields["deadline_ms"]) / 1000) + retention_s,
    )


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000
