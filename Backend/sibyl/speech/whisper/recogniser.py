"""The recogniser `faster_whisper`: Whisper on CTranslate2, on a model of the user's choice.

All sessions share one model, which is loaded when the first one begins and kept. It transcribes one passage at a time;
passages that a final waits for go first. When to transcribe, and what to tell, is decided in ``whisper_listener``.
"""

import threading

import numpy as np

from sibyl.bridge.abort import Abort
from sibyl.core.errors import RecogniserBusy
from sibyl.speech.hearing import Flushed, Listening, Processed
from sibyl.speech.inlet import END, AudioInlet, Flush
from sibyl.speech.recogniser import OnHeard, RecognitionRequest
from sibyl.speech.resampling import Resampler
from sibyl.speech.whisper.binding import WhisperBinding, described
from sibyl.speech.whisper.buffer import RATE_HZ, Hypothesis
from sibyl.speech.whisper.listener import Passage, WhisperListener
from sibyl.speech.whisper.silero import SileroStream
from sibyl.speech.whisper.turns import Turns

ENDPOINTING_S = 0.5
PROCESSED_EVERY_S = 0.1


class FasterWhisperRecogniser:
    """Whisper, for some sessions at a time."""

    name = "faster_whisper"

    def __init__(self, *, model: str, threads: int = 0, sessions: int = 4) -> None:
        """Prepare it. Nothing is imported or loaded yet.

        Args:
            model: a folder with a CTranslate2 model, or a name on the Hugging Face hub: "base.en", "owner/name".
            threads: of the one transcript that is computed at a time; 0 takes up to four.
            sessions: heard at a time.
        """
        self._model = model
        self._threads = threads
        self._seats = threading.Semaphore(sessions)
        self._turns = Turns()
        self._loaded: WhisperBinding | None = None

    def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
        """Take audio until its end and emit what is heard; see ``Recogniser.recognise``.

        An abort takes effect before the next computation of the model. The one under way cannot be stopped; the
        longest is the encoder's pass, on one core 0.6 s for a model of the size "tiny" and 5 s for "small".
        """
        if not self._seats.acquire(blocking=False):
            raise RecogniserBusy()
        try:
            self._recognise(request, audio, on_heard)
        finally:
            self._seats.release()

    def check(self) -> str:
        """Say what would be loaded; see ``Recogniser.check``."""
        return described(self._model)

    def close(self) -> None:
        """Let the model go. No recognition may be running."""
        self._loaded = None

    def _recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
        model = self._load(request.abort)
        language = model.language(request.language)

        def transcribe(passage: Passage) -> Hypothesis:
            with self._turns.turn(request.abort, urgent=passage.urgent):
                return model.transcribe(passage, language=language, abort=request.abort)

        listener = WhisperListener(
            voiced=SileroStream(),
            transcribe=transcribe,
            tell=on_heard,
            silence_s=ENDPOINTING_S if request.endpointing_s is None else request.endpointing_s,
            interim=request.interim,
            words=request.words,
        )
        on_heard(Listening(model=model.name))
        _Intake(request.sample_rate_hz, listener, on_heard).run(audio)

    def _load(self, abort: Abort) -> WhisperBinding:
        if self._loaded is None:
            with self._turns.turn(abort, urgent=True):  # a second session waits for the first one's load
                if self._loaded is None:
                    self._loaded = WhisperBinding(self._model, threads=self._threads)
        return self._loaded


class _Intake:
    """From one session's inlet to its listener: resamples, and counts what was processed."""

    def __init__(self, rate_hz: int, listener: WhisperListener, on_heard: OnHeard) -> None:
        self._rate_hz = rate_hz
        self._listener = listener
        self._on_heard = on_heard
        self._resampler = Resampler(rate_hz, RATE_HZ)
        self._taken = 0  # samples, at the session's rate
        self._processed_s = 0.0

    def run(self, audio: AudioInlet) -> None:
        listener = self._listener
        while True:
            # An interim transcript only when there is nothing else to take.
            item = audio.take(0 if listener.due else None)
            if item is None:
                listener.look()
            elif isinstance(item, bytes):
                self._taken += len(item) // 2
                self._hear(self._resampler.push(item))
            elif isinstance(item, Flush):
                self._hear(self._resampler.finish())
                listener.flush()
                self._all_processed()
                self._on_heard(Flushed(number=item.number))
            elif item is END:
                self._hear(self._resampler.finish())
                listener.finish()
                self._all_processed()
                return
            if listener.processed_s >= self._processed_s + PROCESSED_EVERY_S:
                self._processed(listener.processed_s)

    def _hear(self, pcm: bytes) -> None:
        self._listener.hear(np.frombuffer(pcm, "<i2").astype(np.float32) * np.float32(1 / 32_768))

    def _all_processed(self) -> None:
        self._processed(self._taken / self._rate_hz)

    def _processed(self, audio_s: float) -> None:
        self._processed_s = max(self._processed_s, min(audio_s, self._taken / self._rate_hz))
        self._on_heard(Processed(audio_s=self._processed_s))
