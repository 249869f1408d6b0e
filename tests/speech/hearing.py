"""A recogniser run to its end in a test's own thread, and audio for the scripted one."""

import struct
from collections.abc import Iterable

from sibyl.bridge.abort import Abort
from sibyl.speech.hearing import Final, Heard
from sibyl.speech.inlet import END, AudioInlet, Taken
from sibyl.speech.recogniser import Recogniser, RecognitionRequest

RATE_HZ = 16_000


def block(value: int, *, samples: int = RATE_HZ // 10) -> bytes:
    """Return a block of the scripted recogniser: silence for 0, a word above, a directive below."""
    return struct.pack("<h", value) * samples


def blocks(*values: int) -> bytes:
    """Return several blocks."""
    return b"".join(map(block, values))


def words(first: int, last: int) -> str:
    """Return the text of the blocks first to last."""
    return " ".join(f"w{value}" for value in range(first, last + 1))


def hear(recogniser: Recogniser, items: Iterable[Taken], **wishes: object) -> list[Heard]:
    """Return all that it hears in these items."""
    abort = Abort()
    inlet = AudioInlet(abort)
    for item in items:
        inlet.put(item)
    inlet.put(END)
    heard: list[Heard] = []
    request = RecognitionRequest(**{"sample_rate_hz": RATE_HZ, "abort": abort, **wishes})  # type: ignore[arg-type]
    recogniser.recognise(request, inlet, heard.append)
    return heard


def text_of(heard: Iterable[Heard]) -> str:
    """Return the finals as one text."""
    return " ".join(item.text for item in heard if isinstance(item, Final))
