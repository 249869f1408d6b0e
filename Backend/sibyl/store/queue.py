"""The queue of tasks: submit, claim, settle, release, cancel, erase, reap.

Every change is one script, atomic and safe to repeat. The lease is timed by Redis' clock alone.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sibyl.core.errors import (
    IdempotencyMismatch,
    LeaseLost,
    QueueFull,
    StoreUnavailable,
    TooManyTasks,
)
from sibyl.core.event import Terminal
from sibyl.core.state import State
from sibyl.core.task import Lease, Owner, TaskId, TaskSpec
from sibyl.store import keys
from sibyl.store.audio import AudioGone
from sibyl.store.connection import Store
from sibyl.store.keys import Shard
from sibyl.store.scripts import Script
from sibyl.store.tasks import missing, require_owner
from sibyl.wire import record

T = TypeVar("T")

_SPARE_CANDIDATES = 7  # looked at on each shard beside those wanted; several workers may run for the same ones
AUDIO_BYTES = 512 * 1024 * 1024  # a file takes that much memory of Redis until its task ends
_REAP_CANDIDATES = 100  # of each kind, on each shard, at a time
_ENDS = {
    "Completed": State.COMPLETED,
    "Failed": State.FAILED,
    "Cancelled": State.CANCELLED,
    "Expired": State.EXPIRED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the queue takes, and for how long.

    The two numbers are kept exactly on one shard. With several, submits at the same moment do not see each other, so
    there may be as many tasks more as submits were under way.
    """

    queue_tasks: int  #: waiting
    owner_tasks: int  #: unfinished, of one owner
    deadline_s: float
    retention_s: float
    audio_bytes: int = AUDIO_BYTES  #: of unfinished transcriptions on one shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A task that is ours for now."""

    lease: Lease
    spec: TaskSpec
    attempt: int
    stored: int  #: outputs of earlier attempts
    remaining_s: float  #: until the task's deadline


