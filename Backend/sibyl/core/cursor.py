"""A reader's place in a log: (epoch, offset), written ``<epoch>-<offset>``, as SSE ids and Redis stream ids are.

The offset counts the answer's outputs, so it rises by one from event to event within an epoch; each claim raises
the epoch. Order is that of the pair.
"""

import re
from dataclasses import dataclass

from sibyl.core.errors import InvalidCursor

_PATTERN = re.compile(r"(\d{1,15})-(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """The last event that a reader has."""

    epoch: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Return the cursor that ``text`` names.

        Raises:
            InvalidCursor: anything but ``<1 to 15 digits>-<1 to 9 digits>``.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise InvalidCursor()
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"


START = Cursor(0, 0)  # before every event: reading after it yields the whole log
