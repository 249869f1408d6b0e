"""Follow one answer from a cursor to its end: all that is stored, then what comes, in order, without gap or repeat."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Entry, Output
from sibyl.core.fold import outputs_of
from sibyl.store.feed import Feed


@dataclass(frozen=True, slots=True)
class Position:
    """So many tasks are ahead in the queue."""

    position: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The model has read so many of the prompt's tokens."""

    evaluated: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Reset:
    """What the follower has is not what the log says: ``text`` and its ``outputs`` stay, all after it comes anew."""

    outputs: int
    text: str
    cursor: Cursor  #: the event that ``text`` reaches to: where the follower goes on after it


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The task was erased while it was followed. Nothing follows."""


Hint = Position | Progress | Reset | Forgotten
Batch = Sequence[Entry | Hint]


def at_end(feed: Feed, after: Cursor) -> bool:
    """Whether the cursor is the terminal event, after which nothing comes."""
    return feed.fold.terminal and feed.fold.last == after


class Follower:
    """One reader's place in a feed. Nothing here waits: it is asked after each change."""

    __slots__ = ("_feed", "_fold", "_foreign", "_lost", "_position", "_progress", "over", "taken")

    def __init__(self, feed: Feed, after: Cursor) -> None:
        """Begin after a cursor.

        Args:
            feed: loaded.
            after: the last event that the reader has. One that the log does not hold leads to a ``Reset`` and the
                whole log: it is foreign, or Redis lost it.
        """
        self._feed = feed
        self._fold = feed.fold
        self._foreign = False
        self._lost: Cursor | None = None  # a mark without text that the reader has and the log has not
        self._position: int | None = None
        self._progress: tuple[int, int] | None = None
        self.taken = 0  #: entries of the fold that it has
        self.over = False  #: nothing follows what was taken
        if after != START:
            entries = feed.fold.entries
            place = bisect_left(entries, after, key=lambda entry: entry.cursor)
            self._foreign = place == len(entries) or entries[place].cursor != after
            self.taken = 0 if self._foreign else place + 1

    def rejoin(self) -> Reset | None:
        """Find its place in the feed as it is now. What is returned comes before all else."""
        fold = self._feed.fold
        if fold is self._fold and self._lost is None and not self._foreign:
            return None
        reset: Reset | None = None
        entries = fold.entries
        if self._foreign:
            self._foreign = False
            reset = Reset(0, "", START)
        if fold is not self._fold:
            seen = self._fold.entries[: self.taken]
            self._fold = fold
            self.taken = _common(seen, entries)
            if _has_text(seen[self.taken :]):
                reset = _reset(entries[: self.taken])
                self._lost = None
            elif self.taken < len(seen):
                self._lost = max(seen[-1].cursor, self._lost or START)
        if self._lost is not None and self.taken < len(entries):
            if entries[self.taken].cursor <= self._lost:
                # The mark's author is gone, and the predecessor went on: ids never go back unsaid.
                reset = _reset(entries[: self.taken])
            self._lost = None
        return reset

    def hints(self) -> Sequence[Position | Progress | Forgotten]:
        """Return what is to be said once all entries are taken, and notice the end."""
        feed, terminal = self._feed, self._fold.terminal
        if terminal or feed.forgotten:
            self.over = True
            return () if terminal else (Forgotten(),)  # after the end comes nothing, not even a hint
        hints: list[Position | Progress | Forgotten] = []
        if feed.position != self._position:
            self._position = feed.position
            if feed.position is not None:
                hints.append(Position(feed.position))
        if feed.progress != self._progress:
            self._progress = feed.progress
            if feed.progress is not None:
                hints.append(Progress(*feed.progress))
        return hints


async def follow(feed: Feed, after: Cursor) -> AsyncIterator[Batch]:
    """Yield what came since the last time, as often as there is something, until a terminal event or ``Forgotten``.

    Args:
        feed: loaded.
        after: as in ``Follower``.

    Raises:
        LogUnreadable: after what could be read of the log.

    Cancelling it stops nothing but itself.
    """
    follower, changed = Follower(feed, after), asyncio.Event()
    feed.listen(changed.set)
    try:
        while not follower.over:
            changed.clear()
            reset = follower.rejoin()
            batch: list[Entry | Hint] = [] if reset is None else [reset]
            batch += feed.fold.entries[follower.taken :]
            follower.taken = len(feed.fold.entries)
            batch += follower.hints()
            if batch:
                yield batch
            elif feed.unreadable is not None:
                raise feed.unreadable
            elif not follower.over:
                await changed.wait()
    finally:
        feed.unlisten(changed.set)


def _common(seen: Sequence[Entry], entries: Sequence[Entry]) -> int:
    """Return how many entries both begin with."""
    common = 0
    while common < len(seen) and common < len(entries) and seen[common] == entries[common]:
        common += 1
    return common


def _has_text(entries: Sequence[Entry]) -> bool:
    return any(isinstance(entry.event, Output) for entry in entries)


def _reset(kept: Sequence[Entry]) -> Reset:
    """Return the reset to these entries, with the place of the last one.

    The follower's own last place may soon be right again, once the owner has sent anew what was lost, and whoever went
    on from there would miss what lies between.
    """
    outputs = outputs_of(kept)
    place = kept[-1].cursor if kept else START
    return Reset(len(outputs), "".join(output.text for output in outputs), place)
