"""A deterministic recogniser, for tests, demos and load: no model, but every sample counts.

The audio is cut into blocks of 100 ms. A block of zeros is silence; a block in which every sample is v > 0 is the word
``w<v>``; any other block is the word ``garbled``. So the text shows whether a single byte was lost, doubled or moved.
300 ms of silence, or what was asked for, end an utterance. Negative values are directives:

    -1   raise RecogniserFailed
    -2   take half a second for the block
    -3   hang until it is aborted

What is left at the end and no whole block counts as processed, and is a word if all its samples are equal.
"""

import array
import math
import threading

from sibyl.bridge.abort import Abort
from sibyl.core.errors import RecogniserFailed
from sibyl.speech.hearing import Final, Flushed, Listening, Partial, Processed, SpeechStarted, UtteranceEnd, Word
from sibyl.speech.inlet import END, AudioInlet, Flush
from sibyl.speech.recogniser import OnHeard, RecognitionRequest

BLOCK_S = 0.1
ENDPOINTING_S = 0.3
SLOW_S = 0.5
_FAIL, _SLOW, _HANG = -1, -2, -3


class ScriptedRecogniser:
    """A recogniser that reads words from the values of samples."""

    name = "scripted"

    def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
        """Take audio until its end; see ``Recogniser.recognise``."""
        on_heard(Listening(model="scripted"))
        reading = _Reading(request, on_heard)
        while True:
            item = audio.take(most_bytes=reading.block_bytes)
            if isinstance(item, bytes):
                reading.push(item)
            elif isinstance(item, Flush):
                reading.end_utterance()
                on_heard(Processed(audio_s=reading.at_s))
                on_heard(Flushed(number=item.number))
            elif item is END:
                reading.finish()
                return

    def check(self) -> str:
        """Say that it is here."""
        return "reads words from the values of samples, for tests"

    def close(self) -> None:
        """Let nothing go; there is nothing."""


class _Reading:
    def __init__(self, request: RecognitionRequest, on_heard: OnHeard) -> None:
        self._request = request
        self._on_heard = on_heard
        self._rate_hz = request.sample_rate_hz
        self.block_bytes = 2 * round(BLOCK_S * self._rate_hz)
        self._rest = b""
        self._read = 0  # bytes that are decoded
        self._words: list[Word] = []
        endpointing_s = request.endpointing_s or ENDPOINTING_S
        self._silent_blocks = max(1, math.ceil(endpointing_s / BLOCK_S - 1e-9))
        self._silence = 0

    @property
    def at_s(self) -> float:
        return self._read / 2 / self._rate_hz

    def push(self, pcm: bytes) -> None:
        whole = self._rest + pcm
        end = len(whole) - len(whole) % self.block_bytes
        for start in range(0, end, self.block_bytes):
            self._block(whole[start : start + self.block_bytes])
        self._rest = whole[end:]

    def end_utterance(self) -> None:
        if not self._words:
            return
        words, self._words = tuple(self._words), []
        text = " ".join(word.text for word in words)
        end_s = words[-1].end_s
        self._on_heard(Final(text=text, start_s=words[0].start_s, end_s=end_s, words=words, confidence=1.0))
        self._on_heard(UtteranceEnd(last_word_end_s=end_s))

    def finish(self) -> None:
        if self._rest:
            self._block(self._rest)
        self.end_utterance()
        self._on_heard(Processed(audio_s=self.at_s))

    def _block(self, block: bytes) -> None:
        values = set(array.array("h", block))
        value = values.pop() if len(values) == 1 else None
        self._obey(value)
        start_s = self.at_s
        self._read += len(block)
        if value == 0:
            self._silence += 1
            if self._silence >= self._silent_blocks:
                self.end_utterance()
        else:
            self._silence = 0
            text = "garbled" if value is None else f"w{value}"
            if not self._words:
                self._on_heard(SpeechStarted(at_s=start_s))
            self._words.append(Word(text=text, start_s=start_s, end_s=self.at_s, confidence=1.0))
            if self._request.interim:
                words = tuple(self._words)
                self._on_heard(
                    Partial(
                        text=" ".join(word.text for word in words),
                        start_s=words[0].start_s,
                        end_s=self.at_s,
                        words=words,
                        confidence=1.0,
                    )
                )
        self._on_heard(Processed(audio_s=self.at_s))

    def _obey(self, value: int | None) -> None:
        if value == _FAIL:
            raise RecogniserFailed("The audio asked for a failure.")
        if value == _SLOW:
            _wait(self._request.abort, SLOW_S)
        if value == _HANG:
            _wait(self._request.abort, None)


def _wait(abort: Abort, timeout_s: float | None) -> None:
    stopped = threading.Event()
    with abort.hook(stopped.set):
        stopped.wait(timeout_s)
    abort.raise_if_requested()
