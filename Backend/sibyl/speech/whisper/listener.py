"""When Whisper is asked, and what is told of its answers: one session's policy, which knows neither library nor thread.

Audio goes through the voice gate, frame by frame. What the gate calls speech gathers in a buffer, and nothing else is
ever transcribed: Whisper invents words for silence. While somebody speaks the buffer is transcribed every 0.8 s, and
once as soon as there is a pause, so that nothing is left to do when the pause turns out to be the end. These are asked
for by the caller when there is no other audio to take: who falls behind gets fewer partials, and loses no audio.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from sibyl.speech.hearing import Final, Partial, SpeechStarted, UtteranceEnd, Word
from sibyl.speech.recogniser import OnHeard
from sibyl.speech.whisper.buffer import RATE_HZ, Hypothesis, Samples, WhisperBuffer
from sibyl.speech.whisper.voice_gate import FRAME, VoiceBegan, VoiceEnded, VoiceGate

EVERY_S = 0.8  # of new speech between two transcripts
EVERY_QUIET_S = 2.0  # the same where nobody wants partials: still often enough that the client need not wait
PAUSE_S = 0.2  # a pause that may be the end
BEFORE_S, AFTER_S = 0.3, 0.2  # audio around the speech that Whisper gets as well: words begin and end softly


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Audio to transcribe."""

    samples: Samples
    start_s: float  #: where it begins, in the session
    prompt: str  #: what was said before
    urgent: bool  #: whether a final waits for it


Voiced = Callable[[Samples], Sequence[float]]
"""Says of each frame of some whole frames how probable it is that it is speech; remembers the frames before."""
Transcribe = Callable[[Passage], Hypothesis]


