"""The workers' doorbell: one blocked connection per shard that says "there may be work" and "cancel this one".

A ring is a hint and carries no promise: whoever waits for it looks by itself twice a second as well. A read that does
not return in time gives up its connection, and the next one gets another.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable

from sibyl.core.errors import SibylError, StoreUnavailable
from sibyl.core.policy import backoff_s
from sibyl.core.task import TaskId
from sibyl.store.connection import Store, StreamEntries
from sibyl.store.keys import Shard

logger = logging.getLogger(__name__)

READ_COUNT = 256  # most rings taken in one read
READ_S = 2.0  # a read that takes so much longer than it may wait is stuck
LOOK_MS = 500  # a lease may have run out, which rings no bell: so long it may take until somebody sees that
_PROOF_MS = 1  # the first read on a connection waits for nothing: it shows that the next one will return


class Doorbell:
    """Listens for rings on every shard."""

    def __init__(
        self,
        store: Store,
        *,
        on_work: Callable[[], None],
        on_cancel: Callable[[TaskId], None],
        on_count: Callable[[str], None],
    ) -> None:
        """Call ``on_work`` when there may be work, at least twice a second, ``on_cancel`` for a task to stop, and
        ``on_count`` when somebody asks for the length of a prompt (see ``counting``)."""
        self._store = store
        self._on_work = on_work
        self._on_cancel = on_cancel
        self._on_count = on_count
        self._reads = {shard.number: 0 for shard in store.shards}
        self._read_at = {shard.number: -math.inf for shard in store.shards}
        self.heard = asyncio.Event()  #: set once a read has returned on every shard
        self._back_at = -math.inf
        self._rung: deque[TaskId] = deque(maxlen=2)  # tasks that rang since somebody asked

    @property
    def reads(self) -> tuple[int, ...]:
        """How many reads have returned, shard by shard."""
        return tuple(self._reads.values())

    @property
    def silent_s(self) -> float:
        """How long no read has returned, on the shard where that is longest; infinite before the first."""
        return time.monotonic() - min(self._read_at.values())

    @property
    def back_s(self) -> float:
        """How long ago Redis was out of reach; infinite if it never was."""
        return time.monotonic() - self._back_at

    def rung(self) -> TaskId | None:
        """Return the task that rang since this was asked last, if it was one alone."""
        rung = tuple(self._rung)
        self._rung.clear()
        return rung[0] if len(rung) == 1 else None

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            for shard in self._store.shards:
                group.create_task(self._listen(shard), name=f"doorbell-{shard.number}")

    async def _listen(self, shard: Shard) -> None:
        heard: str | None = None
        failures, proof = 0, False  # proof: the last read was one, and brought nothing to look for
        while True:
            try:
                fresh = heard is None
                if heard is None:
                    newest = await self._store.command("XREVRANGE", shard.bell, "+", "-", "COUNT", 1)
                    heard = str(newest[0][0]) if newest else "0-0"
                if failures:
                    self._back_at = time.monotonic()
                if not proof:
                    self._on_work()
                # An explicit id, never "$": what rings between two reads is heard by the second.
                reply = await self._read(shard, heard, block_ms=_PROOF_MS if fresh else LOOK_MS)
                failures, proof = 0, fresh and not reply
                self._take_note(shard)
            except SibylError as error:
                failures += 1
                level = logging.WARNING if failures in (1, 10) else logging.DEBUG
                logger.log(level, "Cannot hear the doorbell: %s", error.code, extra={"action": "doorbell_failed"})
                # Redis may have lost its newest ids, and with them the ring that we heard last.
                heard, proof = None, False
                await asyncio.sleep(backoff_s(failures))
                continue
            for _, rings in reply:
                for ring_id, ring in rings:
                    heard = ring_id
                    if "work" in ring:
                        self._rung.append(TaskId(ring["work"]))
                    if "cancel" in ring:
                        self._on_cancel(TaskId(ring["cancel"]))
                    if "count" in ring:
                        self._on_count(ring["count"])

    def _take_note(self, shard: Shard) -> None:
        self._reads[shard.number] += 1
        self._read_at[shard.number] = time.monotonic()
        if all(self._reads.values()):
            self.heard.set()

    async def _read(self, shard: Shard, heard: str, *, block_ms: int) -> StreamEntries:
        try:
            async with asyncio.timeout(block_ms / 1000 + READ_S):
                return await self._store.wait_for_entries({shard.bell: heard}, count=READ_COUNT, block_ms=block_ms)
        except TimeoutError as error:
            raise StoreUnavailable() from error
