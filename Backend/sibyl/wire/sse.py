"""Server-sent events, both directions: a frame to bytes, and bytes, cut anywhere, to frames.

The reading side keeps the rules of the HTML standard (9.2.5, 9.2.6): lines end at CRLF, LF or CR, one byte order mark
at the start is dropped, comments and unknown fields are ignored, an id with a NUL is ignored, and what no blank line
ends was never sent. One thing is left to the reader, who knows which events are places to go on from: how to reconnect.
So ``retry`` is ignored, as is an id in a block without data, and a frame tells only its own id.
"""

import re
from dataclasses import dataclass

FRAME_BYTES = 1024 * 1024  # a frame larger than this is a fault or an attack, not an answer

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class FrameTooLarge(ValueError):
    """A frame is larger than its reader allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One event as it was sent."""

    event: str  #: "message" when the sender named none
    data: str  #: lines joined by LF
    id: str | None  #: as in this very frame; None when it has none; "" takes back earlier ones


def encode(event: str, data: str, cursor: str | None) -> bytes:
    """Return the frame of one event, with CRLF line ends; ``cursor`` None leaves out the id.

    Raises:
        ValueError: a CR or LF anywhere, a NUL in the cursor, or text that is not Unicode; it would not come back.
    """
    place = cursor or ""
    if any("\r" in value or "\n" in value for value in (event, data, place)) or not event or "\0" in place:
        raise ValueError("an event is named, its name, data and cursor hold no line end, its cursor no NUL")
    head = "" if cursor is None else f"id: {cursor}\r\n"
    return f"{head}event: {event}\r\ndata: {data}\r\n\r\n".encode()


class Parser:
    """Reads one body. A new connection takes a new parser: what was half received died with the old one."""

    def __init__(self, *, frame_bytes: int = FRAME_BYTES) -> None:
        """``frame_bytes`` bounds what is held of one frame."""
        self._frame_bytes = frame_bytes
        self._line = bytearray()  # the line that has not ended yet
        self._after_cr = False  # an LF now belongs to the line end that was already seen
        self._first_line = True
        self._clear()

    def _clear(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes and return the frames that they complete, in order; often none.

        Raises:
            FrameTooLarge: more than ``frame_bytes`` without an end. The parser cannot be fed any more.
        """
        if not data:
            return []
        if self._after_cr:
            data = data.removeprefix(b"\n")
        frames: list[Frame] = []
        start = 0
        for end in _LINE_END.finditer(data):
            self._line += data[start : end.start()]
            start = end.end()
            self._check(len(self._line))
            line = bytes(self._line)
            self._line.clear()
            if (frame := self._take(line)) is not None:
                frames.append(frame)
        self._line += data[start:]
        self._check(len(self._line))
        # The line ended with the CR: waiting for its LF would hold back a whole frame until the next one comes.
        self._after_cr = start > 0 and data[start - 1 :] == b"\r"
        return frames

    def _check(self, line_bytes: int) -> None:
        if self._held_bytes + line_bytes > self._frame_bytes:
            raise FrameTooLarge(f"a frame of more than {self._frame_bytes} bytes")

    def _take(self, line: bytes) -> Frame | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        match name:
            case b"data":
                self._data.append(text)
                self._held_bytes += len(line)
            case b"event":
                self._event = text
            case b"id" if "\0" not in text:
                self._id = text
        return None

    def _dispatch(self) -> Frame | None:
        frame = Frame(event=self._event or "message", data="\n".join(self._data), id=self._id) if self._data else None
        self._clear()
        return frame
