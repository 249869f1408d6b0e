"""The workers' doorbell: one blocked connection per shard that says "there may be work" and "cancel this one".

A ring is a hint and carries no promise: whoever waits for it looks by itself every second as well.
"""

import asyncio
import logging
from collections.abc import Callable

from sibyl.core.errors import SibylError
from sibyl.core.policy import backoff_s
from sibyl.core.task import TaskId
from sibyl.store.connection import Store
from sibyl.store.keys import Shard

logger = logging.getLogger(__name__)

READ_COUNT = 256  # most rings taken in one read


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
        """Call ``on_work`` when there may be work, at least once a second, ``on_cancel`` for a task to stop, and
        ``on_count`` when somebody asks for the length of a prompt (see ``counting``)."""
        self._store = store
        self._on_work = on_work
        self._on_cancel = on_cancel
        self._on_count = on_count

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            for shard in self._store.shards:
                group.create_task(self._listen(shard), name=f"doorbell-{shard.number}")

    async def _listen(self, shard: Shard) -> None:
        heard: str | None = None
        failures = 0
        while True:
            try:
                if heard is None:
                    newest = await self._store.command("XREVRANGE", shard.bell, "+", "-", "COUNT", 1)
                    heard = str(newest[0][0]) if newest else "0-0"
                self._on_work()
                # An explicit id, never "$": what rings between two reads is heard by the second.
                reply = await self._store.wait_for_entries({shard.bell: heard}, count=READ_COUNT)
                failures = 0
            except SibylError as error:
                failures += 1
                level = logging.WARNING if failures in (1, 10) else logging.DEBUG
                logger.log(level, "Cannot hear the doorbell: %s", error.code, extra={"action": "doorbell_failed"})
                heard = None  # Redis may have lost its newest ids, and with them the ring that we heard last
                await asyncio.sleep(backoff_s(failures))
                continue
            for _, rings in reply:
                for ring_id, ring in rings:
                    heard = ring_id
                    if "cancel" in ring:
                        self._on_cancel(TaskId(ring["cancel"]))
                    if "count" in ring:
                        self._on_count(ring["count"])
