"""A reader: the copy of the log in an API process, its follower, and the client's screen.

What counts of a log, and what may follow it, is decided by Sibyl's own ``core.fold``; the tail and the follower around
it are written anew here, as pure functions.
"""

from typing import NamedTuple

from sibyl.core.fold import Fold
from tests.protocol.task import Answer, Entry, Log, real, spell

NOWHERE = (0, 0)


class Reader(NamedTuple):
    """One client, and what serves it."""

    feed: Log = ()  #: the log as the API process has it; nothing while the client is away
    seen: Log = ()  #: what the follower has sent of what counts in it
    cursor: tuple[int, int] = NOWHERE  #: the last id that the client got
    shown: Answer = ()  #: on its screen
    done: bool = False  #: it got a terminal event, or a 204
    went_back: bool = False  #: an id came that was no larger than the last, and no reset said so

    def __str__(self) -> str:
        place = "done" if self.done else f"at {self.cursor[0]}-{self.cursor[1]}" if self.feed else "away"
        return f"{place}, shows {spell(self.shown)}"


class Counted(NamedTuple):
    """What a log says."""

    entries: Log
    answer: Answer
    terminal: bool


class Reading:
    """How logs are read."""

    fold: type[Fold] = Fold

    def __init__(self) -> None:
        """Fold each log once."""
        self._folds: dict[Log, Fold] = {}
        self._counted: dict[Log, Counted] = {}

    def folded(self, log: Log) -> Fold:
        """The log, folded; not to be changed."""
        known = self._folds.get(log)
        if known is None:
            known = self._folds[log] = self.fold(map(real, log))
        return known

    def counted(self, log: Log) -> Counted:
        """The entries that count and the answer in them."""
        known = self._counted.get(log)
        if known is None:
            fold = self.folded(log)
            by_id = {entry.id: entry for entry in log}
            entries = tuple(by_id[entry.cursor.epoch, entry.cursor.offset] for entry in fold.entries)
            known = self._counted[log] = Counted(entries, _answer(entries), fold.terminal)
        return known

    # ---- the decisions

    def known(self, feed: Log, entry: Entry) -> bool:
        """Whether an entry was read before."""
        return entry.id <= feed[-1].id

    def follows(self, feed: Log, entry: Entry) -> bool:
        """Whether an entry can only be the next one."""
        return self.folded(feed).follows(real(entry))

    def vanished(self, feed: Log, log: Log) -> bool:
        """Whether a look at the log, after silence, shows that it was taken back."""
        return feed[-1].id not in {entry.id for entry in log}

    def goes_back(self, rest: Log, cursor: tuple[int, int]) -> bool:
        """Whether what comes next has no larger id than what the client has: a mark that it saw was lost."""
        return bool(rest) and rest[0].id <= cursor

    def cursor_after_reset(self, kept: Log, cursor: tuple[int, int]) -> tuple[int, int]:
        """What the client names after a reset, when it connects again: the last event that the reset left it."""
        return kept[-1].id if kept else NOWHERE

    # ---- what happens

    def connect(self, reader: Reader, log: Log) -> tuple[str, Reader]:
        """The client connects with its cursor to a process that has no feed of the task: it reads the log."""
        entries, _, terminal = self.counted(log)
        if terminal and log[-1].id == reader.cursor:
            return "connects and is told that it has all (204)", self._done(reader)
        if reader.cursor == NOWHERE:
            return "connects", reader._replace(feed=log, seen=())
        for place, entry in enumerate(entries, 1):
            if entry.id == reader.cursor:
                return "connects again and goes on", reader._replace(feed=log, seen=entries[:place])
        cursor = self.cursor_after_reset((), reader.cursor)
        return "connects again and is reset: its cursor is unknown", Reader(feed=log, cursor=cursor)

    def poll(self, reader: Reader, log: Log) -> tuple[str, Reader]:
        """The tail's XREAD gives what is newer than the feed's last entry."""
        feed = reader.feed
        for entry in log:
            if entry.id <= reader.feed[-1].id or self.known(feed, entry):
                continue
            if not self.follows(feed, entry):
                return f"gets {entry}, which cannot follow {feed[-1]}, and reads anew", reader._replace(feed=log)
            feed = (*feed, entry)
        return f"gets {' | '.join(map(str, feed[len(reader.feed) :]))}", reader._replace(feed=feed)

    def check(self, reader: Reader, log: Log) -> tuple[str, Reader]:
        """A second of silence: is the last entry still there?"""
        if not self.vanished(reader.feed, log):
            return "", reader
        return f"finds {reader.feed[-1]} gone and reads anew", reader._replace(feed=log)

    def deliver(self, reader: Reader) -> tuple[str, Reader]:
        """The follower sends the next frame, and the client shows it."""
        entries, _, terminal = self.counted(reader.feed)
        taken = 0
        while taken < len(reader.seen) and taken < len(entries) and reader.seen[taken] == entries[taken]:
            taken += 1
        kept = entries[:taken]
        if any(entry.token for entry in reader.seen[taken:]) or self.goes_back(entries[taken:], reader.cursor):
            cursor = self.cursor_after_reset(kept, reader.cursor)
            after = reader._replace(seen=kept, cursor=cursor, shown=_answer(kept))
            return f"is reset to {spell(after.shown)}", after
        if taken == len(entries):
            return "", reader._replace(seen=kept)
        entry = entries[taken]
        shown = (*reader.shown, entry.token) if entry.token else reader.shown
        went_back = reader.went_back or entry.id <= reader.cursor
        after = reader._replace(seen=(*kept, entry), cursor=entry.id, shown=shown, went_back=went_back)
        if terminal and taken + 1 == len(entries):
            after = self._done(after)
        return f"shows {entry}", after

    @staticmethod
    def _done(reader: Reader) -> Reader:
        return Reader(cursor=reader.cursor, shown=reader.shown, done=True, went_back=reader.went_back)


def _answer(entries: Log) -> Answer:
    return tuple(entry.token for entry in entries if entry.token)
