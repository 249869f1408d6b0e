"""The tail of the logs that somebody follows: one blocking connection per process and shard, many followers.

Each followed task has one ``Feed``: its log, folded, grown by the tail and shared by all followers of the task. A
follower is only a position in the feed's entries, so a slow one costs nothing and delays nobody. Those who join in the
same moment share one load of the log and one ring.

The tail reads all followed logs with one XREAD. When a task joins, an entry in the tail's own doorbell stream makes the
blocked read return and start anew with the new log among its keys. After a short pause for more to gather, it reads
again: with many logs a pause saves the server work, with few there is none.

A log that this process cannot read, such as one of a newer version, ends its own feed and no other.

What Redis took back (power loss, failover) shows in three ways, and each leads to reading the whole log anew: an entry
that cannot follow the last one, a reconnect, and a second of silence after which the last entry is no longer there.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import cast

from sibyl.core.errors import LogUnreadable, SibylError
from sibyl.core.policy import backoff_s
from sibyl.core.task import TaskId
from sibyl.store.connection import Store
from sibyl.store.feed import Feed
from sibyl.store.history import History, Stored
from sibyl.store.keys import Shard, shard_of
from sibyl.store.log import RawEntries, decoded
from sibyl.store.rounds import Rounds

logger = logging.getLogger(__name__)

READ_COUNT = 1024  # most entries of one log taken in one read
GATHER_MOST_S = 0.02
_GATHER_PER_LOG_S = 0.0002
_CHECK_S = 1.0  # pause between looks at feeds that are silent
_TICKS = 4  # looks in that time at feeds whose prompt is being evaluated, where there is progress to see
_CHECKED_AT_ONCE = 256
_DOORBELL_TTL_S = 3600


class Tail:
    """Feeds of all tasks that somebody in this process follows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feeds: dict[TaskId, Feed] = {}
        self._loads: dict[Feed, Rounds] = {}
        self._rings = {shard: Rounds(partial(self._ring, shard)) for shard in store.shards}
        self._name = secrets.token_hex(8)

    @property
    def followed(self) -> int:
        """Tasks that somebody follows."""
        return len(self._feeds)

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._feeds

    @contextmanager
    def feed(self, task_id: TaskId) -> Iterator[Feed]:
        """Give the task's feed while the block runs. It is empty until ``load``."""
        feed = self.join(task_id)
        try:
            yield feed
        finally:
            self.leave(feed)

    def join(self, task_id: TaskId) -> Feed:
        """Return the task's feed, which stays until all who joined have left."""
        feed = self._feeds.get(task_id)
        if feed is None:
            feed = self._feeds[task_id] = Feed(task_id)
            self._loads[feed] = Rounds(partial(self._load, feed))
        feed.followers += 1
        return feed

    def leave(self, feed: Feed) -> None:
        """Follow it no more."""
        feed.followers -= 1
        if feed.followers == 0:
            del self._feeds[feed.task_id], self._loads[feed]

    async def load(self, feed: Feed) -> None:
        """Have the feed hold all that is in the log now, and the tail watch it.

        Raises:
            StoreUnavailable: Redis is out of reach.
            LogUnreadable: an entry of the log means nothing to this version.
        """
        await self._loads[feed].take_part()
        if feed.unreadable is not None:
            raise feed.unreadable

    async def _load(self, feed: Feed) -> None:
        if feed.ended:
            return
        if feed.fold.entries:
            # Another follower loaded it. It may be behind the log, and so behind what this one saw elsewhere.
            await self._deliver(feed, await self._range(feed, f"({feed.fold.last}"))
        else:
            await self._reread(feed)
            if not feed.ended:
                await self._rings[self._shard(feed.task_id)].take_part()

    async def run(self) -> None:
        """Tail until cancelled."""
        async with asyncio.TaskGroup() as group:
            for shard in self._store.shards:
                group.create_task(self._tail(shard), name=f"tail-{shard.number}")
            group.create_task(self._check_silent(), name="tail-check")

    def _shard(self, task_id: TaskId) -> Shard:
        return self._store.shards[shard_of(task_id, len(self._store.shards))]

    async def _ring(self, shard: Shard) -> None:
        key = shard.tail(self._name)
        look: list[list[str | int | float]] = [["XADD", key, "MAXLEN", "~", 16, "*", "look", ""]]
        await self._store.batch(shard, [*look, ["EXPIRE", key, _DOORBELL_TTL_S]])  # twice is as good as once

    async def _tail(self, shard: Shard) -> None:
        doorbell, heard = shard.tail(self._name), "0-0"
        failures = 0
        while True:
            feeds = {
                shard.log(task_id): feed
                for task_id, feed in self._feeds.items()
                if feed.fold.entries and not feed.ended and self._shard(task_id) is shard
            }
            try:
                if failures:
                    await self._reread_all(shard, list(feeds.values()))
                streams = {doorbell: heard} | {key: str(feed.fold.last) for key, feed in feeds.items()}
                reply = await self._store.wait_for_entries(streams, count=READ_COUNT, lasting=shard)
                failures = 0
                for key, raw in reply:
                    if key == doorbell:
                        heard = raw[-1][0]
                    else:
                        await self._deliver(feeds[key], raw)
            except SibylError as error:
                failures += 1
                self._log_failure(failures, error)
                await asyncio.sleep(backoff_s(failures))
                continue
            await asyncio.sleep(min(GATHER_MOST_S, len(feeds) * _GATHER_PER_LOG_S))

    def _log_failure(self, failures: int, error: Exception) -> None:
        level = logging.WARNING if failures in (1, 10) else logging.DEBUG
        logger.log(level, "Cannot read the logs: %s", type(error).__name__, extra={"action": "tail_failed"})

    async def _deliver(self, feed: Feed, raw: RawEntries) -> None:
        with self._readable(feed):
            for entry in decoded(raw):
                if not feed.take(entry):
                    logger.info("A log was taken back", extra={"action": "refold", "task_id": feed.task_id})
                    await self._reread(feed)
                    return
        if raw:  # and not when somebody joined a feed that has all there is: the others would look for nothing
            feed.notify()

    async def _reread_all(self, shard: Shard, feeds: list[Feed]) -> None:
        await self._store.batch(shard, [], lasting=True)  # one looks for all, before hundreds ask at once
        for outcome in await asyncio.gather(*map(self._reread, feeds), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _reread(self, feed: Feed) -> None:
        while True:
            fold, last = feed.fold, feed.fold.last
            raw = await self._whole(feed)
            if feed.fold is fold and fold.last == last:
                break  # else the feed has moved on meanwhile, and this copy of the log may be older than the feed
        if not raw:
            feed.forgotten = True
        else:
            with self._readable(feed):
                feed.fold = History(raw)
                feed.position = feed.progress = None  # of another state of things
        await self._look([feed])
        feed.notify()

    @contextmanager
    def _readable(self, feed: Feed) -> Iterator[None]:
        """Have the feed end if its log holds what we cannot read; those who follow it are cut off."""
        try:
            yield
        except LogUnreadable as error:
            feed.unreadable = error
            logger.error("A log cannot be read", extra={"action": "log_unreadable", "task_id": feed.task_id})

    async def _range(self, feed: Feed, start: str) -> RawEntries:
        shard = self._shard(feed.task_id)
        (raw,) = await self._store.batch(shard, [["XRANGE", shard.log(feed.task_id), start, "+"]], lasting=True)
        return cast(RawEntries, raw)

    async def _whole(self, feed: Feed) -> list[Stored]:
        shard = self._shard(feed.task_id)
        read = [["XRANGE", shard.log(feed.task_id), "-", "+"]]
        (raw,) = await self._store.batch(shard, read, lasting=True, parsed=False)
        return cast("list[Stored]", raw)

    async def _check_silent(self) -> None:
        for tick in count(1):
            await asyncio.sleep(_CHECK_S / _TICKS)
            waiting = [feed for feed in self._feeds.values() if feed.fold.entries and not feed.ended]
            if tick % _TICKS:
                silent = [feed for feed in waiting if feed.reads_prompt]
            else:
                silent = [feed for feed in waiting if feed.silent or feed.reads_prompt]
                for feed in waiting:
                    feed.silent = True
            for start in range(0, len(silent), _CHECKED_AT_ONCE):
                try:
                    await self._look(silent[start : start + _CHECKED_AT_ONCE])
                except SibylError as error:
                    self._log_failure(1, error)

    async def _look(self, feeds: list[Feed]) -> None:
        """Fetch queue positions and progress; read anew the logs whose last entry has vanished."""
        by_shard: dict[Shard, list[tuple[Feed, str]]] = {}
        for feed in feeds:
            if not feed.ended:
                by_shard.setdefault(self._shard(feed.task_id), []).append((feed, str(feed.fold.last)))
        for shard, looked_at in by_shard.items():
            await self._look_at(shard, looked_at)

    async def _look_at(self, shard: Shard, looked_at: list[tuple[Feed, str]]) -> None:
        commands: list[list[str | int | float]] = []
        for feed, last in looked_at:
            commands += [
                ["XRANGE", shard.log(feed.task_id), last, last],
                ["ZRANK", shard.waiting, feed.task_id],
                ["HGET", shard.task(feed.task_id), "progress"],
            ]
        replies = await self._store.batch(shard, commands)
        for (feed, last), present, rank, progress in zip(
            looked_at, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            if feed.ended or str(feed.fold.last) != last:
                continue  # something came meanwhile, so what was fetched is old
            if not present:
                await self._reread(feed)
                continue
            before = feed.position, feed.progress
            feed.position = rank
            done, _, of = progress.partition(" ") if progress and feed.reads_prompt else ("", "", "")
            feed.progress = (int(done), int(of)) if of else None
            if before != (feed.position, feed.progress):
                feed.notify()
