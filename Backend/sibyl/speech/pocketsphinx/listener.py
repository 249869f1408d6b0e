"""One session inside a child process: audio in, what is heard out, and from where another child could go on.

Audio is cut into frames of 30 ms. The detector says which sound like speech, the gate lets utterances through, the
decoder makes words of them. Everything depends on the samples alone, not on the pieces in which they come.
"""

from collections.abc import Callable

from sibyl.speech.hearing import Final, Partial, SpeechStarted, UtteranceEnd, Word
from sibyl.speech.pocketsphinx.decoding import Decoder, Decoding, Spoken
from sibyl.speech.pocketsphinx.gate import FrameGate
from sibyl.speech.pocketsphinx.messages import FRAME_SAMPLES, RATE_HZ, Begin, Reply, ResumePoint, Told

ENDPOINTING_S = 0.3
PARTIAL_SAMPLES = RATE_HZ // 5  # between two partials
LONG_SAMPLES = 20 * RATE_HZ  # an utterance of that length ends at the next little pause
LONGEST_SAMPLES = 30 * RATE_HZ  # and one of this length ends wherever it is
LITTLE_PAUSE_FRAMES = 3
_FRAME_BYTES = 2 * FRAME_SAMPLES
_FRAME_S = FRAME_SAMPLES / RATE_HZ


class Listener:
    """One session, or the rest of one that another child began."""

    def __init__(self, decoder: Decoder, is_speech: Callable[[bytes], bool], begin: Begin) -> None:
        """Begin it.

        Args:
            is_speech: says of a frame of 30 ms whether it sounds like speech.
        """
        self._is_speech = is_speech
        self._interim = begin.interim
        silence_frames = max(1, round((begin.endpointing_s or ENDPOINTING_S) / _FRAME_S))
        self._gate = FrameGate(silence_frames=silence_frames, going_on=begin.point.going_on)
        self._decoding = Decoding(decoder, begin.point.voice)
        self._point = begin.point
        self._rest = b""  # no whole frame yet
        self._at = begin.at  # where the rest begins
        self._utterance_at = 0
        self._partial_at = 0
        self._partial_text = ""
        self._told: list[Told] = []

    def recall(self, pcm: bytes) -> Reply:
        """Take audio that was heard before: the detector gets to know the noise."""
        for frame in self._frames(pcm):
            self._is_speech(frame)
            self._at += FRAME_SAMPLES
        return self._reply()

    def hear(self, pcm: bytes) -> Reply:
        """Take the next audio."""
        for frame in self._frames(pcm):
            self._at += FRAME_SAMPLES
            self._take(frame, self._at)
        self._tell_partial()
        return self._reply()

    def stop(self) -> Reply:
        """Decode all that came, and tell it for good. What comes next may be the middle of a word."""
        if rest := self._rest:
            self._rest = b""
            frame_end = self._at + FRAME_SAMPLES
            self._at += len(rest) // 2
            self._take(rest.ljust(_FRAME_BYTES, b"\0"), frame_end)
        else:
            frame_end = self._at
        if self._gate.speaking:
            self._cut()
        if frames := self._gate.stop():
            self._begin(frame_end - FRAME_SAMPLES * len(frames))
            self._decoding.put(frames)
            self._finish()
        self._point = ResumePoint(at=self._at, voice=self._decoding.voice, going_on=self._gate.going_on)
        return self._reply()

    def abandon(self) -> None:
        """The session is over, or forsaken."""
        self._decoding.abandon()

    def _frames(self, pcm: bytes) -> list[bytes]:
        whole = self._rest + pcm
        end = len(whole) - len(whole) % _FRAME_BYTES
        self._rest = whole[end:]
        return [whole[start : start + _FRAME_BYTES] for start in range(0, end, _FRAME_BYTES)]

    def _take(self, frame: bytes, frame_end: int) -> None:
        gate, spoke = self._gate, self._gate.speaking
        frames = gate.take(frame, self._is_speech(frame))
        if gate.speaking and not spoke:
            self._begin(frame_end - FRAME_SAMPLES * len(frames))
        if frames:
            self._decoding.put(frames)
        if spoke and not gate.speaking:
            self._finish()
        elif gate.speaking and self._long_enough():
            self._cut()
        if not gate.speaking and not gate.going_on:
            self._point = ResumePoint(at=frame_end - FRAME_SAMPLES * gate.waiting, voice=self._decoding.voice)

    def _long_enough(self) -> bool:
        length = self._at - self._utterance_at
        return length >= LONGEST_SAMPLES or (length >= LONG_SAMPLES and self._gate.pause >= LITTLE_PAUSE_FRAMES)

    def _begin(self, at: int) -> None:
        self._utterance_at = self._partial_at = at
        self._partial_text = ""
        self._told.append(SpeechStarted(at_s=at / RATE_HZ))
        self._decoding.begin()

    def _cut(self) -> None:
        if kept := self._gate.cut():
            self._decoding.put(kept)
        self._finish()
        at = self._at - FRAME_SAMPLES * self._gate.waiting
        self._point = ResumePoint(at=at, voice=self._decoding.voice, going_on=True)

    def _finish(self) -> None:
        words = self._timed(self._decoding.end())
        if words:
            text = " ".join(word.text for word in words)
            self._told.append(Final(text=text, start_s=words[0].start_s, end_s=words[-1].end_s, words=words))
        self._told.append(UtteranceEnd(last_word_end_s=words[-1].end_s if words else self._at / RATE_HZ))

    def _tell_partial(self) -> None:
        if not self._interim or not self._gate.speaking or self._at - self._partial_at < PARTIAL_SAMPLES:
            return
        self._partial_at = self._at
        words = self._timed(self._decoding.words())
        text = " ".join(word.text for word in words)
        if text and text != self._partial_text:
            self._partial_text = text
            self._told.append(Partial(text=text, start_s=words[0].start_s, end_s=words[-1].end_s, words=words))

    def _timed(self, words: list[Spoken]) -> tuple[Word, ...]:
        begin_s, now_s = self._utterance_at / RATE_HZ, self._at / RATE_HZ  # a padded frame may reach beyond now
        return tuple(
            Word(text=word.text, start_s=min(begin_s + word.start_s, now_s), end_s=min(begin_s + word.end_s, now_s))
            for word in words
        )

    def _reply(self) -> Reply:
        told, self._told = tuple(self._told), []
        return Reply(told=told, processed=self._at, point=self._point)
