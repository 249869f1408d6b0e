"""A log that is read as a whole. Its outputs, nearly all of it, stay as Redis sent them until they are looked at.

To turn ten thousand outputs into events takes longer than to read them and to send them on, and a reader who replays
an answer needs frames, for which text and place are enough. So a fold made here holds its plain outputs as they came,
after it has seen that they follow each other; whatever is anything else is decoded and folded as everywhere.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, SupportsIndex, cast, overload

from sibyl.core.cursor import Cursor
from sibyl.core.errors import InvalidCursor, LogUnreadable
from sibyl.core.event import Entry
from sibyl.core.fold import Fold
from sibyl.wire import record

Stored = tuple[str, Sequence[str]]
"""An entry as Redis sends it: stream id, and names and values in turn."""

_TEXT, _TOKEN_IDS = record.FIELDS["TEXT"], record.FIELDS["TOKEN_IDS"]
_PLAIN_IDS = re.compile("[0-9 ]*")  # without anything behind them


class Entries(list[Entry]):
    """Entries, some of which are made when they are looked at."""

    @overload
    def __getitem__(self, place: SupportsIndex) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Entry | list[Entry]:
        found = super().__getitem__(place)
        return (
            [_entry(each) for each in found] if isinstance(found, list) and isinstance(place, slice) else _entry(found)
        )

    def __iter__(self) -> Iterator[Entry]:
        return map(_entry, super().__iter__())

    def __eq__(self, other: object) -> bool:
        return [*self] == other

    __hash__ = None


def as_stored(entries: list[Entry], start: int, stop: int) -> "list[Entry | Stored]":
    """Return the entries from ``start`` to before ``stop``; plain outputs as Redis sent them, if they still are so."""
    return cast("list[Entry | Stored]", list.__getitem__(entries, slice(start, stop)))


class History(Fold):
    """The fold of a whole log."""

    def __init__(self, raw: Sequence[Stored]) -> None:
        """Fold a log.

        Raises:
            LogUnreadable: an entry means nothing to this version.
        """
        super().__init__()
        self.entries = Entries()
        others = [place for place, (_, fields) in enumerate(raw) if not _is_output(fields)]
        try:
            for before, place in pairwise([-1, *others, len(raw)]):
                self._take_outputs(raw[before + 1 : place])
                if place < len(raw):
                    self._take(_decoded(raw[place]))
        except (ValueError, InvalidCursor):
            raise LogUnreadable() from None

    def _take_outputs(self, outputs: Sequence[Stored]) -> None:
        if not outputs:
            return
        epoch, first = Cursor.parse(outputs[0][0]).epoch, self.outputs + 1
        in_order = [f"{epoch}-{number}" for number in range(first, first + len(outputs))]
        token_ids = "".join([fields[3] for _, fields in outputs])
        if [place for place, _ in outputs] != in_order or not _PLAIN_IDS.fullmatch(token_ids):
            for output in outputs:
                self._take(_decoded(output))
            return
        if not isinstance(self.entries, Entries):  # something was void
            self.entries = Entries(self.entries)
        self.entries.extend(cast("Sequence[Entry]", outputs))
        self.outputs += len(outputs)
        self.epoch = epoch
        self.last = Cursor(epoch, self.outputs)


def _is_output(fields: Sequence[str]) -> bool:
    return len(fields) == 4 and fields[0] == _TEXT and fields[2] == _TOKEN_IDS


def _entry(found: Any) -> Entry:
    return found if isinstance(found, Entry) else _decoded(found)


def _decoded(raw: Stored) -> Entry:
    fields = iter(raw[1])
    return record.decode_entry(raw[0], dict(zip(fields, fields, strict=True)))
