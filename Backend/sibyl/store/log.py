"""The log of an answer: append with a lease, read from a cursor. What is appended is durable before it can be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import InvalidCursor, LeaseLost, LogUnreadable
from sibyl.core.event import Entry, Output
from sibyl.core.task import Lease, TaskId
from sibyl.store.connection import Store
from sibyl.store.keys import shard_of
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
    """The outputs are in the log, and the lease is renewed."""

    stored: int  #: outputs that the log holds now
    cancel: bool  #: whether the client asked to stop


@dataclass(frozen=True, slots=True)
class Gap:
    """Redis lost its newest writes: it holds only ``stored`` outputs. Append again from there."""

    stored: int


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
        pairs = [value for output in outputs for value in record.encode_output(output)]
        reply = await self._store.run(
            Script.APPEND,
            [shard.task(lease.task_id), shard.log(lease.task_id), shard.running],
            *(lease.task_id, lease.epoch, lease.nonce, round(lease_s * 1000), progress, first),
            *pairs,
        )
        match reply:
            case ["ok", stored, cancel]:
                return Appended(int(stored), cancel == "1")
            case ["gap", stored]:
                return Gap(int(stored))
            case _:
                raise LeaseLost()

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
