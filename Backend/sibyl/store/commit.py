"""Group commit: what many answers have to append goes in one round trip; while that is under way the next one gathers.

Whoever appends is told its own outcome and never that of another. After a commit it is better to gather for a while,
the longer the more answers were in it: so the appends of a second are bounded however many answers there are, each
carries more, and a lone answer does not notice.

What cannot be written fails where it is appended, before it is anybody else's matter. An unexpected fault of a commit
is told to all in it, and the next one goes on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from redis.exceptions import RedisError

from sibyl.core.errors import SibylError, TextUnwritable, WriteFailed
from sibyl.core.event import Output
from sibyl.core.task import Lease
from sibyl.store.channel import Channel
from sibyl.store.connection import Store
from sibyl.store.keys import Shard, shard_of
from sibyl.store.log import Append, Outcome, append_all, outcomes_in
from sibyl.store.scripts import Script
from sibyl.wire import record

logger = logging.getLogger(__name__)

MOST_TASKS = 128  # in one round trip: Redis serves nobody else meanwhile, about 10 us each
REST_S = 0.003  # after a commit, for each append in it but the first
MOST_REST_S = 0.045

Told = Callable[[Outcome], None]
"""Is told what became of an append, on the event loop. Must not raise."""


class Commits:
    """The appends of one worker. To be used on one event loop."""

    def __init__(self, store: Store, *, lease_s: float) -> None:
        """Write to this store; each append makes its lease last for at least seven eighths of ``lease_s``."""
        self._pace = _Pace()
        self._shards = [_ShardCommits(store, shard, lease_s, self._pace) for shard in store.shards]

    def writer(self, lease: Lease) -> "LogWriter":
        """Return what writes to the log of a task that we hold."""
        return LogWriter(self._shards[shard_of(lease.task_id, len(self._shards))], lease)

    def rest_s(self) -> float:
        """Return for how many seconds it is better to gather than to append; none if it is not positive."""
        return self._pace.rest_s()

    async def close(self) -> None:
        """Stop committing. What is under way may or may not be written; nobody is told."""
        for shard in self._shards:
            await shard.close()


class LogWriter:
    """Appends to one log. What never changes is packed once."""

    def __init__(self, commits: "_ShardCommits", lease: Lease) -> None:
        self._commits = commits
        self._lease = lease
        self._keys = word(commits.shard.task(lease.task_id)) + word(commits.shard.log(lease.task_id))
        self._holder = word(lease.task_id) + word(lease.epoch) + word(lease.nonce)

    def append(self, first: int, outputs: Sequence[Output], *, progress: str = "", told: Told) -> None:
        """Have the next commit append ``outputs`` as number ``first`` and following; none renews the lease only.

        One at a time: the next only when ``told`` was called.

        Raises:
            TextUnwritable: an output is no Unicode. Nothing is appended, and ``told`` is not called.
        """
        words = [self._holder, word(progress), word(first), word(len(outputs)), *map(packed, outputs)]
        self._commits.add(_Pending(self._keys, words, Append(self._lease, first, outputs, progress), told))


class _Pending(NamedTuple):
    keys: bytes
    words: list[bytes]  #: the command's others
    append: Append
    told: Told


class _Pace:
    """When the next commit is welcome."""

    def __init__(self) -> None:
        self._welcome_at = 0.0

    def committed(self, appends: int) -> None:
        """A commit of so many has ended."""
        self._welcome_at = time.monotonic() + min(MOST_REST_S, REST_S * (appends - 1))

    def rest_s(self) -> float:
        return self._welcome_at - time.monotonic()


class _ShardCommits:
    """One commit at a time: by the channel, or, while there is none or it fails, by the ordinary way."""

    def __init__(self, store: Store, shard: Shard, lease_s: float, pace: _Pace) -> None:
        self.shard = shard
        self._store = store
        self._lease_s = lease_s
        self._pace = pace
        self._pending: list[_Pending] = []
        self._batch: list[_Pending] = []  # the commit under way
        self._busy = False
        self._channel: Channel | None = None
        self._slowly: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self._script = word("EVALSHA") + word(Script.APPEND.source.sha1)
        self._running = word(shard.running)
        self._lease_ms = word(round(lease_s * 1000))

    def add(self, pending: _Pending) -> None:
        """Commit it soon: what else comes until the loop's next turn goes with it."""
        self._pending.append(pending)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._begin)

    async def close(self) -> None:
        """End the commit under way."""
        self._closed = True
        for task in (self._slowly, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    def _begin(self) -> None:
        if self._closed:
            return
        batch, self._pending = self._pending[:MOST_TASKS], self._pending[MOST_TASKS:]
        self._batch = batch
        if self._channel is None or not self._channel.is_open:
            self._slow_down()
            return
        try:
            self._channel.ask(self._packed(batch), partial(self._answered, batch))
        except Exception as error:
            self._fault(error)

    def _answered(self, batch: Sequence[_Pending], reply: object) -> None:
        if self._closed or batch is not self._batch:  # it was told of a fault already
            return
        try:
            outcomes = outcomes_in(reply) if isinstance(reply, str) else []
        except Exception as error:
            self._fault(error)
            return
        if len(outcomes) == len(batch):
            self._end(outcomes)
        else:
            self._slow_down()

    def _slow_down(self) -> None:
        self._slowly = asyncio.create_task(self._commit_slowly(), name=f"commit-{self.shard.number}")

    async def _commit_slowly(self) -> None:
        appends = [pending.append for pending in self._batch]
        try:
            outcomes = await append_all(self._store, self.shard, appends, lease_s=self._lease_s)
        except SibylError as error:
            outcomes = [error] * len(appends)
        except Exception as error:
            self._fault(error)
            return
        else:
            if self._opening is None:  # beside the next commits: it must not hold them up
                self._opening = asyncio.create_task(self._open_channel(), name=f"channel-{self.shard.number}")
        self._slowly = None
        self._end(outcomes)

    async def _open_channel(self) -> None:
        try:
            server = await self._store.server_of(self.shard.running)
            self._channel = await server.open_channel()
        except (RedisError, OSError, SibylError):
            pass  # it goes on by the ordinary way, and this is tried again after the next commit
        except Exception:
            # Never tried again: the ordinary way does the same, and each commit would log it.
            logger.exception("Cannot open the fast way to Redis", extra={"action": "channel_fault"})
            return
        self._opening = None

    def _fault(self, error: Exception) -> None:
        """Have all in the commit under way fail, which may or may not be written, and go on."""
        facts = {"action": "commit_fault", "shard": self.shard.number, "appends": len(self._batch)}
        logger.error("A commit failed: %s", type(error).__name__, exc_info=error, extra=facts)
        self._slowly = None
        # On a later turn: were the fault to stay, one commit after another would go deeper into the stack.
        asyncio.get_running_loop().call_soon(self._end, [WriteFailed() for _ in self._batch])

    def _end(self, outcomes: Sequence[Outcome]) -> None:
        batch, self._batch = self._batch, []
        for pending, outcome in zip(batch, outcomes, strict=True):
            try:
                pending.told(outcome)
            except Exception:  # a fault of one of them is not the others'
                task_id = pending.append.lease.task_id
                logger.exception(
                    "An append's outcome was not taken", extra={"action": "told_fault", "task_id": task_id}
                )
        self._pace.committed(len(batch))
        if self._pending:
            self._begin()
        else:
            self._busy = False

    def _packed(self, batch: Sequence[_Pending]) -> bytes:
        """The same command as ``append_all`` sends, as bytes."""
        count = 4 + 2 * len(batch) + 1
        keys: list[bytes] = []
        rest: list[bytes] = []
        for task_keys, words, (_, _, outputs, _), _ in batch:
            count += 6 + 2 * len(outputs)
            keys.append(task_keys)
            rest += words
        head = b"*%d\r\n" % count, self._script, word(1 + 2 * len(batch)), self._running
        return b"".join((*head, *keys, self._lease_ms, *rest))


def packed(output: Output) -> bytes:
    """Return the two words of an output. Raises TextUnwritable when it is no Unicode."""
    text, token_ids = record.encode_output(output)
    try:
        data, more = text.encode(), token_ids.encode()
    except UnicodeEncodeError:
        raise TextUnwritable() from None  # that error quotes the text
    return b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(data), data, len(more), more)


def word(value: str | int) -> bytes:
    """Return a word of a command as Redis reads it."""
    data = str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
