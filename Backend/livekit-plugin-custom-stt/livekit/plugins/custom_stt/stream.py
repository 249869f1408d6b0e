"""The framework's stream: audio is pushed in, events are iterated out.

Kinder than its base class where callers differ: the end may be said twice, may be awaited, and what comes after it is
refused with a warning.
"""

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Self

from livekit import rtc
from livekit.agents import APIConnectOptions, LanguageCode
from livekit.agents.stt import RecognizeStream

from .audio import RetainedAudio
from .conversation import Conversation
from .log import logger
from .mixing import mono
from .options import Options
from .session import Session
from .transcript import Transcript

if TYPE_CHECKING:
    from .stt import STT


class _Done:
    """What can be awaited and is there already."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield  # makes it a generator


class SpeechStream(RecognizeStream):
    """One stream of speech. Made by ``STT.stream``.

    Errors come out of the iteration, as the framework's ``APIError``.
    """

    def __init__(
        self, *, stt: "STT", options: Options, language: LanguageCode, conn_options: APIConnectOptions
    ) -> None:
        super().__init__(stt=stt, conn_options=conn_options, sample_rate=options.sample_rate_hz)
        self._audio = RetainedAudio(options.sample_rate_hz, options.retained_s)
        self._session = Session(options, language, self._audio)
        self._conversation = Conversation(
            options,
            self._session,
            self._audio,
            Transcript(language, self._wall_s),
            http=stt.http_session,
            emit=self._event_ch.send_nowait,
            offset_s=lambda: self.start_time_offset,
            on_ready=self._on_ready,
        )
        self._options = options
        self._told = stt.told
        self._anchor: tuple[float, float] | None = None  # offset and start of the first run: our clock never restarts
        self._closed = False
        self._refused = 0
        self._overflowing = False

    async def __aenter__(self) -> Self:
        return self

    @property
    def dropped_s(self) -> float:
        """Seconds of audio that were lost, because more came than could be kept (``retained_s``)."""
        lost = self._session.lost + max(0, self._audio.start - self._session.sent)
        return lost / self._audio.rate_hz

    @property
    def session_id(self) -> str:
        """The server's name for the session under way, or for the last one; empty before the first."""
        return self._session.id

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Push audio. After the end, or after ``aclose``, it is refused with a warning.

        Raises:
            ValueError: the sample rate is not that of the frames before.
        """
        if self._is_over("frame"):
            return
        if not self._pushed_sr:
            self.start_time = time.time() - frame.duration
        super().push_frame(mono(frame))
        self._take_in()
        if self._audio.start > self._session.sent and not self._overflowing:
            limit_s = self._options.retained_s
            logger.warning(
                "more than %s s of audio wait to be sent; the oldest is dropped",
                limit_s,
                extra={"action": "audio_overflow", "retained_s": limit_s, "session_id": self._session.id},
            )
        self._overflowing = self._audio.start > self._session.sent

    def flush(self) -> None:
        """Ask for finals of all so far. After the end, or after ``aclose``, it is refused with a warning."""
        if self._is_over("flush"):
            return
        super().flush()
        self._take_in()
        self._audio.flush()
        self._conversation.changed.set()

    def end_input(self) -> _Done:  # type: ignore[override] # may be awaited, and need not be
        """Say that no audio comes any more; the iteration ends when all was told. Twice is once; never waits."""
        if not self._audio.ended and not self._event_ch.closed:
            super().flush()  # what the resampler still has
            self._take_in()
            self._audio.ended = True
            self._input_ch.close()
            self._conversation.changed.set()
        return _Done()

    async def aclose(self) -> None:
        """Close it now, without the rest: tasks are ended and awaited, the socket is closed. Twice is once."""
        self._closed = True
        await super().aclose()
        await self._conversation.aclose()

    async def _run(self) -> None:
        # The framework moves both on before each attempt, as if the audio began anew with it. Ours does not.
        if self._anchor is not None:
            self.start_time_offset, self.start_time = self._anchor
        try:
            await self._conversation.run(self._conn_options.timeout)
        finally:
            self._anchor = self.start_time_offset, self.start_time

    def _take_in(self) -> None:
        """Move what the base class has queued to where it is bounded."""
        while not self._input_ch.empty():
            frame = self._input_ch.recv_nowait()
            if isinstance(frame, rtc.AudioFrame):
                self._audio.append(bytes(frame.data.cast("B")))
        self._conversation.changed.set()

    def _is_over(self, what: str) -> bool:
        if not (self._audio.ended or self._closed or self._event_ch.closed):
            return False
        self._refused += 1
        if self._refused == 1:
            logger.warning(
                "a %s came after the end of the stream; it and all after it are refused",
                what,
                extra={"action": "late_input", "session_id": self._session.id},
            )
        return True

    def _on_ready(self, took_s: float) -> None:
        self._told(self._session)
        self._report_connection_acquired(took_s, False)

    def _wall_s(self, stream_s: float) -> float:
        """When this was said, if the newest audio is of this moment; neither in the future nor before the stream."""
        now = time.time()
        return max(self.start_time, min(now, now - (self._audio.end / self._audio.rate_hz - stream_s)))
