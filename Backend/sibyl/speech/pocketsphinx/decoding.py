"""One session's utterances on a decoder, which is told how the session sounds as early as that can be known.

PocketSphinx subtracts the mean of the cepstra, which stands for the microphone, the room and the voice. It begins with
a mean that fits nobody and learns slowly. Here it is taken from a session's first speech itself, and while there is
little of that (after 0.9 and 2 s) the utterance is decoded anew with the better one.

What a decoder learned stays in it, the mean and the noise that it subtracts, and the same words would be heard
otherwise after another session. So an utterance brings its session's mean along and begins with no noise known; another
decoder can go on after any utterance and hear the same.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sibyl.speech.pocketsphinx.messages import RATE_HZ, Voice

FRAME_S = 0.01  # of the decoder
OPENING_FRAMES = 200  # of speech are enough to know how a session sounds
_LOOKS = (90, OPENING_FRAMES)
_FRAME_BYTES = round(2 * RATE_HZ * FRAME_S)
_NOBODY = (40.0, 3.0, -1.0)  # the decoder's own first mean; the others are 0
_WEIGHT = 500  # frames that the decoder holds a given mean to stand for
_PROBE = 1000.0
_LISTEN_ONLY = "listen-only"
_NOTHING = "#JSGF V1.0; grammar nothing; public <nothing> = a;"
_FILLER = re.compile(r"[<\[+]")  # <s>, <sil>, [NOISE], ++UH++
_ALTERNATE = re.compile(r"\(\d+\)$")  # of(2): another way to say the word


class Segment(Protocol):
    """A word as the decoder gives it. The end frame is the last one of it."""

    word: str
    start_frame: int
    end_frame: int


class Decoder(Protocol):
    """What is used of PocketSphinx's decoder."""

    def start_stream(self) -> None: ...
    def start_utt(self) -> None: ...
    def end_utt(self) -> None: ...
    def process_raw(self, data: bytes, no_search: bool = ...) -> Any: ...
    def seg(self) -> Iterable[Segment] | None: ...
    def activate_search(self, search_name: str | None = ...) -> None: ...
    def add_jsgf_string(self, name: str, jsgf_string: str) -> None: ...
    def get_cmn(self, update: bool = ...) -> str: ...
    def set_cmn(self, cmn: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word, and when it was said, in seconds from the begin of its utterance."""

    text: str
    start_s: float
    end_s: float


def prepared(decoder: Decoder) -> Decoder:
    """Return a decoder, just loaded, as ``Decoding`` needs it."""
    # The decoder cannot take means without searching for words. Where there is but one to find, that costs a fortieth.
    decoder.add_jsgf_string(_LISTEN_ONLY, _NOTHING)
    return decoder


class Decoding:
    """The utterances of one session, one at a time."""

    def __init__(self, decoder: Decoder, voice: Voice | None) -> None:
        """Take the decoder for a session.

        Args:
            voice: how the session sounds; None: nothing was said yet.
        """
        self._decoder = decoder
        size = len(_numbers(decoder.get_cmn(False)))
        self.voice = voice or Voice(means=(*_NOBODY, *(0.0,) * (size - len(_NOBODY))), frames=0)
        self._active = False
        self._begun = b""  # the utterance so far, while the voice is not known well
        self._guess = self.voice
        self._looked = 0  # bytes of it that the guess stands on
        self._learning = self.voice.frames < OPENING_FRAMES

    def begin(self) -> None:
        """An utterance begins."""
        self._begun, self._looked, self._guess = b"", 0, self.voice
        self._active = self.voice.frames > 0
        if self._active:
            self._start(self.voice)

    def put(self, frames: Iterable[bytes]) -> None:
        """Decode the next part of the utterance."""
        pcm = b"".join(frames)
        if not self._learning:
            self._decoder.process_raw(pcm)
            return
        before = self.voice.frames + len(self._begun) / _FRAME_BYTES
        self._begun += pcm
        now = self.voice.frames + len(self._begun) / _FRAME_BYTES
        if any(before < look <= now for look in _LOOKS):
            self._decode_anew()
            self._learning = now < OPENING_FRAMES
        elif self._active:
            self._decoder.process_raw(pcm)

    def words(self) -> list[Spoken]:
        """Return the words of the utterance so far, as they seem now."""
        if not self._active:
            return []
        return [
            Spoken(_ALTERNATE.sub("", each.word), each.start_frame * FRAME_S, (each.end_frame + 1) * FRAME_S)
            for each in self._decoder.seg() or ()
            if not _FILLER.match(each.word)
        ]

    def end(self) -> list[Spoken]:
        """The utterance is over. Return its words, for good."""
        if self._learning and not self._looked:  # it is too short to have been looked at
            self._decode_anew()
        if not self._active:
            return []
        self._decoder.end_utt()
        words = self.words()
        self._active = False
        if not words:  # noise, which says nothing of the speaker
            self._learning = self.voice.frames < OPENING_FRAMES
        elif self._learning:
            self.voice = self._guess
            self._learning = self.voice.frames < OPENING_FRAMES
        else:
            self.voice = Voice(means=self._mean(), frames=OPENING_FRAMES)
        return words

    def abandon(self) -> None:
        """Leave the decoder so that another session can take it."""
        if self._active:
            self._decoder.end_utt()
            self._active = False

    def _decode_anew(self) -> None:
        self.abandon()
        self._guess = self._with_what_was_said()
        self._looked = len(self._begun)
        self._start(self._guess)
        self._decoder.process_raw(self._begun)

    def _start(self, voice: Voice) -> None:
        self._open(voice.means)
        self._active = True

    def _with_what_was_said(self) -> Voice:
        """Return the voice with the utterance so far."""
        # The decoder says a mean in which a given one weighs as _WEIGHT frames. Two given ones show the number of
        # frames that went in (it leaves out some that are all but silent), and so their own mean.
        low = self._mean_with((0.0,) * len(self.voice.means))
        high = self._mean_with((_PROBE,) * len(self.voice.means))
        frames = _WEIGHT * _PROBE / (high[0] - low[0]) - _WEIGHT
        if frames < 1:
            return self._guess
        total = self.voice.frames + frames
        means = tuple(
            (old * self.voice.frames + new * (_WEIGHT + frames)) / total
            for old, new in zip(self.voice.means, low, strict=True)
        )
        return Voice(means=means, frames=total)

    def _mean_with(self, given: tuple[float, ...]) -> tuple[float, ...]:
        self._decoder.activate_search(_LISTEN_ONLY)
        self._open(given)
        # No more than the opening: beyond 800 frames, with those of the given mean, the decoder forgets the first.
        self._decoder.process_raw(self._begun[: OPENING_FRAMES * _FRAME_BYTES])
        self._decoder.end_utt()
        self._decoder.activate_search()
        return self._mean()

    def _mean(self) -> tuple[float, ...]:
        # True: at some lengths the end of an utterance does not bring it up to date.
        return _numbers(self._decoder.get_cmn(True))

    def _open(self, means: tuple[float, ...]) -> None:
        self._decoder.set_cmn(_written(means))
        self._decoder.start_stream()  # forgets the noise of what was decoded before
        self._decoder.start_utt()


def _numbers(cmn: str) -> tuple[float, ...]:
    return tuple(float(number) for number in cmn.split(","))


def _written(means: tuple[float, ...]) -> str:
    return ",".join(f"{mean:.6g}" for mean in means)
