"""The closed set of things that a recogniser hears. All times are seconds of the session's audio, from its begin.

A recogniser emits ``Listening`` first. Then, for each piece of speech: ``SpeechStarted``, any number of ``Partial``,
one or more ``Final``, ``UtteranceEnd``. ``Processed`` may come between any two.
"""

from dataclasses import dataclass

from sibyl.core.transcript import Word as Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """It is loaded and takes audio."""

    model: str  #: as clients see it


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted:
    """Somebody began to speak."""

    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What was said since the last final, as it seems now; the next one replaces it."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What was said; it will not change. Never empty."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    language: str | None = None  #: None: the one that was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceEnd:
    """The speaker stopped, and all of it was told in finals."""

    last_word_end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """All audio up to here has been decoded. Rises; after the end of the audio it says all of it."""

    audio_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushed:
    """All that was handed in before this flush has been decoded and told in finals."""

    number: int


Heard = Listening | SpeechStarted | Partial | Final | UtteranceEnd | Processed | Flushed
