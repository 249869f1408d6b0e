"""One attempt's answer on its way to the log: numbered, kept, and sent again when Redis lost what it had.

All outputs stay in memory until the attempt ends. So when Redis comes back without its newest writes, it is filled up
from here under the same numbers, and readers notice nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from sibyl.core.errors import StoreUnavailable, TaskCancelled
from sibyl.core.event import Completed, Output, Terminal
from sibyl.core.policy import backoff_s, merge_outputs
from sibyl.core.task import FinishReason, Lease, Usage
from sibyl.store.log import Appended, EventLog
from sibyl.store.queue import TaskQueue

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RESEND_OUTPUTS = 256  # most outputs sent in one append when a gap is filled


class Answer:
    """The outputs of a task: those of earlier attempts, then ours."""

    def __init__(
        self, queue: TaskQueue, log: EventLog, lease: Lease, stored: Sequence[Output], *, lease_s: float
    ) -> None:
        self._queue = queue
        self._log = log
        self._lease = lease
        self._lease_s = lease_s
        self._outputs = list(stored)
        self._writing = asyncio.Lock()  # a heartbeat must not overtake an append that fills a gap
        self.progress = ""  #: "<prompt tokens evaluated> <prompt tokens>", for those who wait for the first token

    async def append(self, outputs: Sequence[Output]) -> None:
        """Append what the engine emitted. Returns when it is in the log; waits as long as Redis is out of reach.

        Raises:
            LeaseLost: the task is another worker's, over, or erased.
            TaskCancelled: the client asked to stop. It is in the log nevertheless.
        """
        first = len(self._outputs) + 1
        self._outputs += merge_outputs(outputs)
        await self._send(first)

    async def renew(self) -> None:
        """Renew the lease. Raises as ``append``."""
        await self._send(len(self._outputs) + 1)

    async def settle(self, end: Terminal) -> None:
        """End the task. Returns when it is in the log; waits as long as Redis is out of reach.

        Raises:
            LeaseLost: the task is another worker's, over, or erased.
        """
        async with self._writing:
            while True:
                held = await self._patiently(partial(self._queue.settle, self._lease, len(self._outputs), end))
                if held is None:
                    return
                with suppress(TaskCancelled):  # too late: the answer has its end
                    await self._write(held + 1)

    def completed(self, usage: Usage, finish_reason: FinishReason) -> Completed:
        """Return the terminal event of the whole answer."""
        return Completed(
            text_length=sum(len(output.text) for output in self._outputs),
            usage=usage,
            finish_reason=finish_reason,
            kept=len(self._outputs),
        )

    @property
    def stored(self) -> int:
        """Outputs so far."""
        return len(self._outputs)

    async def _send(self, first: int) -> None:
        async with self._writing:
            await self._write(first)

    async def _write(self, first: int) -> None:
        while True:
            part = self._outputs[first - 1 : first - 1 + _RESEND_OUTPUTS]
            progress = "" if self._outputs else self.progress
            reply = await self._patiently(
                partial(self._log.append, self._lease, first, part, lease_s=self._lease_s, progress=progress)
            )
            if isinstance(reply, Appended):
                first += len(part)
                if first > len(self._outputs):
                    if reply.cancel:
                        raise TaskCancelled()
                    return
            else:
                logger.warning(
                    "Redis lost its newest writes; sending them again",
                    extra={"action": "rewind", "task_id": self._lease.task_id, "from": reply.stored},
                )
                first = reply.stored + 1

    async def _patiently(self, write: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                failures += 1
                if failures == 1:
                    logger.warning(
                        "Cannot write: %s",
                        error.message,
                        extra={"action": "write_waits", "task_id": self._lease.task_id},
                    )
                await asyncio.sleep(backoff_s(failures))
