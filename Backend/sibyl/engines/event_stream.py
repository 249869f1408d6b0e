"""Server-sent events as a client reads them: bytes in, the data of whole events out. Pure; it owns no connection.

Lines end at LF, CR or CRLF and nowhere else; Python's ``splitlines``, and with it httpx's ``iter_lines``, would also
cut at U+2028 and others, which may stand unescaped in JSON.
"""

import re

LINE_BYTES = 1_048_576  # no event of a chat completion comes near it
_LINE_END = re.compile(rb"\r\n|\n|\r")


class LineTooLong(Exception):
    """A line or an event is longer than LINE_BYTES."""


class EventStream:
    """The reading end of one event stream."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes and return the data of each event that they complete.

        Raises:
            LineTooLong: the sender never ends a line or an event.
        """
        buffer = self._rest + chunk
        # A CR at the end may be the first half of CRLF.
        held = buffer[-1:] if buffer.endswith(b"\r") else b""
        lines = _LINE_END.split(buffer[: len(buffer) - len(held)])
        self._rest = lines.pop() + held
        found = [data for line in lines if (data := self._line(line)) is not None]
        if len(self._rest) + self._size > LINE_BYTES:
            raise LineTooLong()
        return found

    def _line(self, line: bytes) -> str | None:
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data).decode("utf-8", "replace") if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1
        return None