class WhisperListener:
    """One session. Not for several threads."""

    def __init__(
        self, *, voiced: Voiced, transcribe: Transcribe, tell: OnHeard, silence_s: float, interim: bool, words: bool
    ) -> None:
        """Begin in silence.

        Args:
            silence_s: silence that ends an utterance.
            interim: whether partials are wanted.
            words: whether words with times are wanted.
        """
        self._voiced = voiced
        self._transcribe = transcribe
        self._tell = tell
        self._interim = interim
        self._words = words
        self._gate = VoiceGate(silence_s=silence_s)
        self._buffer: WhisperBuffer | None = None  # while somebody speaks
        self._position = 0  # samples that went through the gate
        self._rest = np.zeros(0, np.float32)  # less than a frame, behind them
        self._rest_told = 0  # so much of it is in the buffer already
        self._recent: deque[Samples] = deque(maxlen=round(2 * BEFORE_S * RATE_HZ / FRAME))
        self._told = 0  # the sample up to which audio was transcribed for finals
        self._last_word_s: float | None = None  # of this piece of speech
        self._partial: tuple[Word, ...] = ()

    @property
    def due(self) -> bool:
        """Whether it is time for an interim transcript."""
        buffer = self._buffer
        if buffer is None:
            return False
        if self._gate.pause_s >= PAUSE_S:
            return buffer.decoded < self._gate.voice_end
        return buffer.end - buffer.decoded >= (EVERY_S if self._interim else EVERY_QUIET_S) * RATE_HZ

    @property
    def processed_s(self) -> float:
        """Up to here all audio was transcribed, or is known to be silence."""
        buffer = self._buffer
        done = self._position
        if buffer is not None and buffer.decoded < self._gate.voice_end:
            done = buffer.decoded
        return done / RATE_HZ

    def hear(self, samples: Samples) -> None:
        """Take the next samples. Tells finals of what ended in them."""
        audio = np.concatenate((self._rest, samples))
        whole = len(audio) // FRAME * FRAME
        self._rest = audio[whole:]
        frames = audio[:whole].reshape(-1, FRAME)
        for frame, probability in zip(frames, self._voiced(audio[:whole]), strict=True):
            self._hear_frame(frame, probability)

    def look(self) -> None:
        """Transcribe what is there for a partial."""
        if self._buffer is None:
            return
        self._transcript(self._buffer, self._buffer.end, urgent=False)
        words = self._buffer.words
        if self._interim and words and words != self._partial:
            self._partial = words
            said = _said(words)
            self._tell(
                Partial(
                    text=said.text,
                    start_s=words[0].start_s,
                    end_s=words[-1].end_s,
                    words=said.words if self._words else (),
                    confidence=said.confidence,
                )
            )

    def flush(self) -> None:
        """Tell all so far in finals; somebody may go on to speak."""
        if self._buffer is not None:
            self._buffer.push(self._rest[self._rest_told :])
            self._rest_told = len(self._rest)
            self._conclude(self._buffer, self._gate.voice_end if self._gate.pause_s else self._buffer.end)

    def finish(self) -> None:
        """Tell all in finals; no audio comes any more."""
        self.flush()
        if self._buffer is not None:
            self._speech_ended(self._gate.voice_end)

    def _hear_frame(self, frame: Samples, probability: float) -> None:
        self._position += FRAME
        self._recent.append(frame)
        if self._buffer is not None:
            self._buffer.push(frame[self._rest_told :])
        self._rest_told = 0
        event = self._gate.hear(probability)
        match event:
            case VoiceBegan():
                self._begin(event.at)
            case VoiceEnded():
                self._end(event.at)
            case None:
                if self._buffer is not None and self._buffer.full:
                    self._transcript(self._buffer, self._buffer.end, urgent=True)
            case _:
                assert_never(event)

    def _begin(self, at: int) -> None:
        there = self._position - FRAME * len(self._recent)  # the first sample that is still here
        start = max(self._told, there, at - round(BEFORE_S * RATE_HZ))
        self._buffer = WhisperBuffer(start)
        self._buffer.push(np.concatenate(self._recent)[start - there :])
        self._tell(SpeechStarted(at_s=at / RATE_HZ))

    def _end(self, at: int) -> None:
        if self._buffer is not None:
            self._conclude(self._buffer, at)
            self._speech_ended(at)

    def _conclude(self, buffer: WhisperBuffer, voice_end: int) -> None:
        """Tell the rest of a buffer in a final; the speech in it ends at ``voice_end``."""
        until = min(buffer.end, voice_end + round(AFTER_S * RATE_HZ))
        if buffer.decoded < voice_end:
            self._transcript(buffer, until, urgent=True)
        self._told = max(until, buffer.decoded)
        self._final(buffer.finish())

    def _speech_ended(self, at: int) -> None:
        last_s = at / RATE_HZ if self._last_word_s is None else self._last_word_s
        self._tell(UtteranceEnd(last_word_end_s=last_s))
        self._buffer = None
        self._last_word_s = None

    def _transcript(self, buffer: WhisperBuffer, until: int, *, urgent: bool) -> None:
        passage = Passage(
            samples=buffer.audio(until), start_s=buffer.start / RATE_HZ, prompt=buffer.prompt, urgent=urgent
        )
        self._final(buffer.hear(self._transcribe(passage), until))

    def _final(self, words: tuple[Word, ...]) -> None:
        if not words:
            return
        self._partial = ()
        said = _said(words)
        self._last_word_s = words[-1].end_s
        if said.text:
            self._tell(
                Final(
                    text=said.text,
                    start_s=words[0].start_s,
                    end_s=words[-1].end_s,
                    words=said.words if self._words else (),
                    confidence=said.confidence,
                )
            )


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    words: tuple[Word, ...]  # as clients see them
    confidence: float | None


def _said(words: tuple[Word, ...]) -> _Said:
    """Join words; they are as sure as they are on average."""
    sure = [word.confidence for word in words if word.confidence is not None]
    return _Said(
        "".join(word.text for word in words).strip(),
        tuple(replace(word, text=word.text.strip()) for word in words if word.text.strip()),
        sum(sure) / len(sure) if sure else None,
    )
