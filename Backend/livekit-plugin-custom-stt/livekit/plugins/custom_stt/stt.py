"""The framework's ``STT``: settings, streams, and whole buffers."""

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

import aiohttp
from livekit import rtc
from livekit.agents import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    LanguageCode,
    NotGivenOr,
    stt,
    utils,
)

from .audio import RetainedAudio
from .conversation import Conversation
from .mixing import mono
from .options import DEFAULT_URL, KEEPALIVE_S, RATES_HZ, Options
from .session import Session
from .stream import SpeechStream
from .transcript import Transcript, whole


class STT(stt.STT[Literal["metrics_collected", "error"]]):
    """Speech-to-text of a Sibyl server, over its WebSocket."""

    def __init__(
        self,
        *,
        url: str = DEFAULT_URL,
        language: str = "en",
        sample_rate: int = 16_000,
        provider: str | None = None,
        interim: bool = True,
        http_session: aiohttp.ClientSession | None = None,
        headers: Mapping[str, str] | None = None,
        keepalive_s: float = KEEPALIVE_S,
        heartbeat_s: float = 15.0,
        retained_s: float = 60.0,
        reconnect_attempts: int = 6,
        ready_s: float = 30.0,
        drain_s: float = 30.0,
        stall_s: float = 30.0,
    ) -> None:
        """Choose a server. Nothing is connected before a stream is made.

        Args:
            language: any form the framework knows: "en", "en-US", "english".
            sample_rate: Hz that are sent; frames of other rates are resampled. 16,000 is what recognisers compute with.
            provider: the server's recogniser, such as "pocketsphinx"; None: the server's default.
            interim: whether INTERIM_TRANSCRIPT events are wanted.
            http_session: used and not closed. None: that of the job, or outside a job one of its own.
            headers: for the request that opens the WebSocket, such as an Authorization for a proxy.
            keepalive_s: between two keepalives; the server may ask for less.
            heartbeat_s: of silence before a ping; without a pong for half of it the link is lost, and made again.
            retained_s: audio that is kept until it was told in finals, to be sent again after a cut. Of more the oldest
                is dropped, with a warning; ``SpeechStream.dropped_s`` counts what was lost by that.
            reconnect_attempts: in a row without progress, before the framework's own retries begin; 0: none.
            ready_s: for the server to load its recogniser.
            drain_s: for the server to tell the rest after the end of the input, where it does not name a limit.
            stall_s: for a server that has all the audio it can hold to hear some of it; then another session is begun.

        Raises:
            ValueError: a value cannot be used.
        """
        super().__init__(
            capabilities=stt.STTCapabilities(
                streaming=True,
                interim_results=interim,
                aligned_transcript="word",
                offline_recognize=True,
                manual_flush=True,
            )
        )
        self._options = Options(
            url=url,
            language=LanguageCode(language),
            sample_rate_hz=sample_rate,
            provider=provider,
            interim=interim,
            headers=dict(headers or {}),
            keepalive_s=keepalive_s,
            heartbeat_s=heartbeat_s,
            retained_s=retained_s,
            reconnect_attempts=reconnect_attempts,
            ready_s=ready_s,
            drain_s=drain_s,
            stall_s=stall_s,
        )
        self._given_http = http_session
        self._own_http: aiohttp.ClientSession | None = None
        self._streams: weakref.WeakSet[SpeechStream] = weakref.WeakSet()
        self._model = "unknown"
        self._provider = provider or "custom_stt"

    @property
    def model(self) -> str:
        """The recogniser's model, as the server named it; "unknown" before the first session."""
        return self._model

    @property
    def provider(self) -> str:
        """The server's recogniser; before the first session the one that was asked for, or "custom_stt"."""
        return self._provider

    async def __aenter__(self) -> Self:
        return self

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> SpeechStream:
        """Return a stream, which connects at once. Call it on the event loop."""
        stream = SpeechStream(
            stt=self, options=self._options, language=self._language(language), conn_options=conn_options
        )
        self._streams.add(stream)
        return stream

    async def aclose(self) -> None:
        """Close all streams, and the HTTP session if it is of our own. Twice is once."""
        for stream in tuple(self._streams):
            await stream.aclose()
        if self._own_http is not None:
            await self._own_http.close()
            self._own_http = None

    def http_session(self) -> aiohttp.ClientSession:
        """Return the HTTP session for the next connection."""
        if self._given_http is not None:
            return self._given_http
        try:
            return utils.http_context.http_session()
        except RuntimeError:  # outside a job
            if self._own_http is None or self._own_http.closed:
                self._own_http = aiohttp.ClientSession()
            return self._own_http

    def told(self, session: Session) -> None:
        """Note what a server said about its recogniser."""
        self._model = session.model or self._model
        self._provider = session.provider or self._provider

    async def _recognize_impl(
        self,
        buffer: utils.AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        """Send all, as fast as the server hears it, and return one final with all that was said."""
        frame = mono(rtc.combine_audio_frames(buffer))
        if frame.sample_rate not in RATES_HZ:
            raise ValueError(f"sample rates of 8000 to 48000 Hz are heard, not {frame.sample_rate}")
        spoken_in = self._language(language)
        audio = RetainedAudio(frame.sample_rate, None)
        audio.append(bytes(frame.data.cast("B")))
        audio.ended = True
        events: list[stt.SpeechEvent] = []
        session = Session(replace(self._options, interim=False), spoken_in, audio)
        conversation = Conversation(
            self._options,
            session,
            audio,
            Transcript(spoken_in, lambda stream_s: stream_s),
            http=self.http_session,
            emit=events.append,
            offset_s=lambda: 0.0,
            on_ready=lambda took_s: self.told(session),
        )
        try:
            await conversation.run(conn_options.timeout)
        finally:
            await conversation.aclose()
        return whole(events, spoken_in, session.id)

    def _language(self, language: NotGivenOr[str]) -> LanguageCode:
        return LanguageCode(language) if utils.is_given(language) else self._options.language
