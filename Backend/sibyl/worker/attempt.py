"""One attempt, from the claim to its end: generate or hear in a thread, append what comes, renew beside it, settle."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge
from sibyl.bridge.crossing import Crossing
from sibyl.core import policy
from sibyl.core.errors import DeadlinePassed, LeaseLost, SibylError, StoreUnavailable, TaskCancelled
from sibyl.core.event import Cancelled, Expired, Output, Terminal
from sibyl.core.fold import Fold
from sibyl.core.task import Recording, Usage
from sibyl.engines.base import Engine, GenerationRequest, GenerationResult
from sibyl.speech.recogniser import Recogniser
from sibyl.speech.transcription import Transcribed, transcribe
from sibyl.store.audio import AudioFiles
from sibyl.store.commit import Commits
from sibyl.store.log import EventLog
from sibyl.store.queue import Claim, TaskQueue
from sibyl.worker.answer import Answer

logger = logging.getLogger(__name__)

RecogniserOf = Callable[[str | None], Recogniser]
"""Returns the recogniser of a name, None for the default one; may block, or raise RecogniserUnavailable."""

PROGRESS_S = 0.25  # least pause between two reports of how far the prompt is evaluated


class Draining(SibylError):
    """The worker ends; another one goes on with the task."""


class Attempt:
    """One claimed task in this worker."""

    def __init__(
        self,
        claim: Claim,
        *,
        engine: Engine,
        bridge: Bridge,
        queue: TaskQueue,
        log: EventLog,
        commits: Commits,
        audio_files: AudioFiles,
        recogniser_of: RecogniserOf,
        heartbeat_s: float,
    ) -> None:
        self.claim = claim
        self.abort = Abort()  #: request it with ``TaskCancelled``, ``Draining`` or ``LeaseLost``
        self._engine = engine
        self._bridge = bridge
        self._queue = queue
        self._log = log
        self._commits = commits
        self._audio_files = audio_files
        self._recogniser_of = recogniser_of
        self._heartbeat_s = heartbeat_s

    async def run(self) -> None:
        """Run it to its end, whatever that is. Raises nothing but on cancellation, which gives the task up."""
        claim, started = self.claim, time.monotonic()
        facts = {"task_id": claim.lease.task_id, "attempt": claim.attempt}
        logger.info("Attempt begins", extra={"action": "attempt_begins", **facts, "stored": claim.stored})
        try:
            stored = Fold(await self._log.read(claim.lease.task_id)).answer() if claim.stored else ()
        except StoreUnavailable:
            return  # the lease runs out; the next claim, by us or by another worker, goes on
        answer = Answer(self._queue, self._commits, claim.lease, stored, refused=self.abort.request)
        renewing = asyncio.create_task(self._renew(answer), name="renew")
        try:
            how = await self._end(await self._generate(answer, stored), answer)
        except LeaseLost:
            how = "lease_lost"
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing
        took_ms = round((time.monotonic() - started) * 1000)
        logger.info("Attempt ends", extra={"action": "attempt_ends", **facts, "how": how, "took_ms": took_ms})

    async def _generate(self, answer: Answer, stored: Sequence[Output]) -> GenerationResult | Transcribed | Exception:
        """Generate the rest of the answer, or hear the rest of the recording; return why it ended."""
        recording = self.claim.spec.recording

        def on_progress(evaluated: int, prompt_tokens: int) -> None:
            answer.progress = f"{evaluated} {prompt_tokens}"

        def produce(on_tokens: Crossing[Output]) -> GenerationResult:
            request = GenerationRequest(
                messages=self.claim.spec.messages,
                sampling=self.claim.spec.sampling,
                abort=self.abort,
                priority=self.claim.spec.priority,
                stored=tuple(stored),
                on_progress=on_progress,
                backlogged=on_tokens.backlogged,
            )
            return self._engine.generate(request, on_tokens)

        async def hear(recording: Recording) -> Transcribed:
            audio = await self._audio(recording)
            return await self._bridge.run(
                lambda on_output: transcribe(
                    lambda: self._recogniser_of(recording.provider),
                    audio,
                    language=recording.language,
                    stored=stored,
                    abort=self.abort,
                    on_output=on_output,
                ),
                answer.append,
                self.abort,
            )

        loop = asyncio.get_running_loop()
        deadline = loop.call_later(max(0.0, self.claim.remaining_s), self.abort.request, DeadlinePassed())
        try:
            if recording is not None:
                return await hear(recording)
            return await self._bridge.run(produce, answer.append, self.abort)
        except Exception as error:
            # An engine may end in an error of its own because it was told to stop: the reason is what counts.
            reason = self.abort.reason
            return reason if isinstance(reason, Exception) and not isinstance(error, LeaseLost) else error
        finally:
            deadline.cancel()

    async def _audio(self, recording: Recording) -> bytes:
        """Read the recording, however long Redis is out of reach."""
        failures = 0
        while True:
            self.abort.raise_if_requested()
            try:
                return await self._audio_files.get(self.claim.lease.task_id, recording.audio_bytes)
            except StoreUnavailable:
                failures += 1
                await asyncio.sleep(policy.backoff_s(failures))

    async def _end(self, outcome: GenerationResult | Transcribed | Exception, answer: Answer) -> str:
        """Settle or release the task and return a word for how it ended."""
        end: Terminal
        match outcome:
            case GenerationResult():
                end = answer.completed(outcome.usage, outcome.finish_reason)
            case Transcribed():
                no_tokens = Usage(prompt_tokens=0, completion_tokens=0)
                end = replace(answer.completed(no_tokens, "stop"), audio_s=outcome.audio_s)
            case LeaseLost():
                return "lease_lost"
            case Draining():
                await self._queue.release(self.claim.lease, unharmed=True)
                return "released"
            case TaskCancelled():
                end = Cancelled(kept=answer.stored)
            case DeadlinePassed():
                end = Expired(kept=answer.stored)
            case error if policy.deserves_another_attempt(error, self.claim.attempt):
                self._log_failure(error)
                # No try is used up: no worker was lost. The deadline and the attempts bound it.
                delay_s = policy.backoff_s(self.claim.attempt, first_s=0.5, most_s=15.0)
                await self._queue.release(self.claim.lease, delay_s=delay_s, unharmed=True)
                return "released"
            case error:
                self._log_failure(error)
                end = policy.failure(error, kept=answer.stored)
        await answer.settle(end)
        return type(end).__name__.lower()

    async def _renew(self, answer: Answer) -> None:
        shown = ""
        while True:
            due_s = answer.renewed_at + self._heartbeat_s - time.monotonic()
            if due_s <= 0 or answer.progress != shown:
                shown = answer.progress
                with suppress(Exception):  # the abort knows
                    await answer.renew()
                due_s = self._heartbeat_s
            # What is told of the prompt is of interest until there is an answer; from then on every append renews.
            await asyncio.sleep(due_s if answer.stored else min(PROGRESS_S, due_s))

    def _log_failure(self, error: Exception) -> None:
        # Never a known error's own words: a server may quote the prompt in them. Those of others are kept out of every
        # traceback (see telemetry).
        known = isinstance(error, SibylError)
        logger.log(
            logging.WARNING if known else logging.ERROR,
            "Attempt failed: %s",
            error.code if isinstance(error, SibylError) else type(error).__name__,
            extra=self._about("attempt_failed"),
            exc_info=None if known else error,
        )

    def _about(self, action: str) -> dict[str, object]:
        return {"action": action, "task_id": self.claim.lease.task_id, "attempt": self.claim.attempt}
