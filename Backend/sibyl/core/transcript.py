"""What was heard in audio: words and segments with their times, in seconds from the begin of the audio."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word and when it was said."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None = None  #: 0 to 1; None: this recogniser has no usable one


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of speech. Its text stands in the transcript as it is; segments follow each other in time."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    language: str | None = None  #: None: the one that was asked for
