"""What goes to the server on one connection: audio at the server's pace, flushes in their place, one end of stream.

A live source is never held back by it. What comes after a cut, and a file, keeps half of the server's backlog free.
"""

import asyncio
from typing import Final

from livekit.agents import APITimeoutError

from .audio import RetainedAudio
from .link import Link
from .log import logger
from .options import Options
from .session import Session

CHUNK_S: Final = 0.05  # less is sent only before a flush, at the end, and with a keepalive
DRAIN_MARGIN_S: Final = 5.0  # on top of the server's own limit


class Sender:
    """The writing half of one connection."""

    def __init__(
        self, link: Link, options: Options, session: Session, audio: RetainedAudio, changed: asyncio.Event
    ) -> None:
        """Prepare it.

        Args:
            changed: set whenever there is more to send, or more room.
        """
        self.ended = False  #: the end of stream was sent
        self._link = link
        self._options = options
        self._session = session
        self._audio = audio
        self._changed = changed
        self._flushed = 0  # number of the last flush that was sent
        self._rest_too = False
        self._heard = -1
        self._moved_at = 0.0

    async def run(self) -> None:
        """Send all there is and will be, and wait for the server to tell the rest. Returns only by raising.

        Raises:
            APITimeoutError: the server tells nothing any more.
            ConnectionError, aiohttp.ClientError: the connection is gone.
        """
        self._moved_at = asyncio.get_running_loop().time()
        while True:
            self._changed.clear()  # clear, then look, then wait: a change between the last two is kept
            if await self._send_next():
                continue
            if self._at_end():
                break
            self._look_for_a_stall()
            await self._changed.wait()
        self.ended = True
        await self._link.say({"type": "end_of_stream"})
        limit_s = self._session.drain_s + DRAIN_MARGIN_S
        await asyncio.sleep(limit_s)
        raise APITimeoutError(f"The server did not tell the rest within {limit_s:g} s.", retryable=False)

    async def keep_alive(self) -> None:
        """Say that we are here, as long as the stream has not ended."""
        while True:
            await asyncio.sleep(self._session.keepalive_s)
            if self.ended:
                return
            self._rest_too = True
            self._changed.set()
            await self._link.say({"type": "keepalive"})

    async def _send_next(self) -> bool:
        session, audio = self._session, self._audio
        lost = session.skip_lost()
        if lost:
            seconds = round(lost / audio.rate_hz, 3)
            logger.warning(
                "%.3f s of audio could not be sent: it came faster than it could be kept",
                seconds,
                extra={"action": "audio_lost", "lost_s": seconds, "session_id": session.id},
            )
        flush = audio.next_flush(self._flushed)
        if flush is not None and flush.position <= session.sent:
            self._flushed = flush.number
            await self._link.say({"type": "finalize", "id": flush.number})
            return True
        until = audio.end if flush is None else flush.position
        samples = min(until - session.sent, session.room, session.most)
        least = 1 if flush is not None or audio.ended or self._rest_too else round(CHUNK_S * audio.rate_hz)
        if samples < min(least, session.most):
            self._rest_too = False
            return False
        pcm = audio.read(session.sent, samples)
        session.sending(samples)
        await self._link.send(pcm)
        return True

    def _at_end(self) -> bool:
        audio = self._audio
        return audio.ended and self._session.sent >= audio.end and audio.next_flush(self._flushed) is None

    def _look_for_a_stall(self) -> None:
        """The server has room for nothing and hears nothing: another session may do better. Looked at by keepalives."""
        now = asyncio.get_running_loop().time()
        if self._session.processed != self._heard or self._session.room > 0:
            self._heard, self._moved_at = self._session.processed, now
        elif now - self._moved_at > self._options.stall_s:
            self._session.forget()
            raise APITimeoutError(f"The server heard nothing for {self._options.stall_s:g} s.")
