"""What tests of the plugin share: frames for the scripted recogniser, and a listener that keeps what a stream says."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable

from livekit import rtc
from livekit.agents.stt import SpeechEvent, SpeechEventType
from livekit.plugins import custom_stt

from tests.speech.hearing import blocks

LIMIT_S = 15.0
RATE_HZ = 16_000
BLOCK_SAMPLES = 1_600  # 100 ms: a word, or silence

Type = SpeechEventType


def frame(pcm: bytes, rate_hz: int = RATE_HZ, channels: int = 1) -> rtc.AudioFrame:
    """Return PCM as a frame."""
    return rtc.AudioFrame(pcm, rate_hz, channels, len(pcm) // 2 // channels)


def frames(*values: int, frame_ms: int = 10) -> Iterable[rtc.AudioFrame]:
    """Return blocks of the scripted recogniser as frames of a microphone."""
    pcm, size = blocks(*values), RATE_HZ * 2 * frame_ms // 1000
    return (frame(pcm[start : start + size]) for start in range(0, len(pcm), size))


def said(values: Iterable[int]) -> str:
    """Return what is heard in them."""
    return " ".join(f"w{value}" for value in values if value)


class Heard:
    """What a stream says, as it says it."""

    def __init__(self, stream: custom_stt.SpeechStream) -> None:
        self.stream = stream
        self.events: list[SpeechEvent] = []
        self.ended_at = 0.0  #: on the loop's clock
        self._news = asyncio.Condition()
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async for event in self.stream:
                self.events.append(event)
                async with self._news:
                    self._news.notify_all()
        finally:
            self.ended_at = asyncio.get_running_loop().time()

    def push(self, *values: int, frame_ms: int = 10) -> None:
        """Push blocks."""
        for each in frames(*values, frame_ms=frame_ms):
            self.stream.push_frame(each)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; events make it look again."""
        async with asyncio.timeout(LIMIT_S), self._news:
            await self._news.wait_for(lambda: holds() or self.listening.done())
        assert holds(), self.types

    async def end(self, *, within_s: float = LIMIT_S) -> list[SpeechEvent]:
        """Wait for the end of the iteration; raise what it raises, and return all events."""
        async with asyncio.timeout(within_s):
            await asyncio.wait([self.listening])
        self.listening.result()
        return self.events

    def of(self, type: SpeechEventType) -> list[SpeechEvent]:
        """The events of a type so far."""
        return [event for event in self.events if event.type is type]

    @property
    def types(self) -> list[str]:
        """What came, without repeats in a row and without usage."""
        kinds = (event.type.value for event in self.events if event.type is not Type.RECOGNITION_USAGE)
        return [kind for kind, _ in itertools.groupby(kinds)]

    @property
    def finals(self) -> list[str]:
        """The texts of the finals so far."""
        return [event.alternatives[0].text for event in self.of(Type.FINAL_TRANSCRIPT)]

    @property
    def text(self) -> str:
        """All finals as one text."""
        return " ".join(self.finals)

    @property
    def usage_s(self) -> float:
        """The audio that was reported as recognised."""
        return sum(
            event.recognition_usage.audio_duration
            for event in self.of(Type.RECOGNITION_USAGE)
            if event.recognition_usage
        )


@contextlib.asynccontextmanager
async def hearing(stt: custom_stt.STT, stream: custom_stt.SpeechStream | None = None) -> AsyncIterator[Heard]:
    """Open a stream, listen to it, and close all at the end."""
    async with stt:
        heard = Heard(stream or stt.stream())
        try:
            yield heard
        finally:
            heard.listening.cancel()
            await asyncio.wait([heard.listening])
            await heard.stream.aclose()
