"""The worker: claims a task for each free slot, listens for cancels, says that it is alive, and drains on request.

It says that it is alive only while it could take work: its doorbell was read lately, and its last looks for work went
well. One that went deaf hands over what it runs and ends, for its process to start anew.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import cast

from sibyl.bridge.bridge import Bridge
from sibyl.core.errors import SibylError, TaskCancelled
from sibyl.core.policy import backoff_s
from sibyl.core.task import TaskId, WorkerInfo
from sibyl.engines.base import Engine
from sibyl.speech.catalogue import Catalogue, SpeechSettings
from sibyl.store.audio import AudioFiles
from sibyl.store.commit import Commits
from sibyl.store.connection import Store
from sibyl.store.counting import PromptCounting
from sibyl.store.doorbell import Doorbell
from sibyl.store.log import EventLog
from sibyl.store.queue import Claim, TaskQueue
from sibyl.store.workers import WorkerRegistry
from sibyl.worker.attempt import Attempt, Draining, RecogniserOf
from sibyl.worker.hearing import HEARD_S, Hearing

logger = logging.getLogger(__name__)

HOLDERS_FIRST_S = 1.0  # so long after an outage nobody takes over what its holder may just have gone on with
COUNTS = 4  # prompts counted at a time; who asks for more gets no answer and does without


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The worker's times and limits."""

    lease_s: float
    heartbeat_s: float
    max_attempts: int
    drain_s: float


async def _answers() -> bool:
    return True


