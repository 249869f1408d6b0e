"""The log of an answer: append with a lease, read from a cursor. What is appended is durable before it can be read."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import InvalidCursor, LeaseLost, LogUnreadable, SibylError
from sibyl.core.event import Entry, Output
from sibyl.core.task import Lease, TaskId
from sibyl.store.connection import Store, Word
from sibyl.store.keys import Shard, shard_of
from sibyl.store.scripts import Script
from sibyl.wire import record

RawEntries = Sequence[tuple[str, Mapping[str, str]]]
"""Entries as XRANGE gives them: stream id and fields."""


def decoded(raw: RawEntries) -> list[Entry]:
    """Return the entries. Raises LogUnreadable when one means nothing to this version."""
    try:
        return [record.decode_entry(stream_id, fields) for stream_id, fields in raw]
    except (ValueError, InvalidCursor):
        raise LogUnreadable() from None


@dataclass(frozen=True, slots=True)
class Appended:
    """The outputs are in the log, and the lease lasts."""

    stored: int  #: outputs that the log holds now
    cancel: bool  #: whether the client asked to stop


@dataclass(frozen=True, slots=True)
class Gap:
    """Redis lost its newest writes: it holds only ``stored`` outputs. Append again from there."""

    stored: int


class Append(NamedTuple):
    """Outputs number ``first`` and following of an answer, on their way to the log; none renews the lease only."""

    lease: Lease
    first: int
    outputs: Sequence[Output]
    progress: str = ""  #: "<prompt tokens evaluated> <prompt tokens>", for those who wait for the first token


Outcome = Appended | Gap | SibylError
"""What became of an append. LeaseLost: another worker owns the task, or it is over or erased."""


async def append_all(store: Store, shard: Shard, appends: Sequence[Append], *, lease_s: float) -> list[Outcome]:
    """Write appends to tasks of one shard, each atomic, in one round trip; return each one's outcome.

    Returns only after they are in the log. Repeating it changes nothing.

    Raises:
        StoreUnavailable: Redis is out of reach; it may have been done.
    """
    log_keys = [shard.running]
    words: list[Word] = [round(lease_s * 1000)]
    for lease, first, outputs, progress in appends:
        log_keys += (shard.task(lease.task_id), shard.log(lease.task_id))
        words += (lease.task_id, lease.epoch, lease.nonce, progress, first, len(outputs))
        words += (value for output in outputs for value in record.encode_output(output))
    outcomes = outcomes_in(str(await store.run(Script.APPEND, log_keys, *words)))
    if outcomes:
        return outcomes
    # A write failed and kept no other from its own; alone it says why.
    return await asyncio.gather(*(_alone(store, shard, append, lease_s) for append in appends))


async def _alone(store: Store, shard: Shard, append: Append, lease_s: float) -> Outcome:
    try:
        (outcome,) = await append_all(store, shard, [append], lease_s=lease_s)
    except SibylError as error:
        return error
    return outcome


def outcomes_in(reply: str) -> list[Outcome]:
    """Return what lua/append.lua says of each append; nothing if one of them met an error."""
    outcomes: list[Outcome] = []
    for line in reply.split("\n"):
        said, _, rest = line.partition(" ")
        if said == "ok":
            outcomes.append(Appended(int(rest), cancel=False))
        elif said == "cancel":
            outcomes.append(Appended(int(rest), cancel=True))
        elif said == "gap":
            outcomes.append(Gap(int(rest)))
        elif said == "fenced":
            outcomes.append(LeaseLost())
        else:
            return []
    return outcomes


class EventLog:
    """The logs of all tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(
        self, lease: Lease, first: int, outputs: Sequence[Output], *, lease_s: float, progress: str = ""
    ) -> Appended | Gap:
        """Append ``outputs`` as number ``first`` and following of the answer; none renews the lease only.

        Returns only after they are in the log. Repeating it changes nothing.

        Raises:
            LeaseLost: another worker owns the task, or it is over or erased.
            StoreUnavailable: Redis is out of reach; it may have been done.
        """
        shard = self._store.shards[shard_of(lease.task_id, len(self._store.shards))]
        (outcome,) = await append_all(self._store, shard, [Append(lease, first, outputs, progress)], lease_s=lease_s)
        if isinstance(outcome, SibylError):
            raise outcome
        return outcome

    async def read(self, task_id: TaskId, after: Cursor = START) -> list[Entry]:
        """Return the entries after a cursor, all that there are; none for an unknown task.

        Raises:
            StoreUnavailable: Redis is out of reach.
            LogUnreadable: an entry means nothing to this version.
        """
        shard = self._store.shards[shard_of(task_id, len(self._store.shards))]
        start = "-" if after == START else f"({after}"
        raw = await self._store.command("XRANGE", shard.log(task_id), start, "+")
        return decoded(raw)
