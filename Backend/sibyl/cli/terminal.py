"""Where text goes: the answer to standard output, words about it to standard error, and one line that is rewritten.

What a model or a server says is not trusted: on a terminal its control characters are dropped, because they could move
the cursor, rename the window or worse. Into a file or a pipe the text goes as it is.
"""

import io
import os
import re
import shutil
import sys
from typing import TextIO

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all of C0 but tab and line feed, DEL, C1


def printable(text: str) -> str:
    """Return ``text`` without control characters, except line feeds and tabs."""
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Return ``text`` as one printable line."""
    return printable(" ".join(text.split()))


class Terminal:
    """Standard output and standard error, which may be the same screen."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out, self._err = out or sys.stdout, err or sys.stderr
        for stream in (self._out, self._err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # half a surrogate pair, or a letter that a locale lacks
        self._out_is_screen, self._err_is_screen = self._out.isatty(), self._err.isatty()
        self._at_line_start = True
        self._status = ""

    @property
    def shows_status(self) -> bool:
        """Whether there is a screen for a passing line."""
        return self._err_is_screen

    def write(self, text: str) -> None:
        """Add to the answer, and show it at once."""
        if not text:
            return
        self.status("")
        self._out.write(printable(text) if self._out_is_screen else text)
        self._out.flush()
        self._at_line_start = text.endswith("\n")

    def finish_line(self) -> None:
        """End the line of the answer, if it is not ended."""
        if not self._at_line_start:
            self.write("\n")

    def note(self, text: str) -> None:
        """Say something about the answer, on a line of its own."""
        self.status("")
        if self._out_is_screen:
            self.finish_line()
        self._err.write(f"sibyl: {one_line(text)}\n")
        self._err.flush()

    def status(self, text: str) -> None:
        """Show one passing line, or none, on a screen only, and only where it disturbs no answer."""
        if not self._err_is_screen or (self._out_is_screen and not self._at_line_start) or text == self._status:
            return
        width = shutil.get_terminal_size().columns - 1
        line = one_line(text)[:width]
        self._err.write(f"\r{' ' * len(self._status)}\r{line}")
        self._err.flush()
        self._status = line

    def silence(self) -> None:
        """Take standard output away after whoever read it has left, so that nothing complains at the exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
