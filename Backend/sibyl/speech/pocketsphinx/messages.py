"""What a recogniser and its child processes say to each other, over two pipes.

A message is a letter, the length of its body in four bytes, and the body. The child says once what it is, then answers
each request with one reply. A request's body is PCM (signed 16 bit, little-endian, mono, 16 kHz) or JSON; a reply's is
JSON. Positions are samples of the session, from its begin.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from sibyl.speech.hearing import Final, Partial, SpeechStarted, UtteranceEnd, Word

RATE_HZ = 16_000
FRAME_SAMPLES = 480  # 30 ms, the longest piece that the voice activity detector takes

_HEAD = struct.Struct("<cI")
_KINDS: dict[str, Callable[..., "Told"]] = {
    kind.__name__: kind for kind in (SpeechStarted, Partial, Final, UtteranceEnd)
}

Told = SpeechStarted | Partial | Final | UtteranceEnd
"""What a child hears. The rest is added outside."""


class Ask(Enum):
    """What a child can be asked to do. The value is the letter."""

    BEGIN = b"B"  #: a session begins, at a resume point
    RECALL = b"R"  #: this audio comes before the resume point: learn the noise, hear no words
    HEAR = b"H"
    STOP = b"S"  #: decode all and tell it for good, although more may come


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How a session sounds, its speaker and microphone together."""

    means: tuple[float, ...]  #: of the cepstral coefficients
    frames: float  #: of speech that they were taken from, 10 ms each


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """From here another child can go on as if it had heard all: what came before was told in finals, or was silence."""

    at: int = 0
    voice: Voice | None = None
    going_on: bool = False  #: an utterance was cut here; whoever spoke may still speak

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "ResumePoint":
        """Read it from JSON."""
        voice = fields["voice"] and Voice(means=tuple(fields["voice"]["means"]), frames=fields["voice"]["frames"])
        return cls(at=fields["at"], voice=voice, going_on=fields["going_on"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """What a child needs to know of a session."""

    at: int  #: where the audio begins that comes first
    point: ResumePoint
    endpointing_s: float | None
    interim: bool

    def body(self) -> bytes:
        """Write it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, body: bytes) -> "Begin":
        """Read it from JSON."""
        fields = json.loads(body)
        return cls(**{**fields, "point": ResumePoint.read(fields["point"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a request, or the greeting."""

    told: tuple[Told, ...] = ()
    processed: int = 0  #: all before it was taken by the decoder, or found to be silence
    point: ResumePoint = field(default_factory=ResumePoint)
    model: str | None = None  #: in the greeting
    missing: str | None = None  #: in the greeting: why there is no model

    def body(self) -> bytes:
        """Write it as JSON."""
        told = [{"kind": type(item).__name__, **asdict(item)} for item in self.told]
        return json.dumps({**asdict(self), "told": told}).encode()

    @classmethod
    def read(cls, body: bytes) -> "Reply":
        """Read it from JSON."""
        fields = json.loads(body)
        told = tuple(_told(item) for item in fields["told"])
        return cls(**{**fields, "told": told, "point": ResumePoint.read(fields["point"])})


def _told(fields: dict[str, Any]) -> Told:
    kind = _KINDS[fields.pop("kind")]
    if "words" in fields:
        fields["words"] = tuple(Word(**word) for word in fields["words"])
    return kind(**fields)


def packed(letter: bytes, body: bytes) -> bytes:
    """Return a message as bytes."""
    return _HEAD.pack(letter, len(body)) + body


def unpacked(data: bytes | bytearray) -> tuple[bytes, bytes, int] | None:
    """Return letter, body and length of the message at the begin of the data, or None while it is not whole."""
    if len(data) < _HEAD.size:
        return None
    letter, size = _HEAD.unpack_from(data)
    end = _HEAD.size + size
    return (letter, bytes(data[_HEAD.size : end]), end) if len(data) >= end else None
