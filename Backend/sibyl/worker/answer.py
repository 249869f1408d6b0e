"""One attempt's answer on its way to the log: numbered, kept, and sent again when Redis lost what it had.

All outputs stay in memory until the attempt ends. So when Redis comes back without its newest writes, it is filled up
from here under the same numbers, and readers notice nothing. One append is under way at a time; it is a callback that
sends the next, since a coroutine for each would cost more than the append.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sibyl.core.errors import LeaseLost, StoreUnavailable, TaskCancelled, WriteFailed
from sibyl.core.event import Completed, Output, Terminal
from sibyl.core.policy import backoff_s, failure, merge_outputs
from sibyl.core.task import FinishReason, Lease, Usage
from sibyl.store.commit import Commits, packed
from sibyl.store.log import Appended, Gap, Outcome
from sibyl.store.queue import TaskQueue

logger = logging.getLogger(__name__)

_RESEND_OUTPUTS = 256  # most outputs sent in one append when a gap is filled
_MOST_FAULTS = 4  # unexpected errors that the settling of an answer outlasts
_RETRY_MOST_S = 0.25  # a holder tries more often than whoever looks for abandoned tasks, so that it is back first


class Answer:
    """The outputs of a task: those of earlier attempts, then ours. To be used on the event loop alone."""

    def __init__(
        self,
        queue: TaskQueue,
        commits: Commits,
        lease: Lease,
        stored: Sequence[Output],
        *,
        refused: Callable[[BaseException], None],
    ) -> None:
        """Begin after what is stored.

        Args:
            refused: is told at once what an append raises, whoever waits for it: generating is of no use any more.
        """
        self.progress = ""  #: "<prompt tokens evaluated> <prompt tokens>", for those who wait for the first token
        self.renewed_at = time.monotonic()  #: when the lease was last known to be ours
        self._queue = queue
        self._writer = commits.writer(lease)
        self._refused = refused
        self._lease = lease
        self._outputs = list(stored)
        self._stored = len(self._outputs)  # so many the log holds, as far as we know
        self._sent = 0  # outputs in the append that is under way
        self._under_way = False
        self._failures = 0  # in a row
        self._waiting: list[asyncio.Future[None]] = []  # for all outputs to be stored
        self._loop = asyncio.get_running_loop()

    def append(self, outputs: Sequence[Output]) -> asyncio.Future[None]:
        """Append what the engine emitted. It is done when that is in the log, however long Redis is out of reach.

        Its exceptions:
            LeaseLost: the task is another worker's, over, or erased.
            TaskCancelled: the client asked to stop. It is in the log nevertheless.
            TextUnwritable: it is no Unicode. The answer ends before it.
            Exception: what nobody expects. What is not in the log yet is so when ``settle`` returns, if it can be.
        """
        self._outputs += merge_outputs(outputs) if len(outputs) > 1 else outputs
        return self.renew()

    def renew(self) -> asyncio.Future[None]:
        """Renew the lease. As ``append``."""
        stored = self._loop.create_future()
        self._waiting.append(stored)
        if not self._under_way:
            self._send()
        return stored

    async def settle(self, end: Terminal) -> None:
        """End the task. Returns when it is in the log; waits as long as Redis is out of reach.

        When outputs cannot be written for another reason, a task that was to be completed fails without them.

        Raises:
            LeaseLost: the task is another worker's, over, or erased.
            WriteFailed: it cannot be ended, for an unexpected error: another attempt has to, when the lease is over.
        """
        whole, failures, faults = len(self._outputs), 0, 0
        while True:
            try:
                if self._under_way or self._stored < len(self._outputs):
                    with suppress(TaskCancelled):  # too late: the answer has its end
                        await self.renew()
                held = await self._queue.settle(self._lease, len(self._outputs), end)
            except LeaseLost:
                raise
            except StoreUnavailable as error:
                failures += 1
                self._tell_once(error, failures)
                await asyncio.sleep(backoff_s(failures))
            except Exception as error:
                faults += 1
                if faults > _MOST_FAULTS:
                    raise WriteFailed() from error
                facts = {"action": "settle_fault", "task_id": self._lease.task_id, "fault": type(error).__name__}
                logger.warning("Cannot settle; trying again", extra=facts)
                if faults == _MOST_FAULTS:
                    del self._outputs[self._stored :]
                if faults == _MOST_FAULTS or (isinstance(end, Completed) and len(self._outputs) < whole):
                    end = failure(error, kept=len(self._outputs))
                await asyncio.sleep(backoff_s(faults))
            else:
                if held is None:
                    return
                self._rewind(held)

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

    def _send(self) -> None:
        part = self._outputs[self._stored : self._stored + _RESEND_OUTPUTS]
        self._sent, self._under_way = len(part), True
        progress = "" if self._outputs else self.progress
        try:
            self._writer.append(self._stored + 1, part, progress=progress, told=self._told)
        except Exception as error:
            self._under_way = False
            self._cut()
            self._done(error)

    def _cut(self) -> None:
        """Let the answer end before the first output that cannot be written."""
        for place in range(self._stored, len(self._outputs)):
            try:
                packed(self._outputs[place])
            except Exception:
                del self._outputs[place:]
                return

    def _told(self, outcome: Outcome) -> None:
        self._under_way = False
        match outcome:
            case Appended():
                self._stored += self._sent
                self._failures = 0
                self.renewed_at = time.monotonic()
                if self._stored < len(self._outputs):
                    self._send()
                else:
                    self._done(TaskCancelled() if outcome.cancel else None)
            case Gap():
                self._rewind(outcome.stored)
                self._send()
            case StoreUnavailable():
                self._failures += 1
                self._tell_once(outcome, self._failures)
                self._under_way = True
                self._loop.call_later(backoff_s(self._failures, most_s=_RETRY_MOST_S), self._send_again)
            case _:
                self._done(outcome)

    def _send_again(self) -> None:
        self._under_way = False
        if any(not waiting.done() for waiting in self._waiting):  # nobody waits any more: the attempt was given up
            self._send()

    def _done(self, error: Exception | None) -> None:
        if error is not None:
            self._refused(error)
        waiting, self._waiting = self._waiting, []
        for stored in waiting:
            if stored.done():
                continue
            if error is None:
                stored.set_result(None)
            else:
                stored.set_exception(error)

    def _rewind(self, held: int) -> None:
        facts = {"action": "rewind", "task_id": self._lease.task_id, "from": held}
        logger.warning("Redis lost its newest writes; sending them again", extra=facts)
        self._stored = held

    def _tell_once(self, error: StoreUnavailable, failures: int) -> None:
        if failures == 1:
            facts = {"action": "write_waits", "task_id": self._lease.task_id}
            logger.warning("Cannot write: %s", error.message, extra=facts)
