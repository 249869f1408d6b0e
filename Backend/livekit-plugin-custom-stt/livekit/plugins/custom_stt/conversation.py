"""One stream's talk with the server, over as many connections and sessions as it takes.

A connection that is lost is made again, and the session on it resumed; where the server knows it no more, a new one
gets the audio that was not yet told in finals. So no audio is lost and no final repeated. What the server refuses goes
to the framework as its own kind of error; ``run`` may be called again after it, and goes on where it was.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
from livekit.agents import APIConnectionError, APIError, APIStatusError, APITimeoutError
from livekit.agents.stt import SpeechEvent
from livekit.agents.utils.aio import cancel_and_wait

from . import transcript
from .audio import RetainedAudio
from .faults import LinkLost, refusal, retry_after_s, unreachable
from .link import Link
from .log import logger
from .options import Options
from .sender import Sender
from .session import Session
from .transcript import Transcript
from .wire import Message, words

PAUSE_S: Final = 0.1  # before the first reconnect; doubled each time
MOST_PAUSE_S: Final = 2.0
MOST_RETRY_AFTER_S: Final = 10.0
USAGE_S: Final = 5.0  # of audio between two reports
GOODBYE: Final = 1000  # the server need not wait for us
BACK_SOON: Final = 1001
LAST_WORDS_S: Final = 1.0  # for the close that follows an end


class Conversation:
    """From audio to events."""

    def __init__(
        self,
        options: Options,
        session: Session,
        audio: RetainedAudio,
        spoken: Transcript,
        *,
        http: Callable[[], aiohttp.ClientSession],
        emit: Callable[[SpeechEvent], None],
        offset_s: Callable[[], float],
        on_ready: Callable[[float], None],
    ) -> None:
        """Prepare it; nothing is connected before ``run``.

        Args:
            offset_s: asked for what to add to the times of each event.
            on_ready: told after each connection how many seconds it took.
        """
        self.changed = asyncio.Event()  #: set it after a change of ``audio``
        self.over = False  #: all was told
        self._options = options
        self._session = session
        self._audio = audio
        self._spoken = spoken
        self._http = http
        self._emit = emit
        self._offset_s = offset_s
        self._on_ready = on_ready
        self._reported = 0
        self._fault: APIStatusError | None = None  # the server's last word on this connection
        self._not_before = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self, timeout_s: float) -> None:
        """Talk until all audio is told.

        Args:
            timeout_s: for making one connection.

        Raises:
            APIError: the server refuses, or cannot be reached; ``retryable`` says whether another run may go better.
        """
        await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        linked, tries = False, 0
        while True:
            self._session.progressed = False
            try:
                linked |= await self._connect(timeout_s)
                lost, why = False, "the session ended before the stream"
            except LinkLost as error:
                linked = lost = True
                why = str(error)
            except APIStatusError as error:
                self._not_before = time.monotonic() + min(retry_after_s(error), MOST_RETRY_AFTER_S)
                raise
            except APIConnectionError as error:
                if not linked or not error.retryable:
                    raise
                lost, why = True, str(error)
            if self.over:
                break
            if self._session.progressed:
                tries = 0
            if tries >= self._options.reconnect_attempts and (lost or not self._session.progressed):
                raise unreachable(f"The connection was lost and did not come back: {why}")
            facts = {"action": "reconnect", "session_id": self._session.id, "try": tries}
            logger.info("connecting again: %s", why, extra=facts)
            await asyncio.sleep(min(MOST_PAUSE_S, PAUSE_S * 2**tries))
            tries += 1
        self._tell(self._spoken.over(self._session.id))

    async def aclose(self) -> None:
        """Wait until all connections are closed; a second at most."""
        while self._closing:
            await asyncio.wait(self._closing)

    async def _connect(self, timeout_s: float) -> bool:
        """Make a connection and talk on it until its end; return whether a session was there.

        Raises:
            LinkLost: it was there, and the connection was lost.
            APIError: see ``run``.
        """
        self._fault = None
        began = time.perf_counter()
        link = await Link.open(self._http(), self._options, timeout_s)
        code = GOODBYE
        try:
            if not await self._greet(link):
                return True
            self._on_ready(time.perf_counter() - began)
            await self._talk(link)
            return True
        except Exception:
            code = BACK_SOON if self._session.resumable else GOODBYE
            raise
        finally:
            closing = asyncio.create_task(link.close(code), name="custom_stt.close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _greet(self, link: Link) -> bool:
        """Begin or resume the session; return whether it goes on, since all of a resumed one may be told already."""
        ready_s = self._options.ready_s
        try:
            async with asyncio.timeout(ready_s):
                await _quietly(link.say(self._session.config))
                while True:
                    message = await self._next(link)
                    if message is None:
                        return False
                    if words(message, "type") == "ready":
                        return True
        except TimeoutError as error:
            raise APITimeoutError(f"The server was not ready within {ready_s:g} s.") from error
        except LinkLost as error:
            raise unreachable(f"The server was not ready: {error}") from error

    async def _talk(self, link: Link) -> None:
        sender = Sender(link, self._options, self._session, self._audio, self.changed)
        reading = asyncio.create_task(self._listen(link), name="custom_stt.read")
        sending = asyncio.create_task(sender.run(), name="custom_stt.send")
        keeping = asyncio.create_task(_quietly(sender.keep_alive()), name="custom_stt.keepalive")
        try:
            await asyncio.wait([reading, sending], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and isinstance(sending.exception(), ConnectionError | aiohttp.ClientError):
                await asyncio.wait([reading], timeout=LAST_WORDS_S)  # it has the reason, and maybe the last finals
                if not reading.done():
                    raise LinkLost("the connection takes nothing any more")
            if not reading.done():
                sending.result()
            reading.result()
        except LinkLost as error:
            if not (error.normal and sender.ended):
                raise
            self.over = True  # a server that says nothing at its end
        finally:
            await cancel_and_wait(reading, sending, keeping)
            for task in (reading, sending, keeping):  # one error was enough; asyncio would log the others
                if not task.cancelled():
                    task.exception()

    async def _listen(self, link: Link) -> None:
        while await self._next(link) is not None:
            pass

    async def _next(self, link: Link) -> Message | None:
        """Take the next message in and return it; None: the session is over.

        Raises:
            LinkLost, APIError: the connection is gone, as said there.
        """
        try:
            message = await link.hear(self._session.id)
        except (LinkLost, APIError):
            if self._fault is not None:
                raise self._fault from None
            raise
        if not self._session.is_new(message):
            return message
        kind = words(message, "type")
        take = _TAKERS.get(kind)
        if take is not None:
            take(self, message)
        else:
            logger.warning("unknown message type", extra={"action": "unknown_message", "kind": kind[:40]})
        if kind != "session_ended":
            return message
        if not self.over and self._fault is not None:
            raise self._fault
        return None

    # One for each type of message; the table is below.

    def _ready(self, message: Message) -> None:
        before = self._session.id
        if not self._session.ready(message):
            self._tell(self._spoken.replaced(before))
        self.changed.set()
        logger.info(
            "listening",
            extra={"action": "ready", "session_id": self._session.id, "resumed": message.get("resumed") is True},
        )

    def _speech_started(self, message: Message) -> None:
        self._tell(self._spoken.started(message, self._session.clock, self._session.id))

    def _partial(self, message: Message) -> None:
        session = self._session
        self._tell(self._spoken.partial(message, session.clock, session.id, self._offset_s()))

    def _final(self, message: Message) -> None:
        session = self._session
        events = self._spoken.final(message, session.clock, session.id, self._offset_s())
        session.final(message)
        self._tell(events)

    def _utterance_end(self, message: Message) -> None:
        self._tell(self._spoken.ended(message, self._session.clock, self._session.id))

    def _finalized(self, message: Message) -> None:
        self._session.finalized(message)

    def _ack(self, message: Message) -> None:
        self._session.ack(message)
        self._report(USAGE_S)
        self.changed.set()

    def _warning(self, message: Message) -> None:
        code = words(message, "code")[:40]
        logger.warning("the server warns: %s", code, extra={"action": "server_warning", "session_id": self._session.id})

    def _error(self, message: Message) -> None:
        code = words(message, "code")[:40]
        logger.warning(
            "the server reports an error: %s", code, extra={"action": "server_error", "session_id": self._session.id}
        )
        if message.get("fatal") is True:
            self._fault = refusal(message, self._session.id)

    def _session_ended(self, message: Message) -> None:
        session, audio, reason = self._session, self._audio, words(message, "reason")
        session.ended(message)
        self._report(0.0)
        logger.info("session ended: %s", reason[:40], extra={"action": "session_ended", "session_id": session.id})
        self.over = audio.ended and (reason == "end_of_stream" or session.covered >= audio.end)
        if self._fault is None and reason not in _GOES_ON:
            self._fault = refusal(message, session.id)

    def _report(self, least_s: float) -> None:
        audio_s = (self._session.heard - self._reported) / self._audio.rate_hz
        if audio_s > 0 and audio_s >= least_s:
            self._reported = self._session.heard
            self._emit(transcript.usage(audio_s, self._session.id))

    def _tell(self, events: list[SpeechEvent]) -> None:
        for event in events:
            self._emit(event)


_GOES_ON: Final = frozenset({"end_of_stream", "max_session", "server_shutdown"})  # in another session
_TAKERS: Final[dict[str, Callable[[Conversation, Message], None]]] = {
    "ready": Conversation._ready,
    "speech_started": Conversation._speech_started,
    "partial": Conversation._partial,
    "final": Conversation._final,
    "utterance_end": Conversation._utterance_end,
    "finalized": Conversation._finalized,
    "ack": Conversation._ack,
    "warning": Conversation._warning,
    "error": Conversation._error,
    "session_ended": Conversation._session_ended,
}


async def _quietly(work: Awaitable[None]) -> None:
    """Do it; that the connection is gone is for the reader to say."""
    try:
        await work
    except (ConnectionError, aiohttp.ClientError):
        logger.debug("the connection takes nothing any more", extra={"action": "link_broken"})
