"""A session with what it needs to live: its thread, its inlet, its timer, and the line to its client.

Everything here runs on the event loop. The recogniser's call blocks in a thread of the bridge; what it hears comes back
over the bridge and is handed to the machine, whose effects are carried out at once. It outlives the line it came by: a
client that was cut off finds it again by its token until the grace is over.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Protocol

from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge
from sibyl.bridge.crossing import Crossing
from sibyl.core.errors import SibylError
from sibyl.speech.catalogue import Catalogue
from sibyl.speech.effects import Begin, Effect, Feed, Resume, Stop
from sibyl.speech.hearing import Heard
from sibyl.speech.inlet import AudioInlet
from sibyl.speech.recogniser import RecognitionRequest
from sibyl.speech.session import Phase, Session
from sibyl.wire.speech import SpeechConfig

logger = logging.getLogger(__name__)


class Stopped(SibylError):
    """Nobody waits any more for what the recogniser hears."""


class Listener(Protocol):
    """Whoever writes a session's messages to its client."""

    def wake(self) -> None:
        """There is something to write, or the end."""

    def superseded(self) -> None:
        """Another line has taken the session."""


class HostedSession:
    """One living session."""

    def __init__(
        self,
        session: Session,
        *,
        bridge: Bridge,
        catalogue: Catalogue,
        admit: Callable[[], None],
        changed: Callable[["HostedSession"], None],
    ) -> None:
        """Begin with a session in CONFIG.

        Args:
            admit: called before the recogniser is; raises RecogniserBusy.
            changed: called after each change; it may have ``settled`` or be ``over``.
        """
        self.session = session
        self.listener: Listener | None = None
        self.resume: Resume | None = None  #: the client asked for another session; the caller finds it
        self._loop = asyncio.get_running_loop()
        self._bridge = bridge
        self._catalogue = catalogue
        self._admit = admit
        self._changed = changed
        self._abort = Abort()
        self._inlet = AudioInlet(self._abort)
        self._hearing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.after([])

    @property
    def hears(self) -> bool:
        """Whether it holds a thread."""
        return self._hearing is not None and not self._hearing.done()

    @property
    def settled(self) -> bool:
        """Whether its client was told all and its thread has ended."""
        return self.session.phase is Phase.ENDED and self.listener is None and not self.hears

    @property
    def over(self) -> bool:
        """Whether nothing of it is needed any more: no client will come back to it."""
        return self.session.over and self.settled

    @property
    def now(self) -> float:
        """The time that the machine is told."""
        return self._loop.time()

    def after(self, effects: list[Effect]) -> None:
        """Carry out what the machine wants, wake the writer, and set the timer anew."""
        for effect in effects:
            match effect:
                case Feed():
                    self._inlet.put(effect.item)
                case Begin():
                    self._begin(effect.config)
                case Stop():
                    self._abort.request(Stopped())
                case Resume():
                    self.resume = effect
        self._set_timer()
        if self.listener is not None and (self.session.outbox or self.session.closing is not None):
            self.listener.wake()
        self._changed(self)

    async def aclose(self, limit_s: float) -> None:
        """End it at once and wait for its thread until the limit."""
        self.after(self.session.left())
        if self._hearing is not None:
            await asyncio.wait([self._hearing], timeout=limit_s)

    def _begin(self, config: SpeechConfig) -> None:
        self.session.provider = config.provider or self._catalogue.default
        try:
            self._admit()
        except SibylError as error:
            self.after(self.session.failed(error, self.now))
            return
        self._hearing = self._loop.create_task(self._hear(config), name="hear")

    async def _hear(self, config: SpeechConfig) -> None:
        request = RecognitionRequest(
            sample_rate_hz=config.sample_rate,
            abort=self._abort,
            language=config.language,
            interim=config.interim,
            words=config.words,
            endpointing_s=config.endpointing_s,
        )
        began, facts = time.monotonic(), {"session_id": self.session.session_id, "provider": self.session.provider}
        logger.info("Session begins", extra={"action": "session_begins", **facts})

        def produce(on_heard: Crossing[Heard]) -> None:
            self._catalogue.recogniser(self.session.provider).recognise(request, self._inlet, on_heard)

        how = "ended"
        try:
            await self._bridge.run(produce, self._heard, self._abort)
        except Exception as error:
            how = error.code if isinstance(error, SibylError) else type(error).__name__
            known = isinstance(error, SibylError)
            if not isinstance(error, Stopped):
                trace = None if known else error  # telemetry keeps the words of foreign errors out
                logger.warning("Hearing failed: %s", how, extra={"action": "hearing_failed", **facts}, exc_info=trace)
            effects = self.session.failed(error, self.now)
        else:
            effects = self.session.returned(self.now)
        took_ms = round((time.monotonic() - began) * 1000)
        logger.info("Session ends", extra={"action": "session_ends", **facts, "how": how, "took_ms": took_ms})
        self._hearing = None
        self.after(effects)

    async def _heard(self, batch: list[Heard]) -> None:
        for heard in batch:
            self.after(self.session.heard(heard, self.now))

    def _set_timer(self) -> None:
        due = self.session.due
        if due == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = None if due == math.inf else self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self.after(self.session.tick(self.now))
