"""What a session wants done outside itself. Its caller does it, in order."""

from dataclasses import dataclass

from sibyl.speech.inlet import Taken
from sibyl.wire.speech import SpeechConfig


@dataclass(frozen=True, slots=True)
class Begin:
    """Call the recogniser."""

    config: SpeechConfig


@dataclass(frozen=True, slots=True)
class Resume:
    """Find the session with this token and attach the client to it; else ``begin`` this one anew."""

    token: str
    last_seq: int


@dataclass(frozen=True, slots=True)
class Feed:
    """Put this into the recogniser's inlet."""

    item: Taken


@dataclass(frozen=True, slots=True)
class Stop:
    """Abort the recogniser; nothing that it hears counts any more."""


Effect = Begin | Resume | Feed | Stop