class TaskQueue:
    """All tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _shard(self, task_id: str) -> Shard:
        return self._store.shards[keys.shard_of(task_id, len(self._store.shards))]

    # ---- the client's side

    async def submit(
        self,
        spec: TaskSpec,
        *,
        owner: Owner,
        limits: Limits,
        idempotency_key: str | None = None,
        request: str = "",
        task_id: TaskId | None = None,
    ) -> TaskId:
        """Accept a task and return its id; after that it survives the death of any process.

        The audio of a transcription has to be stored under ``task_id`` before (``AudioFiles.put``). When the id that is
        returned is another one, the key was used before, and that audio is of no use.

        Args:
            idempotency_key: the caller's name for this submit; the same key gives the same task again.
            request: a digest of what was asked, compared when the key was used before.
            task_id: from ``new_id``, for who wants to know it before; with a key, made for that key.

        Raises:
            IdempotencyMismatch: the key was used with another request.
            QueueFull, TooManyTasks: a limit is reached; nothing was accepted.
            AudioGone: a transcription's audio is not stored.
            StoreUnavailable: it may have been accepted; repeat it with an idempotency key.
        """
        if task_id is None:
            task_id = self.new_id(owner, idempotency_key)
        shard = self._shard(task_id)
        idem = shard.task(task_id) if idempotency_key is None else shard.idempotency(owner, idempotency_key)
        most_waiting, most_open = await self._left_for(shard, owner, limits)
        reply = await self._store.run(
            Script.SUBMIT,
            [*shard.whole(task_id), shard.mine(owner), idem],
            *(task_id, owner, spec.priority, record.encode_spec(spec)),
            *(round(limits.deadline_s * 1000), round(limits.retention_s * 1000)),
            *(most_waiting, most_open, "0" if idempotency_key is None else "1", request),
            *(0 if spec.recording is None else spec.recording.audio_bytes, limits.audio_bytes),
        )
        match reply:
            case ["ok", known_id]:
                known = TaskId(known_id)
                await self._store.require_lasting(shard, shard.task(known), shard.gone(known))
                return known
            case ["mismatch"]:
                raise IdempotencyMismatch()
            case ["queue_full"]:
                raise QueueFull()
            case ["audio_full"]:
                raise QueueFull("Too much audio waits to be transcribed. Try again later.")
            case ["audio_gone"]:
                raise AudioGone()
            case _:
                raise TooManyTasks()

    def new_id(self, owner: Owner, idempotency_key: str | None = None) -> TaskId:
        """Return the id for a new task."""
        shards = len(self._store.shards)
        number = (
            secrets.randbelow(shards)
            if idempotency_key is None
            else keys.shard_of_idempotency_key(owner, idempotency_key, shards)
        )
        return keys.task_id(number, secrets.token_hex(16))

    async def _left_for(self, shard: Shard, owner: Owner, limits: Limits) -> tuple[int, int]:
        """What the tasks on other shards leave of the limits. A script sees the keys of its own shard only."""

        async def count(other: Shard) -> tuple[int, int]:
            waiting = await self._store.command("ZCARD", other.waiting)
            return int(waiting), int(await self._store.command("HGET", other.open, owner) or 0)

        # A shard that is out of reach counts as empty: it does not keep the others from accepting.
        counts, _ = await _reachable([count(other) for other in self._store.shards if other is not shard])
        waiting, unfinished = (sum(numbers) for numbers in zip((0, 0), *counts, strict=True))
        return limits.queue_tasks - waiting, limits.owner_tasks - unfinished

    async def request_cancel(self, task_id: TaskId, owner: Owner) -> State:
        """Ask the task to stop and return its state now: terminal, unless a worker has still to hear of it.

        Raises:
            UnknownTask, TaskForgotten: there is no such task of this owner, or no more.
        """
        await require_owner(self._store, task_id, owner)
        shard = self._shard(task_id)
        match await self._store.run(Script.CANCEL, shard.whole(task_id), task_id):
            case ["ok", state]:
                return State(state)
            case _:
                raise await missing(self._store, task_id)

    async def erase(self, task_id: TaskId, owner: Owner) -> None:
        """Erase prompt, answer and log; a worker that runs the task stops.

        Raises:
            UnknownTask, TaskForgotten: there is no such task of this owner, or no more.
        """
        await require_owner(self._store, task_id, owner)
        shard = self._shard(task_id)
        # "gone" is fine as well: the reply was lost and the script repeated, or somebody else erased it just now.
        await self._store.run(Script.ERASE, [*shard.whole(task_id), shard.mine(owner)], task_id)

    # ---- the worker's side

    async def claim(self, *, nonce: str, model: str, lease_s: float, max_attempts: int, floor: int) -> Claim | None:
        """Take the next task, or return None when there is nothing to do. As ``claim_some``, for one."""
        claims = await self.claim_some([nonce], model=model, lease_s=lease_s, max_attempts=max_attempts, floor=floor)
        return claims[0] if claims else None

    async def claim_some(
        self,
        nonces: Sequence[str],
        *,
        model: str,
        lease_s: float,
        max_attempts: int,
        floor: int,
        rung: TaskId | None = None,
        abandoned: bool = True,
    ) -> list[Claim]:
        """Take the next tasks, abandoned ones first, as many as there are nonces, or fewer if there is no more to do.

        Args:
            nonces: each unique to this call.
            floor: the highest epoch that this worker ever saw.
            abandoned: also those whose lease ran out.
            rung: for who knows that nothing else waits: this task alone, without a look, unless it cannot be had.
        """
        left, claims, failures = list(nonces), list[Claim](), list[StoreUnavailable]()
        tried: set[TaskId] = set()

        async def take(task_ids: Sequence[TaskId]) -> None:
            """Try these, in one round trip. A failure must not cost the claims that went well."""
            tried.update(task_ids)
            pairs = list(zip(task_ids, left, strict=False))
            runs = (
                self._store.run(
                    Script.CLAIM,
                    self._shard(task_id).whole(task_id),
                    *(task_id, nonce, round(lease_s * 1000), max_attempts, floor, model),
                )
                for task_id, nonce in pairs
            )
            for (task_id, nonce), reply in zip(pairs, await asyncio.gather(*runs, return_exceptions=True), strict=True):
                if isinstance(reply, StoreUnavailable):
                    failures.append(reply)
                elif isinstance(reply, BaseException):
                    raise reply
                elif reply[0] == "ok":
                    claims.append(_claim(task_id, nonce, reply))
                    left.remove(nonce)

        if rung is not None:
            await take([rung])
            if not left or claims:
                return claims
        # Those that could not be had have ended or are another worker's, so the next look shows what is behind.
        while left and not failures:
            candidates = [task_id for task_id in await self._claimable(len(left), abandoned) if task_id not in tried]
            if not candidates:
                break
            while left and candidates and not failures:
                part, candidates = candidates[: len(left)], candidates[len(left) :]
                await take(part)
        if failures and not claims:
            raise failures[0]
        return claims

    async def settle(self, lease: Lease, stored: int, end: Terminal) -> int | None:
        """End the task with ``end`` after ``stored`` outputs. Repeating it changes nothing.

        Returns None when it is done, or, when Redis lost its newest writes, how many outputs it holds: append the
        others and settle again.

        Raises:
            LeaseLost: another worker owns the task, or it is over in another way or erased.
        """
        shard = self._shard(lease.task_id)
        state = _ENDS[type(end).__name__]
        fields = record.encode_event(replace(end, kept=stored))  # else the fold would void what was appended
        flat = [value for pair in fields.items() for value in pair]
        reply = await self._store.run(
            Script.SETTLE,
            shard.whole(lease.task_id),
            *(lease.task_id, lease.epoch, lease.nonce, state.value, stored, *flat),
        )
        match reply:
            case ["ok"]:
                return None
            case ["gap", held]:
                return int(held)
            case _:
                raise LeaseLost()

    async def release(self, lease: Lease, *, delay_s: float = 0.0, unharmed: bool = False) -> bool:
        """Give the task back, for another worker to go on after ``delay_s``; False if it was not ours any more.

        Repeating it changes nothing.

        Args:
            unharmed: this attempt does not count as a failed one.
        """
        return await self._release(lease.task_id, lease.nonce, delay_s, unharmed)

    async def release_all_of(self, worker: str) -> int:
        """Give back every task that the worker of this name holds, which must be dead; return how many.

        For the successor of a worker, so that its tasks need not wait for their leases to run out.
        """
        released = 0
        for shard in self._store.shards:
            for task_id in await self._store.command("ZRANGE", shard.running, 0, -1):
                nonce = await self._store.command("HGET", shard.task(task_id), "nonce")
                if nonce is not None and nonce.startswith(f"{worker}:"):
                    released += await self._release(TaskId(task_id), nonce, 0.0, False)
        return released

    async def _release(self, task_id: TaskId, nonce: str, delay_s: float, unharmed: bool) -> bool:
        reply: list[str] = await self._store.run(
            Script.RELEASE,
            self._shard(task_id).whole(task_id),
            *(task_id, nonce, round(delay_s * 1000), "1" if unharmed else "0"),
        )
        return reply == ["ok"]

    async def reap(self) -> int:
        """End tasks that no worker holds and that are cancelled or past their deadline; return how many."""
        looks, failure = await _reachable([self._due(shard, _REAP_CANDIDATES) for shard in self._store.shards])
        ended = 0
        for due in looks:
            for task_id in {*due.abandoned, *due.overdue}:
                reply = await self._store.run(Script.REAP, self._shard(task_id).whole(task_id), task_id)
                ended += reply[0] == "ended"
        if failure is not None:
            raise failure
        return ended

    async def _claimable(self, most: int, abandoned: bool) -> Sequence[TaskId]:
        """What may be claimed, best first: the abandoned, then by priority, then by the place in the shard's queue."""
        looks, failure = await _reachable([self._due(shard, most + _SPARE_CANDIDATES) for shard in self._store.shards])
        if failure is not None and not any(due.abandoned or due.waiting for due in looks):
            raise failure
        secrets.SystemRandom().shuffle(looks)  # so that among equals no shard is preferred
        waiting = [(band, place, task_id) for due in looks for place, (task_id, band) in enumerate(due.waiting)]
        waiting.sort(key=lambda found: found[:2])
        return [
            *(task_id for due in looks for task_id in due.abandoned if abandoned),
            *(task_id for _, _, task_id in waiting),
        ]

    async def _due(self, shard: Shard, most: int) -> "_Due":
        abandoned, waiting, overdue = await self._store.run(
            Script.DUE, [shard.waiting, shard.running, shard.deadlines], most
        )
        bands = [int(band) for band in waiting[1::2]]
        return _Due(abandoned, list(zip(waiting[::2], bands, strict=True)), overdue)


def _claim(task_id: TaskId, nonce: str, reply: Sequence[str]) -> Claim:
    _, epoch, stored, attempt, remaining_ms, spec = reply
    return Claim(
        lease=Lease(task_id=task_id, epoch=int(epoch), nonce=nonce),
        spec=record.decode_spec(spec),
        attempt=int(attempt),
        stored=int(stored),
        remaining_s=int(remaining_ms) / 1000,
    )


@dataclass(frozen=True, slots=True)
class _Due:
    """What one look at a shard finds."""

    abandoned: Sequence[TaskId]
    waiting: Sequence[tuple[TaskId, int]]  #: next first, each with its band: 0 is the highest priority
    overdue: Sequence[TaskId]


async def _reachable(asked: Sequence[Coroutine[Any, Any, T]]) -> tuple[list[T], StoreUnavailable | None]:
    """Ask all shards at once; return what those within reach say, and what one said that was not."""
    results = await asyncio.gather(*asked, return_exceptions=True)
    away = [result for result in results if isinstance(result, StoreUnavailable)]
    said: list[T] = []
    for result in results:
        if isinstance(result, StoreUnavailable):
            continue
        if isinstance(result, BaseException):
            raise result
        said.append(result)
    return said, away[0] if away else None
