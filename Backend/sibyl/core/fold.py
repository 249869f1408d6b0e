"""What a log says: the events that count, in order.

A log may hold events that do not count. When Redis lost its newest writes (power loss, failover), or a worker lost its
lease, an event with ``kept`` says how many outputs of the answer stay; later ones of earlier epochs are void. ``Fold``
applies this rule, so every reader that folds the same log sees the same answer.
"""

from collections.abc import Iterable, Sequence

from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Cancelled, Completed, Entry, Expired, Failed, Output, Started, Terminal


class Fold:
    """The events that count of one log, grown entry by entry."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Fold a whole log, read from its start."""
        self.entries: list[Entry] = []
        self.outputs = 0  #: how many of the entries are outputs
        self.last: Cursor = START  #: the last entry of the log, whether it counts or not
        self.epoch = 0  #: of the attempt that now writes
        self.terminal = False
        for entry in entries:
            self._take(entry)

    def follows(self, entry: Entry) -> bool:
        """Whether ``entry`` can only be the one after ``last``, so that nothing was lost or taken back in between."""
        cursor, event = entry.cursor, entry.event
        if self.terminal or cursor <= self.last:
            return False
        match event:
            case Output():
                return cursor == Cursor(self.epoch, self.outputs + 1)
            case Started() | Completed() | Failed() | Cancelled() | Expired() if event.previous != START:
                return event.previous == self.last and event.kept == self.outputs
            case Completed() | Failed() | Cancelled() | Expired():
                return cursor == Cursor(self.epoch, self.outputs + 1) and event.kept == self.outputs
            case _:
                return self.last == START

    def append(self, entry: Entry) -> bool:
        """Take ``entry`` if it ``follows`` and return True; else leave the fold as it is and return False."""
        if not self.follows(entry):
            return False
        self._take(entry)
        return True

    def _take(self, entry: Entry) -> None:
        event = entry.event
        match event:
            case Output():
                if entry.cursor.offset != self.outputs + 1:
                    return self._skip(entry)  # a stray entry of a torn write
                self.outputs += 1
            case Started() | Completed() | Failed() | Cancelled() | Expired():
                if event.kept < self.outputs or self.terminal:
                    self._rewind(event.kept)
                self.terminal = not isinstance(event, Started)
        self.epoch = entry.cursor.epoch
        self.last = entry.cursor
        self.entries.append(entry)

    def _skip(self, entry: Entry) -> None:
        self.last = entry.cursor

    def _rewind(self, kept: int) -> None:
        outputs = 0
        counting: list[Entry] = []
        for entry in self.entries:
            outputs += isinstance(entry.event, Output)
            if (isinstance(entry.event, Output) and outputs > kept) or isinstance(entry.event, Terminal):
                continue  # void; an end that something follows came from a torn write
            counting.append(entry)
        self.entries = counting
        self.outputs = min(kept, outputs)

    def answer(self) -> tuple[Output, ...]:
        """Return the outputs that count."""
        return outputs_of(self.entries)

    def text(self) -> str:
        """Return the answer as far as it is stored."""
        return "".join(output.text for output in self.answer())


def outputs_of(entries: Sequence[Entry]) -> tuple[Output, ...]:
    """Return the outputs among ``entries``."""
    return tuple(entry.event for entry in entries if isinstance(entry.event, Output))