class Worker:
    """One engine's worker, on one event loop."""

    def __init__(
        self,
        info: WorkerInfo,
        *,
        store: Store,
        engine: Engine,
        pace: Pace,
        redis_answers: Callable[[], Awaitable[bool]] = _answers,
        recogniser_of: RecogniserOf | None = None,
    ) -> None:
        """Prepare it; ``run`` works.

        Args:
            redis_answers: whether Redis answers on a new connection; asked when the doorbell is silent for long.
            recogniser_of: what hears recordings; None: the default recogniser.
        """
        self.deaf = False  #: it ended because it heard nothing any more; only a new process is sure to hear again
        self._info = info
        self._engine = engine
        self._pace = pace
        self._queue = TaskQueue(store)
        self._log = EventLog(store)
        self._audio_files = AudioFiles(store)
        self._recogniser_of = recogniser_of or Catalogue(SpeechSettings()).recogniser
        self._registry = WorkerRegistry(store)
        self._doorbell = Doorbell(store, on_work=self._look, on_cancel=self._cancel, on_count=self._count)
        self._hearing = Hearing(self._doorbell, redis_answers=redis_answers)
        self._looked_at = time.monotonic()  # the last look for work that went well
        self._commits = Commits(store, lease_s=pace.lease_s)
        self._bridge = Bridge(threads=info.slots, rest_s=self._commits.rest_s)
        self._attempts: dict[TaskId, Attempt] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._epoch_floor = 0
        self._nothing_waits = False  # as far as we know; each task that comes rings
        self._counting = PromptCounting(store)
        self._counts: set[asyncio.Task[None]] = set()
        self._looking = asyncio.Event()
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Claim nothing more; let what runs finish within the limit, then give it back."""
        self._draining.set()
        self._look()

    async def run(self) -> None:
        """Work until drained, or deaf: look at ``deaf`` then."""
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._doorbell.run(), name="doorbell")
            announcing = group.create_task(self._announce(), name="announce")
            await self._claim_and_run(group)
            logger.info("Draining", extra={"action": "drain", "running": len(self._attempts)})
            announcing.cancel()
            await self._retire()
            await self._finish()
            listening.cancel()
        self._bridge.close()
        await self._commits.close()

    async def _claim_and_run(self, group: asyncio.TaskGroup) -> None:
        failures = 0
        taken_over = False  # what a dead worker of this name held was given back
        while not self._draining.is_set():
            # clear, then look, then wait: a ring between the last two is kept
            self._looking.clear()
            try:
                if not taken_over:
                    await self._queue.release_all_of(self._info.name)
                    taken_over = True
                await self._claim(group)
                failures = 0
                self._looked_at = time.monotonic()
            except SibylError as error:
                failures += 1
                level = logging.WARNING if failures in (1, 10) else logging.DEBUG
                logger.log(level, "Cannot claim: %s", error.message, extra={"action": "claim_failed"})
                await asyncio.sleep(backoff_s(failures))
                continue
            await self._looking.wait()

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        """Claim as many tasks as there are free slots."""
        rung = self._doorbell.rung() if self._nothing_waits else None
        free = self._info.slots - len(self._attempts)
        if not free:
            self._nothing_waits = False
            return
        claims = await self._queue.claim_some(
            [f"{self._info.name}:{secrets.token_hex(8)}" for _ in range(free)],
            model=self._info.model,
            lease_s=self._pace.lease_s,
            max_attempts=self._pace.max_attempts,
            floor=self._epoch_floor,
            rung=rung,
            # All leases may have run out while Redis was away; their holders write as soon as it is back.
            abandoned=self._doorbell.back_s > HOLDERS_FIRST_S,
        )
        for claim in claims:
            self._begin(claim, group)
        # Whoever got less than it asked for has seen the end of the queue. What comes later rings.
        self._nothing_waits = len(claims) < free
        if rung is not None:
            self._look()  # a lease may have run out meanwhile, which rings no bell

    def _begin(self, claim: Claim, group: asyncio.TaskGroup) -> None:
        self._epoch_floor = max(self._epoch_floor, claim.lease.epoch)
        attempt = Attempt(
            claim,
            engine=self._engine,
            bridge=self._bridge,
            queue=self._queue,
            log=self._log,
            commits=self._commits,
            audio_files=self._audio_files,
            recogniser_of=self._recogniser_of,
            heartbeat_s=self._pace.heartbeat_s,
        )
        self._attempts[claim.lease.task_id] = attempt
        self._running.add(group.create_task(self._run(attempt), name=f"attempt-{claim.lease.task_id}"))

    async def _run(self, attempt: Attempt) -> None:
        try:
            await attempt.run()
        except SibylError as error:
            logger.error("Attempt given up: %s", error.message, extra={"action": "attempt_given_up"})
        finally:
            if self._attempts.get(attempt.claim.lease.task_id) is attempt:
                del self._attempts[attempt.claim.lease.task_id]
            self._running.discard(cast(asyncio.Task[None], asyncio.current_task()))
            self._look()

    async def _finish(self) -> None:
        """Let attempts finish within the limit; then hand them over, and do not wait long for that."""
        steps = (
            ("finish", self._pace.drain_s, self._hand_over),
            ("hand over", self._pace.lease_s, self._give_up),
        )
        for step, limit_s, otherwise in steps:
            try:
                async with asyncio.timeout(limit_s):
                    while self._attempts:
                        self._looking.clear()
                        await self._looking.wait()
                return
            except TimeoutError:
                facts = {"action": "drain_limit", "step": step, "running": len(self._attempts)}
                logger.warning("Drain: the limit of the step is over", extra=facts)
                otherwise()

    def _hand_over(self) -> None:
        for attempt in self._attempts.values():
            attempt.abort.request(Draining())

    def _give_up(self) -> None:
        for running in self._running:
            running.cancel()

    async def _announce(self) -> None:
        await self._doorbell.heard.wait()
        while True:
            if self._hearing.hears and time.monotonic() - self._looked_at < HEARD_S:
                try:
                    await self._registry.announce(replace(self._info, counters=self._engine.counters))
                except SibylError as error:
                    logger.debug("Cannot announce: %s", error.message, extra={"action": "announce_failed"})
            if await self._hearing.deaf():
                logger.error("Deaf: Redis answers others; starting anew", extra={"action": "deaf"})
                self.deaf = True
                self._pace = replace(self._pace, drain_s=0.0)  # what runs is heard by nobody who cancels it
                self.drain()
                return
            await asyncio.sleep(self._pace.heartbeat_s)

    async def _retire(self) -> None:
        """Take the announcement back now: who drains takes nothing, and may be silent for long without being stuck."""
        with contextlib.suppress(SibylError):  # then it goes stale
            await self._registry.retire(self._info.name)

    def _look(self) -> None:
        self._looking.set()

    def _count(self, name: str) -> None:
        if len(self._counts) < COUNTS:
            counting = asyncio.create_task(self._answer_count(name), name="count")
            self._counts.add(counting)
            counting.add_done_callback(self._counts.discard)

    async def _answer_count(self, name: str) -> None:
        try:
            messages = await self._counting.fetch(name)
            if messages is not None:
                tokens = await asyncio.to_thread(self._engine.count_prompt_tokens, messages)
                await self._counting.answer(name, tokens)
        except SibylError as error:
            logger.debug("Cannot count: %s", error.message, extra={"action": "count_failed"})

    def _cancel(self, task_id: TaskId) -> None:
        attempt = self._attempts.get(task_id)
        if attempt is not None:
            attempt.abort.request(TaskCancelled())
